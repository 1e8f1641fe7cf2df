"""What a critic prefers, learned: the loss of DiffusionNFT, the rounds, the judgement, resuming."""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from adapters.emotion import CORE
from adapters.families import require
from adapters.lora import LoraBank
from adapters.reading import Reading
from adapters.slider_file import read_metadata
from pipelines.painter import Painter
from studio.cli import run
from tests.test_lora import assert_same, snapshot
from tests.test_training_batches import pictures
from tests.test_training_image_lora import call_of, planned
from tests.tiny import tiny, tiny_folder
from training import image_lora
from training.config_distill import Distill
from training.denoising import Answers, DenoisingLoss
from training.distill import DistillError, distill, prompts_of
from training.distill_report import Judged, judged, layout, lines, nearest, sheet
from training.folder import Dataset
from training.negative_aware import NegativeAwareLoss, blended, wanted
from training.student import student

PROMPTS = (
    "a lake",
    "a city street",
    "a forest",
    "the sea",
    "a garden",
    "a room",
    "a dog",
    "a field",
)
SMALL = Distill(
    emotion="anger", rounds=1, n=2, steps=2, nft_rounds=1, nft_steps=2, rank=2, batch=2,
    sample_steps=2, resolution=32, judge=1, steered=False, device="cpu", rate=0.01,
)  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("\n".join(PROMPTS) + "\n\na lake\n")
    return path


def test_rewards_are_set_against_the_same_prompt() -> None:
    found = wanted([1.0, 3.0, 101.0, 103.0], ["a", "a", "b", "b"])
    np.testing.assert_allclose(found, [0, 1, 0, 1])
    assert wanted([2.0, 2.0], ["a", "b"]).tolist() == [0.5, 0.5]
    odd = wanted([0.0, 0.0, 0.0, 100.0, 1.0, 1.0], ["a"] * 4 + ["b"] * 2)
    assert odd.min() >= 0
    assert odd[3] == 1
    assert odd[4:].tolist() == [0.5, 0.5]


def gradients(
    pipe: Any, name: str, data: Dataset, tmp_path: Path, loss_of: Any, start: float
) -> tuple[list[torch.Tensor], dict[str, float]]:
    plan = planned(pipe, name, data, tmp_path, caption_dropout=0.0)
    denoiser = getattr(pipe, require(pipe, "lora").denoiser)
    batch = next(b for b in plan.batches if b["states"].any(1).all())
    ask = Answers(pipe, {batch["bucket"]}, call_of(name))
    generator = torch.Generator().manual_seed(5)
    names = ["contentment_in_training", "anger_in_training"]
    columns = [CORE.index("contentment"), CORE.index("anger")]
    with student(denoiser, names, rank=2, convs=False, generator=generator) as (found, weigh):
        with torch.no_grad():
            for k, parameter in enumerate(found):
                if k % 2:
                    parameter.fill_(start)
        loss = loss_of(pipe, ask, weigh, columns, min_snr=5.0)
        parts = loss.learn(batch, torch.Generator().manual_seed(7))
        return [p.grad.clone() for p in found if p.grad is not None], parts


@pytest.mark.parametrize("name", ["sdxl", "sd3", "flux"])
def test_a_good_sample_draws_as_the_ordinary_loss_and_a_bad_one_pushes_away(
    name: str, data: Dataset, tmp_path: Path
) -> None:
    """At the old policy the gradient is 2 r - 1 of the ordinary one, whatever beta is."""
    pipe = tiny(name)
    before = snapshot(pipe)
    plain, _ = gradients(pipe, name, data, tmp_path, DenoisingLoss, 0.01)
    assert max(float(g.abs().max()) for g in plain) > 0
    for reward, beta in ((1.0, 0.3), (0.0, 0.7), (0.5, 1.0)):
        rewards = np.full(len(data), reward)
        aware = functools.partial(NegativeAwareLoss, rewards=rewards, beta=beta)
        found, parts = gradients(pipe, name, data, tmp_path, aware, 0.01)
        assert parts["drift"] == 0
        for own, other in zip(found, plain, strict=True):
            torch.testing.assert_close(own, (2 * reward - 1) * other, rtol=2e-3, atol=1e-6)
    assert_same(snapshot(pipe), before)


