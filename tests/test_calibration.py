"""Calibration on worlds whose response is known: it must return what was planted."""

from __future__ import annotations

import json

import numpy as np
import pytest

from adapters.calibration import (
    CONTROLLABLE_SD,
    LEVELS,
    SEEDS,
    Calibration,
    CalibrationError,
    Response,
    intensity_error,
    isotonic,
)
from adapters.emotion import CORE

NOISE = 0.15


def sigmoid_world(u):
    """A saturating response with f(0) = 0, f(1) = 1 and f(.5) = .76: off by .26 at the half."""
    raw = 1 / (1 + np.exp(-8 * (np.asarray(u, dtype=float) - 0.362)))
    low, high = (1 / (1 + np.exp(8 * 0.362)), 1 / (1 + np.exp(-8 * 0.638)))
    return (raw - low) / (high - low)


def sweep(rng, world=sigmoid_world, levels=LEVELS, seeds=SEEDS, noise=NOISE):
    return world(np.asarray(levels))[:, None] + rng.normal(0, noise, (len(levels), seeds))


def calibration(responses):
    return Calibration(
        responses=responses,
        backbone="toy",
        model="m" * 16,
        adapters="a" * 16,
        critic="planted:0",
        date="2026-11-20",
        params={"style": 1.0},
    )


@pytest.mark.parametrize(
    ("values", "weights", "expected"),
    [
        ([1, 2, 3], None, [1, 2, 3]),
        ([3, 2, 1], None, [2, 2, 2]),
        ([1, 3, 2, 4], None, [1, 2.5, 2.5, 4]),
        ([1, 3, 2, 4], [1, 3, 1, 1], [1, 2.75, 2.75, 4]),
        ([4, 1, 1, 5, 3], None, [2, 2, 2, 4, 4]),
    ],
)
def test_isotonic_by_hand(values, weights, expected):
    w = None if weights is None else np.array(weights)
    np.testing.assert_allclose(isotonic(np.array(values, float), w), expected)


def test_isotonic_agrees_with_scikit_learn():
    reference = pytest.importorskip("sklearn.isotonic")
    rng = np.random.default_rng(3)
    values, weights = rng.normal(size=40), rng.uniform(0.1, 2, 40)
    expected = (
        reference.IsotonicRegression().fit(np.arange(40), values, weights).predict(np.arange(40))
    )
    np.testing.assert_allclose(isotonic(values, weights), expected, atol=1e-9)


def test_half_means_half_in_a_synthetic_world():
    """7 levels x 16 seeds: |p(.5) - .5| from .26 to under .05, on average over 200 sweeps."""
    rng = np.random.default_rng(0)
    before = abs(sigmoid_world(0.5) - 0.5)
    after = [
        abs(sigmoid_world(Response.fit(LEVELS, sweep(rng)).gain(0.5)) - 0.5) for _ in range(200)
    ]
    assert 0.24 < before < 0.28
    assert np.mean(after) < 0.05
    assert np.quantile(after, 0.95) < 0.12


def test_more_seeds_help():
    rng = np.random.default_rng(1)

    def error(seeds):
        fits = [Response.fit(LEVELS, sweep(rng, seeds=seeds)) for _ in range(150)]
        return np.mean([abs(sigmoid_world(fit.gain(0.5)) - 0.5) for fit in fits])

    assert error(32) < error(4) / 1.8


def test_intensity_error_falls():
    rng = np.random.default_rng(2)
    before, after = [], []
    for _ in range(40):
        fit = Response.fit(LEVELS, sweep(rng))
        before.append(intensity_error(LEVELS, sweep(rng), fit))
        dials = fit.gain(np.array(LEVELS))
        after.append(intensity_error(LEVELS, sweep(rng, levels=dials), fit))
    assert np.mean(before) > 0.1
    assert np.mean(after) < 0.06


def test_gain_keeps_ends_order_and_sign():
    fit = Response.fit(LEVELS, sweep(np.random.default_rng(4)))
    asked = np.linspace(0, 1, 101)
    dial = fit.gain(asked)
    assert dial[0] == 0
    assert dial[-1] == 1
    assert np.all(np.diff(dial) > 0)
    np.testing.assert_allclose(fit.gain(-asked), -dial)
    assert fit.gain(1.3) == 1.3
    np.testing.assert_allclose(fit.response(dial), asked, atol=0.09)


