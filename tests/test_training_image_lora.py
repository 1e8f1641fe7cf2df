"""LoRA from labelled pictures: the loss of the family, the weight of the label, resumed exactly."""

from __future__ import annotations

import json
import math
import os
import signal
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from adapters.emotion import CORE
from adapters.families import require
from adapters.lora import LoraBank
from adapters.slider_file import read_metadata
from tests.test_lora import assert_same, paint, snapshot
from tests.test_training_batches import pictures
from tests.tiny import CALL, FAMILIES, generators, tiny
from training.checkpoints import Checkpoints
from training.config import ImageLora
from training.denoising import Answers, DenoisingLoss, with_text
from training.fit import FitError
from training.folder import DataError, Dataset
from training.image_lora import (
    LoraError,
    Plan,
    held_figures,
    prepare,
    train,
)
from training.loop import stopping
from training.student import noised, student

SMALL = ImageLora(steps=4, batch=2, rank=2, resolution=32, rate=1e-3, save_every=2)
ANGER, CONTENT = CORE.index("anger"), CORE.index("contentment")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return pictures(tmp_path_factory.mktemp("pictures"))


def call_of(name: str) -> dict[str, Any]:
    return {k: v for k, v in CALL[name].items() if k not in ("num_inference_steps", "output_type")}


def planned(pipe: Any, name: str, data: Dataset, out: Path, **knobs: Any) -> Plan:
    length = CALL[name].get("max_sequence_length")
    options = {"max_sequence_length": length} if length else None
    settings = replace(SMALL, **knobs)
    return prepare(pipe, data, settings, out=out, call=call_of(name), options=options)


