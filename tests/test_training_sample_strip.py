"""Strips of samples on the way, a critic's slope that ends a run, trackers; the run is the same."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from adapters.critic import load_critic
from adapters.emotion import CORE
from adapters.reading import LABELS, Reading
from pipelines import load
from pipelines.media import load_image
from tests.test_lora import assert_same, snapshot
from tests.test_training_batches import pictures
from tests.test_training_image_lora import SMALL, planned, tensors_of
from tests.test_training_loop import losses
from tests.tiny import tiny
from training.config import ImageLora
from training.folder import Dataset
from training.image_lora import prepare, train
from training.sample_strip import STRENGTHS, Looks, Sampler, slopes, strip, undisturbed
from training.tracking import Tracker, TrackerError, checked_name


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return pictures(tmp_path_factory.mktemp("pictures"))


def test_a_run_is_bitwise_the_same_with_strips_and_without(data: Dataset, tmp_path: Path) -> None:
    knobs = {"steps": 4, "ema": 0.9, "sample_steps": 2, "rate": 0.01}
    with_strips, without = tmp_path / "with", tmp_path / "without"
    for out, more in ((with_strips, {"sample_every": 2, "tracker": "tensorboard"}),
                      (without, {"sample_every": 0, "tracker": "none"})):  # fmt: skip
        if more["tracker"] == "tensorboard" and not find_spec("tensorboard"):
            more["tracker"] = "none"
        torch.manual_seed(0)
        pipe = tiny("sd15")
        before = snapshot(pipe)
        train(planned(pipe, "sd15", data, out, **knobs, **more), out)
        assert_same(snapshot(pipe), before)
    assert losses(with_strips) == losses(without)
    one, two = tensors_of(with_strips), tensors_of(without)
    assert all(torch.equal(one[key], two[key]) for key in two)
    assert sorted(p.name for p in (with_strips / "samples").iterdir()) == [
        "step-00002.png", "step-00004.png"]  # fmt: skip
    assert not (without / "samples").exists()


@pytest.mark.parametrize("name", ["sd15", "flux"])
def test_a_strip_shows_what_the_strengths_do(name: str, data: Dataset, tmp_path: Path) -> None:
    """Strength 0 is the plain model's picture, the others are further away the further they go."""
    from tests.test_lora import paint
    from training.student import student

    pipe = tiny(name)
    part = pipe.unet if name == "sd15" else pipe.transformer
    generator = torch.Generator().manual_seed(0)
    call = planned(pipe, name, data, tmp_path).call
    with student(part, ["a", "b"], rank=2, convs=False, generator=generator) as (parts, weigh):
        for parameter in parts:
            parameter.data.normal_(0, 0.15, generator=generator)
        sampler = Sampler(pipe, ("anger", "awe"), weigh, "a lake", 2, call)
        rows, again = sampler.rows(3), sampler.rows(3)
    arrays = np.array([[np.asarray(p, dtype=float) for p in row] for row in rows])
    assert np.array_equal(arrays, np.array([[np.asarray(p, float) for p in r] for r in again]))
    assert np.array_equal(arrays[0, 2], arrays[1, 2])
    away = np.abs(arrays - arrays[:, 2:3]).mean(axis=(2, 3, 4))
    assert (away[:, [0, 1, 3, 4]] > 0).all()
    assert (away[:, 4] > away[:, 3]).all()
    assert not np.array_equal(arrays[0, 4], arrays[1, 4])
    assert paint(pipe, name, [1]) is not None  # nothing is left in the model that stops it


def test_painting_leaves_generators_and_scheduler_alone() -> None:
    pipe = tiny("sd15")
    torch.manual_seed(5)
    expected, scheduler = torch.rand(3), pipe.scheduler
    torch.manual_seed(5)
    with undisturbed(pipe):
        torch.rand(7)
        pipe.scheduler.set_timesteps(3)
    assert torch.equal(torch.rand(3), expected)
    assert pipe.scheduler is scheduler
    assert pipe.scheduler.num_inference_steps != 3


def test_a_strip_names_rows_and_columns() -> None:
    picture = Image.new("RGB", (40, 30), "#336699")
    sheet = strip([[picture] * 5, [picture] * 5], ("anger", "awe"), "a lake", "step 10, seed 0")
    array = np.asarray(sheet)
    assert array.shape[0] < array.shape[1]
    blue = (np.abs(array.astype(int) - (0x33, 0x66, 0x99)).sum(2) < 12).sum()
    assert 0.6 < blue / (10 * 144 * 108) < 1.05