def test_the_old_policy_stays_while_the_new_one_moves(data: Dataset, tmp_path: Path) -> None:
    pipe = tiny("sd15")
    plan = planned(pipe, "sd15", data, tmp_path / "plan", steps=4, rate=0.05, ema=0.0)
    seen: list[NegativeAwareLoss] = []
    begun: list[torch.Tensor] = []

    def loss_of(*given: Any, **more: Any) -> NegativeAwareLoss:
        count = len(plan.batches.dataset)
        seen.append(NegativeAwareLoss(*given, **more, rewards=np.ones(count), beta=0.5))
        begun.extend(p.detach().clone() for p in seen[0].now)
        return seen[0]

    image_lora.train(plan, tmp_path / "out", loss_of=loss_of)
    assert sum(bool((old == 0).all()) for old in begun) == len(begun) / 2  # the fresh ups
    assert all(torch.equal(a, b) for a, b in zip(begun, seen[0].old, strict=True))
    log = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    drift = [line["drift"] for line in log if "drift" in line]
    assert drift[-1] > 0


def test_the_next_policy_lies_between() -> None:
    old, new = {"a": torch.zeros(2)}, {"a": torch.ones(2).half()}
    assert blended(old, new, 0.25)["a"].tolist() == [0.75, 0.75]


def distilled(
    folder: Path, out: Path, prompts: Path, **more: Any
) -> tuple[dict[str, Any], list[str]]:
    said: list[str] = []
    settings = Distill(**{**SMALL.to_json(), "prompts": str(prompts), **more})
    painter = Painter.load(str(folder), device="cpu")
    before = snapshot(painter.pipe)
    try:
        return distill(painter, settings, out, base="tiny", resume=True, tell=said.append), said
    finally:
        assert_same(snapshot(painter.pipe), before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder("sd15", tmp_path_factory.mktemp("painter") / "tiny")


def test_rounds_end_in_an_adapter_and_go_on_where_they_stopped(
    folder: Path, tmp_path: Path, prompts: Path
) -> None:
    figures, said = distilled(folder, tmp_path / "whole", prompts)
    bank = LoraBank(tmp_path / "whole")
    assert bank.names == ("anger",)
    about = read_metadata(bank.files["anger"])
    assert about["recipe"] == "distill 1"
    assert about["critic"].startswith("critic-image ")
    assert about["backbone"] == "tiny"
    row = figures["emotions"]["anger"]
    assert (row["prompts"], row["pictures"], row["reader"]) == (2, 2, "reader-image")
    assert list(row["stages"]) == ["plain", "best of N", "then NFT"]
    assert row["stages"]["plain"]["reader"]["rise"] == (0.0, 0.0, 0.0)
    assert row["stages"]["plain"]["content"][0] == 1
    assert any("2 unseen prompts" in line for line in said)
    assert (tmp_path / "whole" / "anger.png").stat().st_size > 5000
    scores = (tmp_path / "whole/rounds/anger/round-1/scores.jsonl").read_text().splitlines()
    assert len(scores) == 12
    kept = {json.loads(line)["prompt"] for line in scores}
    assert kept == {0, 1, 2, 4, 5, 6}  # every fourth prompt is for the judgement

    stopped: list[str] = []

    def stop(line: str) -> None:
        stopped.append(line)
        if "DiffusionNFT" in line:
            raise KeyboardInterrupt

    settings = Distill(**{**SMALL.to_json(), "prompts": str(prompts)})
    painter = Painter.load(str(folder), device="cpu")
    with pytest.raises(KeyboardInterrupt):
        distill(painter, settings, tmp_path / "again", tell=stop)
    assert (tmp_path / "again" / "config.toml").is_file(), "to go on with"
    with pytest.raises(DistillError, match="holds a run that was stopped; pass --resume latest"):
        distill(painter, settings, tmp_path / "again")
    other = Distill(**{**settings.to_json(), "n": 3})
    with pytest.raises(DistillError, match="had other n; give the same"):
        distill(painter, other, tmp_path / "again", resume=True)
    distill(painter, settings, tmp_path / "again", resume=True)
    one, two = ((tmp_path / n / "anger.safetensors").read_bytes() for n in ("whole", "again"))
    assert one[-4096:] == two[-4096:]
    with pytest.raises(DistillError, match="holds finished adapters"):
        distill(painter, settings, tmp_path / "again", resume=True)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--emotion", "angr"], "did you mean anger"),
        (["--critic", "reader-image"], "is the one that reports"),
        (["--critic", "nobody"], "critic: nobody not found"),
        (["--prompts", "/nowhere.txt"], "cannot be read as UTF-8"),
        (["--n", "1"], "n"),
        (["--resume", "7"], "resume: allowed latest"),
        (["--backbone", "music-tiny"], "music"),
    ],
)
def test_bad_input_is_one_line(
    more: list[str], told: str, tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["train", "distill", "--backbone", str(folder), "--out", str(tmp_path / "o"),
                *more]) == 2  # fmt: skip
    said = capsys.readouterr()
    assert told in said.err
    assert "Traceback" not in said.err
    assert said.out == ""