@pytest.mark.parametrize("name", FAMILIES)
def test_answers_are_what_the_pipeline_hands_its_scheduler(
    name: str, data: Dataset, tmp_path: Path
) -> None:
    """Cached text states, any bucket: the same prediction as the pipeline's own first step."""
    pipe = tiny(name)
    batches = planned(pipe, name, data, tmp_path, caption_dropout=0.0).batches
    batch = next(one for one in batches if one["bucket"][0] != one["bucket"][1])
    width, height = batch["bucket"]
    seen: list[tuple[Any, ...]] = []
    step = pipe.scheduler.step

    def listen(prediction: Any, t: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append((prediction, t, x))
        return step(prediction, t, x, *args, **kwargs)

    row = require(pipe, "lora")
    single = {row.scale_argument: 0.0} if row.scale_argument else {}
    given = {**call_of(name), **single, "height": height, "width": width}
    pipe.scheduler.step = listen
    count = len(batch["captions"])
    pipe(prompt=batch["captions"], generator=generators(*range(count)), num_inference_steps=2,
         output_type="latent", **given)  # fmt: skip
    prediction, t, x = seen[0]
    if name == "sdxl":  # Euler hands on x0 + sigma noise and divides for the model
        x = x / (pipe.scheduler.sigmas[0] ** 2 + 1) ** 0.5
    ask = Answers(pipe, {(width, height)}, call_of(name))
    with torch.no_grad():
        answer = ask(batch, x.float(), torch.full((count,), float(t)))
    assert x.shape == batch["latents"].shape
    torch.testing.assert_close(answer, prediction.reshape(answer.shape), atol=5e-5, rtol=5e-5)


@pytest.mark.parametrize("name", ["sd15", "sdxl", "sd3", "flux"])
def test_adapters_are_trained_and_steer(name: str, data: Dataset, tmp_path: Path) -> None:
    pipe = tiny(name)
    before, plain = snapshot(pipe), paint(pipe, name, [1])
    plan = planned(pipe, name, data, tmp_path, steps=3, rate=0.01, checkpointing=name == "flux",
                   accumulate=2)  # fmt: skip
    figures = train(plan, tmp_path / "out", base="tiny")
    assert_same(snapshot(pipe), before)
    assert figures["adapters"] == ["contentment", "anger"]
    assert not (tmp_path / "out" / ".checkpoint").exists()
    bank = LoraBank(tmp_path / "out")
    assert bank.names == ("contentment", "anger")
    assert read_metadata(bank.files["anger"])["emotion"] == "anger"
    assert read_metadata(bank.files["anger"])["recipe"] == 2
    bank.load_into(pipe)
    track = np.zeros((1, 12))
    track[0, ANGER] = 1.0
    with bank.steer(pipe, track):
        assert not torch.equal(paint(pipe, name, [1]), plain)
    with bank.steer(pipe, track * 0):
        torch.testing.assert_close(paint(pipe, name, [1]), plain)


def fitted(pipe: Any, data: Dataset, out: Path, **knobs: Any) -> tuple[dict[str, Any], list[float]]:
    figures = train(planned(pipe, "sd15", data, out, **knobs), out)
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return figures, [line["loss"] for line in log]


def test_a_run_learns_what_the_labels_say(data: Dataset, tmp_path: Path) -> None:
    """On random weights the loss falls where a label weighs, held-out pictures included."""
    figures, losses = fitted(
        tiny("sd15"), data, tmp_path, steps=50, rate=0.02, rank=8, batch=4, min_snr=0.0, hold=0.0
    )
    assert losses[-1] < losses[0]
    assert figures["held"] > 0
    assert figures["held_out_after"] < figures["held_out_before"]
    assert figures["gain"] > 0


def tensors_of(out: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return {f"{path.stem}.{k}": v.float() for path in sorted(out.glob("*.safetensors"))
            for k, v in load_file(path).items()}  # fmt: skip


def test_a_run_interrupted_at_step_10_ends_as_one_that_was_not(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    knobs = {"steps": 14, "save_every": 100, "ema": 0.9}
    train(planned(tiny("sd15"), "sd15", data, tmp_path / "a", **knobs), tmp_path / "a")
    pipe = tiny("sd15")
    plan = planned(pipe, "sd15", data, tmp_path / "b", **knobs)
    count, whole = [0], plan.batches._batch

    def pressed(*given: Any) -> Any:  # Ctrl-C while the tenth batch is fetched
        count[0] += 1
        if count[0] == 10:
            os.kill(os.getpid(), signal.SIGINT)
        return whole(*given)

    monkeypatch.setattr(plan.batches, "_batch", pressed)
    before, said = snapshot(pipe), []
    with pytest.raises(KeyboardInterrupt):
        train(plan, tmp_path / "b", tell=said.append)
    assert said[-1] == "stopped at step 10; pass --resume latest to go on"
    assert_same(snapshot(pipe), before)
    again = planned(pipe, "sd15", data, tmp_path / "b", **knobs)
    with pytest.raises(LoraError, match="pass --resume latest to go on"):
        train(again, tmp_path / "b")
    other = planned(pipe, "sd15", data, tmp_path / "b", **{**knobs, "rank": 3})
    with pytest.raises(LoraError, match="the stopped run had other rank"):
        train(other, tmp_path / "b", resume=True)
    train(again, tmp_path / "b", resume=True)
    one, two = tensors_of(tmp_path / "a"), tensors_of(tmp_path / "b")
    assert one.keys() == two.keys()
    assert any(value.abs().max() > 0 for key, value in one.items() if "lora_B" in key)
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, atol=1e-5, rtol=0)
    lines = [json.loads((tmp_path / k / "log.jsonl").read_text().splitlines()[-1]) for k in "ab"]
    assert lines[0]["step"] == lines[1]["step"] == 14


def test_a_loss_that_is_no_number_is_one_line_and_the_state_before_it_is_kept(
    data: Dataset, tmp_path: Path
) -> None:
    plan = planned(tiny("sd15"), "sd15", data, tmp_path, steps=6)
    plan.batches.prepare()
    whole, count = plan.batches._batch, [0]

    def broken(*given: Any) -> Any:
        count[0] += 1
        batch = whole(*given)
        return {**batch, "latents": batch["latents"] * math.nan} if count[0] == 4 else batch

    plan.batches._batch = broken  # type: ignore[method-assign]
    with pytest.raises(
        FitError, match=r"no number at step 4; .*--resume latest with a lower --rate"
    ) as e:
        train(plan, tmp_path)
    assert "\n" not in str(e.value)
    assert Checkpoints(tmp_path / ".checkpoint").steps() == [2, 3]
    meta = json.loads((tmp_path / ".checkpoint" / "step-000003" / "meta.json").read_text())
    assert meta["step"] == 3
    assert meta["batches"]["position"] == 3
    slower = planned(tiny("sd15"), "sd15", data, tmp_path, steps=6, rate=1e-4)
    assert train(slower, tmp_path, resume=True)["steps"] == 6


def loss_of(pipe: Any, data: Dataset, tmp_path: Path, weigh: Any, **knobs: Any) -> Any:
    plan = planned(pipe, "sd15", data, tmp_path, batch=16)
    ask = Answers(pipe, {how.bucket for how in plan.batches.fits}, plan.call)
    return plan, DenoisingLoss(pipe, ask, weigh, [ANGER, CONTENT], **knobs)


def test_an_adapter_learns_from_its_own_emotion_alone(data: Dataset, tmp_path: Path) -> None:
    """Anger's matrices get no gradient from contentment; neutral pictures teach by holding only."""
    pipe = tiny("sd15")
    generator = torch.Generator().manual_seed(0)
    names = ["a_in_training", "c_in_training"]
    with student(pipe.unet, names, rank=2, convs=False, generator=generator) as (parts, weigh):
        with torch.no_grad():
            for parameter in parts:
                parameter.normal_(generator=generator)
        plan, loss = loss_of(pipe, data, tmp_path, weigh, hold=0.0)
        _, holding = loss_of(pipe, data, tmp_path, weigh, hold=1.0)
        batch = next(plan.batches)
        moved = {}
        for name, column in (("anger", ANGER), ("contentment", CONTENT), ("neutral", None)):
            states = torch.zeros_like(batch["states"])
            if column is not None:
                states[:, column] = 0.8
            for kind, one in (("loss", loss), ("hold", holding)):
                one.learn({**batch, "states": states}, generator)
                owners = {names[k % 4 // 2] for k, p in enumerate(parts) if p.grad is not None
                          and p.grad.abs().max() > 0}  # fmt: skip
                moved[name, kind] = {owner[0] for owner in owners}
                for parameter in parts:
                    parameter.grad = None
    assert moved["anger", "loss"] == moved["anger", "hold"] == {"a"}
    assert moved["contentment", "loss"] == {"c"}
    assert moved["neutral", "loss"] == set()
    assert moved["neutral", "hold"] <= {"a", "c"}
    assert moved["neutral", "hold"]


def test_weights_of_times_are_those_of_min_snr(data: Dataset, tmp_path: Path) -> None:
    pipe = tiny("sd15")
    _, loss = loss_of(pipe, data, tmp_path, lambda rows: None, min_snr=5.0)
    t = torch.tensor([0, 400, 999])
    abar = pipe.scheduler.alphas_cumprod[t].double()
    snr = abar / (1 - abar)
    expected = torch.minimum(snr, torch.full_like(snr, 5.0)) / snr
    torch.testing.assert_close(loss._importance(t), expected.float())
    assert loss._importance(t)[0] < 0.01
    loss.min_snr = 0.0
    assert bool((loss._importance(t) == 1).all())


def test_what_a_flow_predicts_leads_from_noise_to_the_picture() -> None:
    pipe = tiny("sd3")
    clean, noise = torch.randn(2, 3, 4, 4, 4)
    x, t = noised(pipe.scheduler, clean, noise, torch.tensor([0.2, 0.5, 0.9]))
    sigma = (t / 1000).view(-1, 1, 1, 1)
    torch.testing.assert_close(x - sigma * (noise - clean), clean)


def test_what_cannot_be_trained_is_refused_before_anything_is_made(
    data: Dataset, tmp_path: Path
) -> None:
    pipe, out = tiny("sd15"), tmp_path / "out"
    for knobs, told in (
        ({"emotions": "awe"}, r"no picture of .* shows awe; it has contentment, anger"),
        ({"emotions": "anger,awe"}, "shows awe"),
    ):
        with pytest.raises(LoraError, match=told):
            planned(pipe, "sd15", data, out, **knobs)
    with pytest.raises(DataError, match="multiples of 8"):
        planned(pipe, "sd15", data, out, resolution=33)
    assert not out.exists()


@pytest.mark.skipif(find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
def test_eight_bits_need_their_library(data: Dataset, tmp_path: Path) -> None:
    """Told before anything is encoded."""
    with pytest.raises(LoraError, match="bitsandbytes is not installed"):
        planned(tiny("sd15"), "sd15", data, tmp_path, eight_bit=True)


def test_the_gain_is_as_sure_as_there_are_groups_of_pictures() -> None:
    """Ten near duplicates are one witness."""
    before = np.repeat(np.linspace(-1, 1, 6), 10)[:, None] * [1.0, 1.0]
    after = np.zeros((60, 2))
    alone = held_figures(before, after, [str(k) for k in range(60)])
    grouped = held_figures(before, after, [str(k // 10) for k in range(60)])
    assert alone["gain"] == grouped["gain"]
    wide, narrow = (np.ptp(found["gain_interval"]) for found in (grouped, alone))
    assert wide > 2 * narrow
    assert held_figures(np.zeros((0, 2)), np.zeros((0, 2)), []) == {"held": 0}


class TooLarge(DenoisingLoss):
    """As a device that has too little memory."""

    def learn(self, *given: Any, **more: Any) -> dict[str, float]:
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 9 GiB")


def test_too_little_memory_is_one_line(data: Dataset, tmp_path: Path) -> None:
    pipe = tiny("sd15")
    before = snapshot(pipe)
    plan = planned(pipe, "sd15", data, tmp_path / "out")
    with pytest.raises(LoraError, match=r"memory: .* lower --batch") as told:
        train(plan, tmp_path / "out", loss_of=TooLarge)
    assert "\n" not in str(told.value)
    assert_same(snapshot(pipe), before)


def test_a_plan_tells_what_will_be_done(data: Dataset, tmp_path: Path) -> None:
    pipe = tiny("sd15")
    before = snapshot(pipe)
    lines = planned(pipe, "sd15", data, tmp_path / "out", steps=30, accumulate=2).lines()
    assert_same(snapshot(pipe), before)
    assert not (tmp_path / "out").exists()
    text = "\n".join(lines)
    assert "adapters: contentment, anger" in text
    assert "32 x 32" in text
    assert "30 steps of 4 pictures" in text
    assert "trainable parameters in the unet" in text


def test_ordinary_pictures_hold_whatever_they_are_labelled(data: Dataset, tmp_path: Path) -> None:
    other = pictures(tmp_path / "other", 8)
    plan = prepare(tiny("sd15"), data, SMALL, out=tmp_path, ordinary=other, call=call_of("sd15"))
    added = [s for s in plan.batches.dataset if s.path.is_relative_to(tmp_path / "other")]
    assert len(added) == 8
    assert not any(s.state.any() for s in added)


def test_signals_wait_for_the_step_and_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with stopping() as stopped:
        assert not stopped()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stopped()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def test_text_states_are_put_where_each_family_wants_them() -> None:
    batch = {"prompt_embeds": torch.ones(2, 3, 4), "pooled_prompt_embeds": torch.ones(2, 5)}
    named = {"encoder_hidden_states": torch.zeros(2, 3, 4), "timestep": torch.tensor(1),
             "added_cond_kwargs": {"text_embeds": torch.zeros(2, 5), "time_ids": 7}}  # fmt: skip
    changed = with_text(named, batch)
    assert changed["added_cond_kwargs"]["time_ids"] == 7
    assert changed["added_cond_kwargs"]["text_embeds"].all()
    assert changed["encoder_hidden_states"].all()
    assert not named["encoder_hidden_states"].any()