def test_noise_and_range_are_the_planted_ones():
    rng = np.random.default_rng(5)
    readings = 0.1 + 0.6 * sweep(rng, seeds=400, noise=0.2)
    fit = Response.fit(LEVELS, readings)
    assert fit.noise == pytest.approx(0.12, rel=0.05)
    assert fit.range == pytest.approx(0.6, abs=0.03)
    assert fit.range_sd == pytest.approx(5, rel=0.08)
    # Seeds that differ from one another are noise of one reading, not of the dial.
    spread = rng.normal(0, 0.5, (1, 400))
    shifted = Response.fit(LEVELS, readings + spread)
    assert shifted.noise == pytest.approx(np.hypot(0.12, 0.5), rel=0.1)
    assert shifted.paired == pytest.approx(0.12, rel=0.05)


@pytest.mark.parametrize("scale", [0.0, -1.0, 0.3])
def test_a_dial_that_moves_less_than_its_noise_is_declared_and_not_stretched(scale):
    readings = scale * sweep(np.random.default_rng(6), noise=0.0)
    readings = readings + np.random.default_rng(7).normal(0, NOISE, readings.shape)
    fit = Response.fit(LEVELS, readings)
    assert fit.range_sd < CONTROLLABLE_SD
    assert not fit.controllable
    assert "not controllable" in fit.certificate()
    asked = np.linspace(0, 1, 11)
    np.testing.assert_array_equal(fit.gain(asked), asked)
    assert calibration({"fear": fit}).uncontrollable() == ("fear",)


def test_flat_stretches_invert_to_their_middle():
    readings = np.repeat(np.array([[0.0], [0.0], [0.5], [0.5], [0.5], [1.0], [1.0]]), 2, axis=1)
    fit = Response.fit(LEVELS, readings + np.array([[-1e-3, 1e-3]]))
    assert fit.gain(0.5) == pytest.approx(0.5)
    assert fit.gain(1e-6) < 0.01
    assert fit.gain(1.0) == 1.0


def test_track_gain_touches_only_swept_emotions():
    fit = Response.fit(LEVELS, sweep(np.random.default_rng(8)))
    track = np.full((2, len(CORE)), 0.5, dtype=np.float32)
    track[1] = 0
    dials = calibration({"sadness": fit}).gain(track)
    k = CORE.index("sadness")
    assert dials.dtype == np.float32
    assert dials[0, k] == pytest.approx(float(fit.gain(0.5)), abs=1e-6)
    np.testing.assert_array_equal(np.delete(dials[0], k), np.delete(track[0], k))
    np.testing.assert_array_equal(dials[1], 0)


def test_file_round_trip_and_no_leftovers(tmp_path):
    fit = Response.fit(LEVELS, sweep(np.random.default_rng(9)))
    saved = calibration({"awe": fit})
    path = saved.save(tmp_path / "deep" / "calibration.json")
    again = Calibration.load(path)
    assert again == saved
    assert again.fits("m" * 16, "a" * 16)
    assert not again.fits("other", "a" * 16)
    assert [p.name for p in path.parent.iterdir()] == ["calibration.json"]
    assert "certificate" in json.loads(path.read_text())["responses"]["awe"]


def test_later_sweeps_of_the_same_weights_add_up():
    fit = Response.fit(LEVELS, sweep(np.random.default_rng(10)))
    both = calibration({"awe": fit}).merged(calibration({"fear": fit}))
    assert set(both.responses) == {"awe", "fear"}


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": 99}', '{"format": 1, "responses": {"joy": {}}}']
)
def test_a_broken_file_is_one_line(tmp_path, text):
    path = tmp_path / "c.json"
    path.write_text(text)
    with pytest.raises(CalibrationError, match="calibrat") as caught:
        Calibration.load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("levels", "shape"),
    [(LEVELS, (6, 4)), (LEVELS, (7, 1)), ((0, 1), (2, 4)), ((0, 0.5, 0.9), (3, 4))],
)
def test_bad_sweeps_are_refused(levels, shape):
    with pytest.raises(CalibrationError):
        Response.fit(levels, np.zeros(shape))
    with pytest.raises(CalibrationError):
        Response.fit(LEVELS, np.full((7, 4), np.nan))
