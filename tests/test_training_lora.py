from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from adapters.emotion import CORE
from adapters.lora import LoraBank
from adapters.slider_file import read_metadata
from tests.test_lora import SAD, assert_same, denoiser_of, paint, snapshot, track
from tests.tiny import CALL, FAMILIES, generators, tiny, tiny_folder
from training.lora import (
    Prompts,
    SliderError,
    main,
    renorm,
    train_slider,
)
from training.replay import LatentsError, Replay, sample_latents
from training.student import adapted_layers

PROMPTS = Prompts(
    neutral=("a lake", "a street", "a house"),
    positive=("a dark cold lonely lake", "a gloomy street", "a sad house"),
    negative=("a bright warm happy lake", "a sunny street", "a festive house"),
    anchors=("a painting", "a photo of a dog"),
)
SMALL = {
    "steps": 6, "batch": 4, "pool": 16, "samples": 8, "sample_steps": 2, "lr": 1e-3,
}  # fmt: skip


def call_of(name: str) -> dict[str, Any]:
    return {k: v for k, v in CALL[name].items() if k not in ("num_inference_steps", "output_type")}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_replayed_call_is_the_pipelines_own(name: str) -> None:
    """Latents, time and text through Replay give what the pipeline's denoiser answered itself."""
    pipe = tiny(name)
    replay = Replay(pipe, PROMPTS.texts, call_of(name))
    seen: list[torch.Tensor] = []
    given: list[torch.Tensor] = []

    def keep(module: Any, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        sample = args[0] if args else kwargs["hidden_states"]
        given.append(torch.stack(list(sample)))
        seen.append(torch.stack(list(output[0])))

    handle = replay.denoiser.register_forward_hook(keep, with_kwargs=True)
    scale = {"flux": "true_cfg_scale", "qwen-image": "true_cfg_scale"}.get(name, "guidance_scale")
    texts = [PROMPTS.positive[1], PROMPTS.neutral[0]]
    options = {**call_of(name), scale: 0.0, "num_inference_steps": 3, "output_type": "latent"}
    pipe(prompt=list(texts), generator=generators(1, 2), **options)
    handle.remove()
    t = pipe.scheduler.timesteps[:1].float().expand(2)
    index = torch.tensor([PROMPTS.texts.index(text) for text in texts])
    with torch.no_grad():
        answer = replay(given[0], t, index)
    torch.testing.assert_close(answer, seen[0].reshape(answer.shape), atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("name", ["sd15", "z-image"])
def test_a_slider_learns_both_poles_and_the_pipeline_is_restored(name: str, tmp_path: Path) -> None:
    pipe = tiny(name)
    before = snapshot(pipe)
    plain = paint(pipe, name, [1])
    settings = {
        **SMALL,
        "steps": 60,
        "batch": 8,
        "pool": 24,
        "rank": 8,
        "lr": 3e-3,
        "anchor_weight": 0.0,
    }
    path = train_slider(
        pipe, "sadness", out=tmp_path, prompts=PROMPTS, call=call_of(name), **settings
    )
    assert_same(before, snapshot(pipe))
    assert torch.equal(paint(pipe, name, [1]), plain)
    facts = read_metadata(path)
    assert facts["emotion"] == "sadness"
    assert facts["eta"] == 3.5
    assert facts["explained"] > 0.2
    assert not (tmp_path / ".sadness.checkpoint").exists()

    # What it does to samples it was not shown: linear in the weight, along f+ - f-.
    replay = Replay(pipe, PROMPTS.texts, call_of(name))
    clean = sample_latents(
        pipe, PROMPTS.neutral, [91, 92, 93], call_of(name), steps=2, batch=3, painted={}
    )
    x = clean + 0.5 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(9))
    t, rows = torch.full((3,), 500.0), torch.arange(3)
    bank = LoraBank(tmp_path)
    bank.load_into(pipe)

    def answer(index: torch.Tensor, weight: float) -> torch.Tensor:
        with torch.no_grad(), bank.steer(pipe, track({SAD: weight})):
            return replay(x, t, index)

    push = answer(rows + 3, 0.0) - answer(rows + 6, 0.0)
    up, down = (answer(rows, s) - answer(rows, 0.0) for s in (1.0, -1.0))
    cosine = torch.nn.functional.cosine_similarity
    assert cosine(up.flatten(), down.flatten(), dim=0) < -0.3
    if name == "sd15":  # what a random transformer learns does not carry over to new samples
        assert cosine((up - down).flatten(), push.flatten(), dim=0) > 0.3
    half = answer(rows, 0.5) - answer(rows, 0.0)
    assert 0.35 < half.norm() / up.norm() < 0.65


def test_anchors_hold_the_slider_back_where_it_should_not_act(tmp_path: Path) -> None:
    pipe = tiny("sd15")
    moved = {}
    for weight in (0.0, 3.0):
        settings = {**SMALL, "steps": 25, "batch": 8, "anchor_weight": weight}
        out = tmp_path / str(weight)
        train_slider(pipe, "sadness", out=out, prompts=PROMPTS, call=call_of("sd15"), **settings)
        bank = LoraBank(out)
        bank.load_into(pipe)
        with bank.steer(pipe, track({SAD: 1.0})):
            steered = paint(pipe, "sd15", [1], prompt=["a painting"], guidance_scale=1.0)
        bank.unload(pipe)
        plain = paint(pipe, "sd15", [1], prompt=["a painting"], guidance_scale=1.0)
        moved[weight] = float((steered - plain).abs().mean())
    assert moved[3.0] < 0.8 * moved[0.0]


class Stop(Exception):
    pass


def test_a_stopped_run_resumes_to_the_same_slider(tmp_path: Path) -> None:
    options = {"prompts": PROMPTS, "call": call_of("sd15"), "save_every": 2, **SMALL}
    pipe = tiny("sd15")
    whole = train_slider(pipe, "sadness", out=tmp_path / "whole", **options)

    cut = tmp_path / "cut"
    before = snapshot(pipe)
    calls = 0

    def stop(*_: Any) -> None:
        nonlocal calls
        if torch.is_grad_enabled():
            calls += 1
            if calls == 6:
                raise Stop

    handle = pipe.unet.register_forward_hook(stop)
    with pytest.raises(Stop):
        train_slider(pipe, "sadness", out=cut, **options)
    handle.remove()
    assert_same(before, snapshot(pipe))
    checkpoint = cut / ".sadness.checkpoint"
    assert json.loads((checkpoint / "meta.json").read_text())["step"] == 4
    assert not (cut / "sadness.safetensors").exists()
    with pytest.raises(SliderError, match=r"started with other eta"):
        train_slider(pipe, "sadness", out=cut, **{**options, "eta": 1.0})
    resumed = train_slider(pipe, "sadness", out=cut, **options)
    first, second = load_file(whole), load_file(resumed)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)

    # Finished: not trained again, unless told to or asked for something else.
    stamp = resumed.stat().st_mtime_ns
    train_slider(pipe, "sadness", out=cut, **options)
    assert resumed.stat().st_mtime_ns == stamp
    train_slider(pipe, "sadness", out=cut, restart=True, **{**options, "steps": 2})
    assert read_metadata(resumed)["steps"] == 2


