"""Image LoRAs on tiny instances of the real classes: trained, worn in a fresh model, taken along.

What is trained is written and read as a person would: by `LoraBank` in another process's model, and
through `affect export` by diffusers' own `load_lora_weights`.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from adapters.emotion import CORE
from adapters.families import require
from adapters.lora import LoraBank
from studio.cli import run
from tests import tiny, tiny_video
from tests.test_training_batches import pictures
from training.config import ImageLora
from training.folder import Dataset
from training.image_lora import prepare, train

ANGER = CORE.index("anger")
SMALL = ImageLora(steps=2, batch=2, rank=2, resolution=32, rate=0.02, ema=0.0, save_every=100)
ENOUGH = 1e-3
"""Of a picture's 0..1 or a latent, by which two steps at this rate must move it."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return pictures(tmp_path_factory.mktemp("pictures"), 8)


def fresh(name: str) -> Any:
    return tiny_video.tiny_video(name) if name in tiny_video.FAMILIES else tiny.tiny(name)


def shown(pipe: Any, name: str) -> Tensor:
    """What it makes of one prompt and seed: a picture, or a film's latents."""
    if name in tiny_video.FAMILIES:
        size = {"num_frames": 5, "height": 32, "width": 32, "num_inference_steps": 2}
        return tiny_video.film(pipe, name, **size)
    arguments = {**tiny.CALL[name], "prompt": "a quiet lake"}
    made: Tensor = pipe(generator=tiny.generators(1), **arguments).images
    return made


def trained(name: str, data: Dataset, out: Path, pipe: Any = None, **knobs: Any) -> Path:
    """The adapter of anger after two steps."""
    pipe = fresh(name) if pipe is None else pipe
    plain = {"height", "width", "num_frames", "num_inference_steps", "output_type"}
    known = tiny_video.CALL if name in tiny_video.FAMILIES else tiny.CALL
    call = {key: value for key, value in known[name].items() if key not in plain}
    length = call.get("max_sequence_length")
    options = {"max_sequence_length": length} if length else None
    settings = replace(SMALL, emotions="anger", **knobs)
    plan = prepare(pipe, data, settings, out=out, call=call, options=options)
    assert train(plan, out, base=name)["steps"] == 2
    return out / "anger.safetensors"


@pytest.mark.parametrize("name", ["sdxl", "sd3", "flux", "wan21"])
def test_an_adapter_is_worn_by_a_fresh_model_and_leaves_with_an_export(
    name: str, data: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = trained(name, data, tmp_path / "sliders")
    pipe = fresh(name)
    plain = shown(pipe, name)
    bank = LoraBank(tmp_path / "sliders")
    bank.load_into(pipe)
    track = np.zeros((1, len(CORE)))
    track[0, ANGER] = 1.0
    with bank.steer(pipe, track):
        worn = shown(pipe, name)
    with bank.steer(pipe, track, strength=0.0):
        assert torch.equal(shown(pipe, name), plain)
    with bank.steer(pipe, track * 0):
        assert torch.equal(shown(pipe, name), plain)
    assert (worn - plain).abs().max() > ENOUGH
    bank.unload(pipe)
    assert torch.equal(shown(pipe, name), plain)

    folder = tmp_path / "weights"
    pipe.save_pretrained(folder, safe_serialization=True)
    capsys.readouterr()
    for layout in ("diffusers", "kohya"):
        out = tmp_path / f"{layout}.safetensors"
        command = ["export", str(file), "--format", layout, "--out", str(out), "--no-strip",
                   "--backbone", str(folder), "--offline", "--json"]  # fmt: skip
        assert run(command) == 0
        (written,) = json.loads(capsys.readouterr().out)["adapters"]
        if layout == "kohya" and name != "sdxl":
            continue  # diffusers reads none of SD3, nor those of attention alone of Flux and Wan
        pipe.load_lora_weights(written)
        theirs = shown(pipe, name)
        pipe.unload_lora_weights()
        torch.testing.assert_close(theirs, worn, atol=2e-4, rtol=1e-3)


def tensors(file: Path) -> dict[str, Tensor]:
    return {key: value.float() for key, value in load_file(file).items()}


@pytest.mark.parametrize("name", ["sdxl", "sd3", "flux", "wan21"])
def test_recomputed_activations_train_the_same_adapter(
    name: str, data: Dataset, tmp_path: Path
) -> None:
    one = tensors(trained(name, data, tmp_path / "plain"))
    pipe, calls = fresh(name), []
    denoiser = getattr(pipe, require(pipe, "lora").denoiser)
    enable = denoiser.enable_gradient_checkpointing

    def counted() -> None:
        calls.append(1)
        enable()

    denoiser.enable_gradient_checkpointing = counted
    two = tensors(trained(name, data, tmp_path / "less", pipe, checkpointing=True))
    assert calls == [1]
    assert not denoiser.is_gradient_checkpointing
    assert one.keys() == two.keys()
    assert any(value.abs().max() > 0 for key, value in one.items() if "lora_B" in key)
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, atol=1e-3, rtol=1e-3)  # half precision files


@pytest.mark.parametrize("name", ["sdxl", "flux", "wan21"])
def test_a_run_in_bfloat16_learns_what_one_in_float32_does(
    name: str, data: Dataset, tmp_path: Path
) -> None:
    one = tensors(trained(name, data, tmp_path / "whole"))
    two = tensors(trained(name, data, tmp_path / "half", bf16=True))
    assert one.keys() == two.keys()
    assert all(bool(value.isfinite().all()) for value in two.values())
    ups = [key for key in one if "lora_B" in key]
    whole, half = (torch.cat([found[key].flatten() for key in ups]) for found in (one, two))
    assert not torch.equal(whole, half)
    # Two steps of AdamW go by the signs of gradients, some of which rounding turns; chance is 0.
    assert torch.nn.functional.cosine_similarity(whole, half, dim=0) > 0.5
