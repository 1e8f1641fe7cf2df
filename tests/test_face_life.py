"""What a face does by itself: blinks that end, eyes that hold, accents where stress is."""

from __future__ import annotations

import numpy as np
import pytest

from adapters.face_life import (
    accents,
    blink_times,
    blinks,
    eased,
    glances,
    looks,
    wander,
)
from adapters.face_motion import ARKIT


def test_expressions_rise_faster_than_they_fade() -> None:
    track = np.zeros((180, 1))
    track[30:90] = 1.0
    made = eased(track, 30)[:, 0]
    up = np.flatnonzero(made > 0.63)[0] - 30
    down = np.flatnonzero((made < 0.37) & (np.arange(180) > 90))[0] - 90
    assert 3 <= up <= 7
    assert 1.8 * up < down <= 20
    assert 0 <= made.min() <= made.max() <= 1
    assert made[0] == 0


def test_a_constant_expression_is_there_from_the_first_frame() -> None:
    assert np.allclose(eased(np.full((10, 3), 0.7), 25), 0.7)


@pytest.mark.parametrize("rate", [10.0, 17.0, 26.0])
def test_blinks_are_as_often_as_asked(rate: float) -> None:
    minutes = 20
    times = blink_times(np.full(minutes * 1800, rate), 30, np.random.default_rng(0))
    assert len(times) / minutes == pytest.approx(rate, rel=0.15)
    gaps = np.diff([start for start, *_ in times])
    assert 0.35 < np.log(gaps).std() < 0.75  # log-normal, as people's are


@pytest.mark.parametrize("fps", [24.0, 25.0, 30.0, 60.0])
def test_every_blink_shuts_the_eye_and_is_over(fps: float) -> None:
    for seed in range(12):
        rng = np.random.default_rng(seed)
        closed = blinks(np.full(round(6 * fps), 40.0), fps, rng)
        assert closed[0] == closed[-1] == 0
        edges = np.diff(np.concatenate([[0], (closed > 0.02).astype(int), [0]]))
        for first, last in zip(np.flatnonzero(edges > 0), np.flatnonzero(edges < 0), strict=True):
            assert closed[first:last].max() > 0.97
            assert (last - first) / fps < 0.7


def test_no_rate_no_blink() -> None:
    assert not blinks(np.zeros(300), 30, np.random.default_rng(0)).any()


def test_eyes_rest_and_leap() -> None:
    made = glances(3000, 30, np.random.default_rng(3))
    speed = np.linalg.norm(np.diff(made, axis=0), axis=1) * 30
    assert np.median(speed) < 15  # degrees a second while they rest
    assert speed.max() > 60
    assert np.linalg.norm(made, axis=1).max() <= 14.01
    assert np.median(np.linalg.norm(made, axis=1)) < 2.5  # mostly on the camera
    assert not glances(100, 30, np.random.default_rng(0), amount=0.0).any()


def test_eyes_hold_against_the_head() -> None:
    head = np.stack([8 * np.sin(np.arange(300) / 30), np.zeros(300), np.zeros(300)], axis=1)
    quiet = glances(300, 30, np.random.default_rng(1), amount=0.01, head=head)
    assert np.corrcoef(quiet[:, 0], head[:, 0])[0, 1] < -0.99


def test_looks_turn_both_eyes_to_one_side() -> None:
    left = dict(zip(ARKIT, looks([[15.0, 0.0]])[0], strict=True))
    assert left["eyeLookOutLeft"] == left["eyeLookInRight"] == pytest.approx(0.5)
    assert left["eyeLookInLeft"] == left["eyeLookOutRight"] == 0
    down = dict(zip(ARKIT, looks([[0.0, -6.0]])[0], strict=True))
    assert down["eyeLookDownLeft"] == down["eyeLookDownRight"] == pytest.approx(0.2)


def test_accents_are_where_pitch_and_level_stand_out() -> None:
    frames = 180
    pitch, level = np.zeros(frames), np.zeros(frames)
    for at in (40, 100, 150):
        bump = np.exp(-0.5 * ((np.arange(frames) - at) / 3) ** 2)
        pitch += 5 * bump
        level += 8 * bump
    found = accents(pitch, np.ones(frames, bool), level, 30)
    peaks = np.flatnonzero((found[1:-1] > found[:-2]) & (found[1:-1] >= found[2:])) + 1
    assert sorted(peaks[found[peaks] > 0.5].tolist()) == pytest.approx([40, 100, 150], abs=2)
    assert found[70] == 0
    assert 0 <= found.min() <= found.max() <= 1
    assert not accents(pitch, np.zeros(frames, bool), level, 30).any()


def test_a_head_is_never_quite_still_and_never_hurried() -> None:
    made = wander(600, 30, np.random.default_rng(0))
    assert 0.4 < made.std() < 1.6
    assert np.abs(np.diff(made)).max() < 0.35
    assert len(wander(5, 30, np.random.default_rng(0))) == 5