def test_a_run_that_is_interrupted_keeps_its_step_and_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"prompts": PROMPTS, "call": call_of("sd15"), "save_every": 100, **SMALL}
    pipe = tiny("sd15")
    whole = train_slider(pipe, "sadness", out=tmp_path / "whole", **options)
    calls = 0

    def press(*_: Any) -> None:  # Ctrl-C while the fourth step is taken
        nonlocal calls
        calls += torch.is_grad_enabled()
        if calls == 4:
            os.kill(os.getpid(), signal.SIGINT)
            calls += 1

    handle = pipe.unet.register_forward_hook(press)
    cut = tmp_path / "cut"
    with pytest.raises(KeyboardInterrupt):
        train_slider(pipe, "sadness", out=cut, **options)
    handle.remove()
    assert "stopped at step 4; the same command goes on" in capsys.readouterr().out
    meta = json.loads((cut / ".sadness.checkpoint" / "meta.json").read_text())
    assert meta["step"] == 4
    resumed = train_slider(pipe, "sadness", out=cut, **options)
    first, second = load_file(whole), load_file(resumed)
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_painted_samples_are_shared_between_sliders(tmp_path: Path) -> None:
    pipe = tiny("sd15")
    swapped = Prompts(PROMPTS.neutral, PROMPTS.negative, PROMPTS.positive, PROMPTS.anchors)
    painted: dict[Any, torch.Tensor] = {}
    options = {"out": tmp_path, "call": call_of("sd15"), "painted": painted, **SMALL, "steps": 1}
    train_slider(pipe, "sadness", prompts=PROMPTS, **options)
    known = set(painted)
    train_slider(pipe, "happiness", prompts=swapped, **options)
    assert set(painted) == known
    assert LoraBank(tmp_path).names == ("happiness", "sadness")