class Told:
    """A reader whose intensities are those of a list; what a critic is asked is a real picture."""

    name = "told"

    def __init__(self, rise: Sequence[float], known: float = 0.5) -> None:
        self.rise, self.known, self.looks = list(rise), known, 0

    def read(self, images: Sequence[Image.Image]) -> list[Reading]:
        slope = self.rise[min(self.looks, len(self.rise) - 1)]
        strengths = np.resize(STRENGTHS, len(images))
        if len(images) >= len(STRENGTHS):
            self.looks += 1
        found = []
        for s in strengths:
            values = np.zeros(len(CORE))
            values[CORE.index("anger")] = 0.5 + slope * s / 2
            found.append(Reading((1 / len(LABELS),) * 13, tuple(values), (0,) * 3, (1,) * 3,
                                 self.known, self.name))  # fmt: skip
        return found


def looking(critic: Any, tmp_path: Path, said: list[str], **knobs: Any) -> Looks:
    settings = ImageLora(critic_every=1, sample_every=0, critic_seeds=2, **knobs)
    pipe = tiny("sd15")
    sampler = Sampler(pipe, ("anger",), lambda rows: None, "a lake", 1, {"height": 16, "width": 16})
    tracker = Tracker("none", tmp_path, {})
    return Looks(sampler, tmp_path, settings, tracker, said.append, critic)


def test_a_run_ends_when_the_slope_has_not_risen_for_some_looks(tmp_path: Path) -> None:
    said: list[str] = []
    looks = looking(Told([0.1, 0.3, 0.2, 0.3, 0.25]), tmp_path, said, patience=3)
    ended = [looks.take(step) for step in range(1, 6)]
    assert ended == [False, False, False, False, True]
    assert looks.seen == pytest.approx([0.05, 0.15, 0.1, 0.15, 0.125])
    assert "ended, the slope has not risen for 3 looks (most +0.150)" in said[-1]


def test_a_critic_that_cannot_read_the_pictures_ends_nothing(tmp_path: Path) -> None:
    said: list[str] = []
    looks = looking(Told([0.3, 0.1, 0.1], known=0.0), tmp_path, said, patience=1)
    assert not any(looks.take(step) for step in range(1, 4))
    assert "told cannot read what this model paints; its slope ends nothing" in said[0]
    assert looks.seen == []


def test_a_slope_is_that_of_least_squares() -> None:
    picture = Image.new("RGB", (8, 8))
    found = slopes(Told([0.4]), [[[picture] * 5]] * 2, ("anger",))
    assert found == pytest.approx([0.2])


def test_a_real_critic_ends_a_run_and_a_checkpoint_knows_its_looks(
    data: Dataset, tmp_path: Path
) -> None:
    """A rate of nearly nothing: the slope stays where it is."""
    said: list[str] = []
    knobs = {
        "steps": 8,
        "critic_every": 2,
        "critic_seeds": 1,
        "patience": 1,
        "sample_steps": 1,
        "sample_every": 0,
        "rate": 1e-7,
        "save_every": 1,
        "tracker": "none",
        "keep": 9,
    }
    pipe = load("image-tiny", device="cpu")
    settings = SMALL.parse({**SMALL.to_json(), **knobs, "resolution": 64})
    figures = train(prepare(pipe, data, settings, out=tmp_path), tmp_path, base="image-tiny",
                    tell=said.append)  # fmt: skip
    text = "\n".join(said)
    assert figures["steps"] == 4
    assert "step 4: ended, the slope has not risen for 1 looks" in text
    assert f"step 2: {load_critic('critic-image').name} reads " in text


# Trackers ----------------------------------------------------------------------------------------


@pytest.mark.skipif(not find_spec("tensorboard"), reason="tensorboard is not installed")
def test_tensorboard_is_told_scalars_and_the_strip(data: Dataset, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(planned(tiny("sd15"), "sd15", data, tmp_path, steps=12, sample_every=10, sample_steps=1),
          tmp_path)  # fmt: skip
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert {"loss", "rate", "samples_per_second"} <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("loss")] == [10, 12]
    (shown,) = events.Images("samples")
    written = load_image(tmp_path / "samples" / "step-00010.png")
    assert (shown.width, shown.height) == written.size
    curve = losses(tmp_path)
    assert events.Scalars("loss")[0].value == pytest.approx(
        np.mean([curve[step] for step in range(1, 11) if step in curve]), rel=1e-5)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "told"),
    [("mlflow", "tracker: allowed tensorboard, trackio, wandb, none"),
     ("wandb", "tracker: wandb is not installed; `pip install wandb`")],
)  # fmt: skip
def test_a_tracker_that_is_not_there_is_one_line(name: str, told: str) -> None:
    if find_spec(name):
        pytest.skip(f"{name} is installed")
    with pytest.raises(TrackerError) as error:
        checked_name(name)
    assert told in str(error.value)


def test_no_tracker_writes_nothing(tmp_path: Path) -> None:
    tracker = Tracker("none", tmp_path, {})
    tracker.start(0)
    tracker.log({"loss": 1.0}, 1)
    tracker.finish()
    assert list(tmp_path.iterdir()) == []
