"""A rate that is far too high: one line at the step it breaks, and a checkpoint that is whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.test_training_lora import PROMPTS, SMALL, call_of
from tests.test_training_music_lora import write_marches
from tests.test_training_portrait_lora import record
from tests.test_training_voice import recordings
from tests.tiny import tiny, tiny_composer, tiny_portrait, tiny_voice
from training import lora, music_lora, portrait_lora, voice_lora
from training.loop import LossError, clip_gradients

TOLD = r"^loss: no number at step \d+, .* a lower rate, in another folder$"
RATE = 1e25


def whole(checkpoint: Path) -> bool:
    """Whether every number that is kept is one."""
    files = sorted(checkpoint.glob("*.safetensors"))
    return all(
        bool(value.float().isfinite().all())
        for path in files
        for key, value in load_file(path).items()
        if key != "generator"
    )


def test_gradients_are_clipped_or_refused() -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    (weight.sum() * 5).backward()
    clip_gradients([weight], 0)
    assert weight.grad is not None
    assert float(weight.grad.norm()) == pytest.approx(1.0)
    for bad in (torch.nan, torch.inf):
        weight.grad = torch.full((3,), bad)
        with pytest.raises(LossError, match="no number at step 8"):
            clip_gradients([weight], 7)


def test_a_slider(tmp_path: Path) -> None:
    options = {"prompts": PROMPTS, "call": call_of("sd15"), "save_every": 1}
    knobs = {**SMALL, "lr": RATE, "steps": 6}
    with pytest.raises(LossError, match=TOLD):
        lora.train_slider(tiny("sd15"), "sadness", out=tmp_path, **options, **knobs)
    assert not (tmp_path / "sadness.safetensors").exists()
    assert json.loads((tmp_path / ".sadness.checkpoint" / "meta.json").read_text())["step"] >= 1
    assert whole(tmp_path / ".sadness.checkpoint")


def test_a_style_of_music(tmp_path: Path) -> None:
    data, weights = write_marches(tmp_path / "midi", 5), tiny_composer(tmp_path / "composer")
    settings = music_lora.Settings(steps=20, batch=1, check=1, rank=2, rate=RATE, patience=20)
    with pytest.raises(LossError, match=TOLD):
        music_lora.train_style(
            data, backbone=weights, out=tmp_path / "out", settings=settings, tell=lambda _: None
        )
    assert not (tmp_path / "out" / "adapter_model.safetensors").exists()
    assert whole(tmp_path / "out" / ".checkpoint")


def test_a_voice(tmp_path: Path) -> None:
    data, weights = recordings(tmp_path / "me"), tiny_voice(tmp_path / "voice")
    settings = voice_lora.LoraSettings(rank=2, steps=20, check=1, batch=2, crop=32, rate=RATE)
    with pytest.raises(LossError, match=TOLD):
        voice_lora.train_lora(
            data, backbone=weights, out=tmp_path / "out", settings=settings, tell=lambda _: None
        )
    assert not (tmp_path / "out" / voice_lora.CARD).exists()
    assert whole(tmp_path / "out" / "checkpoint")


def test_a_face(tmp_path: Path) -> None:
    record(tmp_path / "me", "one", 25.0)
    weights = tiny_portrait(tmp_path / "portrait")
    settings = portrait_lora.LoraSettings(rank=2, steps=20, check=1, batch=2, frames=32, rate=RATE)
    with pytest.raises(LossError, match=TOLD):
        portrait_lora.train_lora(
            tmp_path / "me", backbone=weights, out=tmp_path / "out", settings=settings,
            tell=lambda _: None,
        )  # fmt: skip
    assert not (tmp_path / "out" / portrait_lora.CARD).exists()
    assert whole(tmp_path / "out" / "checkpoint")
