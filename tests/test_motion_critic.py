"""The critic of facial motion: statistics, gradients, readings, files, what ships."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from adapters import facs
from adapters.emotion import CORE
from adapters.face_motion import CHANNELS, Motion, MotionError
from adapters.motion_critic import (
    CONFIG,
    KINDS,
    STATISTICS,
    MotionCritic,
    load_portrait_critic,
    rows_of,
    statistics,
)
from adapters.reading import soft_score


def showing(name: str, level: float = 0.9, frames: int = 45, fps: float = 30.0) -> Motion:
    """A face of the table, held."""
    muscles = level * facs.named(name) if level else np.zeros(len(facs.units()))
    curves, pose = facs.expression(np.tile(muscles, (frames, 1)))
    return Motion(curves.astype(np.float32), pose.astype(np.float32), fps)


def test_statistics_ignore_what_does_not_count() -> None:
    rows = torch.rand(2, 30, CHANNELS + 3, generator=torch.Generator().manual_seed(0))
    inside = torch.ones(2, 30)
    inside[:, 20:] = 0
    cut = statistics(rows[:, :20], torch.ones(2, 20))
    assert cut.shape == (2, STATISTICS)
    assert torch.allclose(statistics(rows, inside), cut, atol=1e-5)


@pytest.fixture(scope="module")
def shipped() -> MotionCritic:
    found = load_portrait_critic("critic-portrait")
    assert isinstance(found, MotionCritic)
    return found


@pytest.mark.parametrize("name", KINDS[1:])
def test_every_face_of_the_table_is_read(shipped: MotionCritic, name: str) -> None:
    found = shipped.kinds([showing(name)])[0]
    assert found.sum() == pytest.approx(1)
    assert KINDS[1 + int(found[1:].argmax())] == name


def test_rest_is_neutral_and_intensity_rises(shipped: MotionCritic) -> None:
    levels = (0.0, 0.25, 0.5, 0.75, 1.0)
    anger = [r.intensities[CORE.index("anger")] for r in
             shipped.read([showing("anger", level) for level in levels])]  # fmt: skip
    assert anger == sorted(anger)
    assert anger[0] < 0.1
    assert anger[-1] > 0.6
    assert shipped.read([showing("anger", 0.0)])[0].dominant == "neutral"


def test_readings_are_readings(shipped: MotionCritic) -> None:
    happy, sad, scorn = shipped.read([showing(n) for n in ("happiness", "sadness", "contempt")])
    for found in (happy, sad, scorn):
        assert sum(found.probabilities) == pytest.approx(1, abs=1e-6)
        assert found.reader == "critic-portrait"
        assert min(found.vad_variance) > 0
    assert happy.vad_mean[0] > 0.3 > -0.2 > sad.vad_mean[0]
    assert scorn.intensities[CORE.index("disgust")] > 0.3, "contempt is told as its mixture"
    target = np.eye(13)[1 + CORE.index("happiness")]
    assert soft_score(happy, target) > soft_score(sad, target)
    assert shipped.read([]) == []


def test_frame_rates_are_read_alike(shipped: MotionCritic) -> None:
    slow = shipped.kinds([showing("fear", frames=50, fps=25.0)])
    fast = shipped.kinds([showing("fear", frames=120, fps=60.0)])
    assert np.allclose(slow, fast, atol=0.02)


def test_over_time_a_change_is_seen(shipped: MotionCritic) -> None:
    calm, angry = showing("anger", 0.0, 45), showing("anger", 0.9, 45)
    both = Motion(np.concatenate([calm.curves, angry.curves]), np.zeros((90, 3), np.float32))
    times, over = shipped.read_over_time(both)
    assert len(times) == len(over) == 12
    assert over[0].dominant == "neutral"
    assert over[-1].dominant == "anger"
    with pytest.raises(MotionError, match="more than 0"):
        shipped.read_over_time(both, step=0.0)


def test_guidance_raises_what_it_climbs(shipped: MotionCritic) -> None:
    curves = torch.full((1, 30, CHANNELS), 0.05, requires_grad=True)
    pose = torch.zeros(1, 30, 3)
    place = 1 + CORE.index("surprise")
    before = shipped.log_probabilities(curves, pose)
    assert before.shape == (1, 13)
    assert float(before.exp().sum().detach()) == pytest.approx(1, abs=1e-4)
    before[0, place].backward()
    assert torch.isfinite(curves.grad).all()
    moved = (curves + 0.3 * curves.grad / curves.grad.norm() * 30**0.5).detach()
    assert shipped.log_probabilities(moved, pose)[0, place] > before[0, place]


def test_a_still_face_has_a_gradient(shipped: MotionCritic) -> None:
    curves = torch.zeros(1, 30, CHANNELS, requires_grad=True)
    shipped.log_probabilities(curves, torch.zeros(1, 30, 3))[0, 3].backward()
    assert torch.isfinite(curves.grad).all()


def test_noise_is_out_of_domain(shipped: MotionCritic) -> None:
    rng = np.random.default_rng(0)
    wild = Motion(rng.random((60, CHANNELS)).astype(np.float32), np.zeros((60, 3), np.float32))
    assert shipped.read([wild])[0].abstains
    assert not shipped.read([showing("happiness", 0.6)])[0].abstains


def test_reading_leaves_the_critic_as_it_was(shipped: MotionCritic) -> None:
    shipped.train()
    try:
        first = shipped.kinds([showing("awe")])
        assert shipped.training
        assert np.array_equal(first, shipped.kinds([showing("awe")])), "no dropout while reading"
    finally:
        shipped.eval()


def test_what_is_no_motion_is_refused(shipped: MotionCritic) -> None:
    with pytest.raises(MotionError, match="received ndarray"):
        shipped.read([np.zeros((10, 52))])  # type: ignore[list-item]


def test_a_critic_saved_is_the_same_critic(tmp_path: Path) -> None:
    critic = MotionCritic(width=8, members=2, label="mine").eval()
    critic.save_pretrained(tmp_path / "mine", safe_serialization=True)
    again = load_portrait_critic(tmp_path / "mine")
    assert isinstance(again, MotionCritic)
    assert (again.name, again.digest) == ("mine", critic.digest)
    assert not again.training
    (tmp_path / "mine" / CONFIG).write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        load_portrait_critic(tmp_path / "mine")


def test_rows_hold_the_head_in_twentieths_of_degrees() -> None:
    pose = np.tile(np.float32([10, -20, 0]), (9, 1))
    rows = rows_of(Motion(np.zeros((9, CHANNELS), np.float32), pose))
    assert rows.shape == (9, 55)
    assert rows[0, CHANNELS:].tolist() == [0.5, -1.0, 0.0]


def test_the_card_says_that_it_is_circular(shipped: MotionCritic) -> None:
    folder = Path(__file__).parents[1] / "assets" / "models" / "critic-portrait"
    assert "circular" in (folder / "README.md").read_text()
    figures = json.loads((folder / "figures.json").read_text())
    assert figures["digest"] == shipped.digest, "figures belong to these weights"