def test_a_loss_that_is_no_number_names_the_rate_that_may_be_changed(
    folder: Path, tmp_path: Path, prompts: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    (weights,) = (broken / "unet").glob("*.safetensors")
    tensors = load_file(weights)
    next(v for name, v in tensors.items() if name.endswith("to_q.weight"))[0, 0] = float("nan")
    save_file(tensors, weights, {"format": "pt"})
    settings = Distill(**{**SMALL.to_json(), "prompts": str(prompts)})
    with pytest.raises(DistillError, match=r"no number in round-1; .* another --out .* --rate"):
        distill(Painter.load(str(broken), device="cpu"), settings, tmp_path / "out")


def test_the_command_tells_what_it_would_do(
    tmp_path: Path, folder: Path, prompts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", "distill", "--backbone", str(folder), "--prompts", str(prompts)]
    assert run([*command, "--dry-run", "--out", str(tmp_path / "o")]) == 0
    said = capsys.readouterr()
    assert "from 102 pictures of 6 prompts and judged on 2 others" in said.err
    assert "nft_rounds = 2" in said.out
    assert not (tmp_path / "o").exists()


def test_prompts_are_few_or_enough(tmp_path: Path) -> None:
    path = tmp_path / "p.txt"
    path.write_text("a\nb\na\n")
    with pytest.raises(DistillError, match="holds 2 different ones, 8 or more"):
        prompts_of(str(path), "rich")
    assert len(prompts_of("", "image-tiny")) >= 24
    assert len(prompts_of("", "rich")) >= 24


def reading(p: float, valence: float, name: str) -> Reading:
    shares = np.full(13, (1 - p) / 12)
    shares[1 + CORE.index("sadness")] = p
    return Reading(tuple(shares), tuple(shares[1:]), (valence, 0.0, 0.0), (0.1,) * 3, 0.5, name)


def painted(seed: int, light: float = 1.0) -> Image.Image:
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (4, 4, 3)).astype(np.uint8)
    large = Image.fromarray(blocks).resize((64, 64), Image.Resampling.BICUBIC)
    return large.point(lambda v: v * light)


def test_figures_tell_a_mood_from_another_picture() -> None:
    prompts, seeds = ["a", "a", "b", "b", "c", "c"], [0, 1] * 3
    plain = [painted(k) for k in range(6)]
    darker, others = [painted(k, 0.5) for k in range(6)], [painted(9)] * 6
    looks = np.stack([layout(p) for p in plain])
    assert nearest(np.stack([layout(p) for p in darker]), looks, prompts, seeds).mean() == 1
    assert nearest(np.stack([layout(p) for p in others]), looks, prompts, seeds).mean() < 0.5

    def stage(shown: list[Image.Image], a: float, b: float) -> Judged:
        critic, reader = ([reading(p, -p, n)] * 6 for p, n in ((a, "A"), (b, "B")))
        return Judged(prompts, seeds, shown, critic, reader)

    seen = {"plain": stage(plain, 0.2, 0.2), "good": stage(darker, 0.5, 0.4),
            "hacked": stage(others, 0.9, 0.2)}  # fmt: skip
    found = judged(seen, "sadness", "A", "B")
    good, hacked = found["stages"]["good"], found["stages"]["hacked"]
    assert good["reader"]["rise"][0] == pytest.approx(0.2)
    assert good["reader"]["towards"][0] > 0
    assert hacked["reader"]["rise"][0] == 0
    assert hacked["gap"] == pytest.approx(0.7)
    assert hacked["diversity"] == 0
    assert good["content"][0] == 1
    assert found["content_chance"] == pytest.approx(1 / 3)
    assert "not shown to see more sadness" in lines(found, "sadness")[-1]
    assert sheet(seen, "sadness").size[0] > 600