def test_own_latents_and_convs(tmp_path: Path) -> None:
    pipe = tiny("sd15")
    file = tmp_path / "latents.safetensors"
    save_file({"latents": torch.randn(3, 2, 4, 8, 8).half()}, file)
    path = train_slider(
        pipe, "fear", out=tmp_path / "out", prompts=PROMPTS, latents=file,
        call=call_of("sd15"), convs=True, **SMALL,
    )  # fmt: skip
    assert any(".conv1.lora_A" in key for key in load_file(path))
    assert read_metadata(path)["latents"] == "latents.safetensors"
    save_file({"latents": torch.randn(3, 4, 7, 7)}, file)
    with pytest.raises(LatentsError, match=r"holds \(3, 4, 7, 7\), the model needs"):
        train_slider(pipe, "fear", out=tmp_path / "no", prompts=PROMPTS, latents=file,
                     call=call_of("sd15"), **SMALL)  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_targets_are_exact_names_of_layers_that_see_the_picture(name: str) -> None:
    _, denoiser = denoiser_of(tiny(name))
    names = adapted_layers(denoiser, convs=True)
    modules = dict(denoiser.named_modules())
    assert all(target in modules for target in names)
    assert not [n for n in names if "add_" in n or "context_refiner" in n or "_added" in n]
    assert any(".conv1" in n for n in names) == (name in ("sd15", "sdxl"))


def test_renorm_keeps_energy_and_direction() -> None:
    x, like = torch.randn(2, 4, 3, 3) * 9 + 1, torch.randn(2, 4, 3, 3)
    y = renorm(x, like)
    torch.testing.assert_close(y.pow(2).mean((1, 2, 3)), like.pow(2).mean((1, 2, 3)))
    torch.testing.assert_close(
        y[0] / x[0], torch.full_like(x[0], float(y[0, 0, 0, 0] / x[0, 0, 0, 0]))
    )


@pytest.mark.parametrize("vocabulary", ["rich", "image-tiny"])
def test_built_in_prompts_cover_every_emotion(vocabulary: str) -> None:
    for emotion in CORE:
        prompts = Prompts.of(emotion, vocabulary)
        assert len(prompts.neutral) == len(prompts.positive) == len(prompts.negative) >= 8
        assert prompts.anchors
        assert all(a != b for a, b in zip(prompts.positive, prompts.negative, strict=True))


def test_one_line_errors(tmp_path: Path) -> None:
    pipe = tiny("sd15")
    with pytest.raises(SliderError, match="'joy' is not a core emotion"):
        train_slider(pipe, "joy", out=tmp_path)
    with pytest.raises(SliderError, match=r"rank: allowed 1 or more, received 0"):
        train_slider(pipe, "sadness", out=tmp_path, rank=0)
    with pytest.raises(SliderError, match="'guidance'"):  # a misspelt knob is never dropped
        train_slider(pipe, "sadness", out=tmp_path, guidance=4)
    with pytest.raises(SliderError, match="equally many"):
        train_slider(pipe, "sadness", out=tmp_path, prompts=Prompts(("a",), ("b",), ()))


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    assert "--anchor-weight" in capsys.readouterr().out
    folder = tiny_folder("sd15", tmp_path / "model")
    small = [f"--{key.replace('_', '-')}={value}" for key, value in SMALL.items()]
    main(["--backbone", str(folder), "--emotion", "fear", "--height=32", "--width=32",
          "--vocabulary=image-tiny", *small])  # fmt: skip
    assert (folder / "loras" / "fear.safetensors").is_file()
    lines = capsys.readouterr().out.splitlines()
    steps = SMALL["steps"]
    assert any(line.startswith(f"step {steps} of {steps}: loss ") for line in lines)
    with pytest.raises(SystemExit, match="2"):
        main(["--backbone", str(folder), "--emotion", "joy", *small])
