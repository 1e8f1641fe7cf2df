"""The pitch tracker against voices whose pitch is known."""

from __future__ import annotations

import numpy as np
import pytest

from adapters import f0
from tests import speech


def cents(found: np.ndarray, true: np.ndarray) -> np.ndarray:
    return 1200 * np.log2(found / true)


def at_frames(pitch: np.ndarray) -> np.ndarray:
    frames = 1 + len(pitch) // f0.HOP
    return pitch[np.minimum(np.arange(frames) * f0.HOP, len(pitch) - 1)]


@pytest.mark.parametrize(
    ("low", "high"), [(65, 65), (90, 180), (200, 110), (180, 420), (590, 300), (580, 580)]
)
def test_glides_are_followed_without_delay(low: float, high: float) -> None:
    pitch = speech.glide(low, high, 0.8)
    found = f0.track(speech.voiced(pitch))
    inner = slice(6, -6)
    error = cents(found.f0[inner], at_frames(pitch)[inner])
    assert (found.f0[inner] > 0).all()
    assert np.abs(error).max() < 40
    assert abs(np.median(error)) < 5, "an error of one sign is a delay"
    assert np.median(found.hnr[inner]) > 15


def test_frames_and_fields_belong_together() -> None:
    for samples in (1, 127, 128, 5000, 16000):
        found = f0.track(np.zeros(samples, np.float32))
        rows = (found.f0, found.strength, found.hnr, found.noise, found.level)
        assert {len(row) for row in rows} == {1 + samples // f0.HOP}
        assert not found.f0.any()


@pytest.mark.parametrize("decibels", [20, 10, 5])
def test_noise_costs_voicing_but_no_octaves(decibels: float) -> None:
    pitch = speech.glide(140, 210, 1.5)
    clean = speech.voiced(pitch)
    noise = np.random.default_rng(1).standard_normal(len(clean))
    noise *= np.sqrt(np.mean(clean**2) / 10 ** (decibels / 10))
    found = f0.track((clean + noise).astype(np.float32))
    voiced = found.f0 > 0
    assert voiced.mean() > 0.9
    assert np.abs(cents(found.f0[voiced], at_frames(pitch)[voiced])).max() < 100


def test_noise_and_hiss_have_no_pitch() -> None:
    noise = 0.1 * np.random.default_rng(2).standard_normal(48000).astype(np.float32)
    assert (f0.track(noise).f0 > 0).mean() < 0.02
    assert (f0.track(speech.hiss(48000)).f0 > 0).mean() < 0.02


def test_octave_traps() -> None:
    """A fundamental that is missing, one half as strong again, and a formant on the second."""
    n = np.arange(24000)
    true = 150.0
    phase = 2 * np.pi * true * n / 16000
    missing = sum(np.cos(h * phase) / h for h in range(2, 12))
    second = 0.3 * np.cos(phase) + np.cos(2 * phase) + 0.2 * np.cos(3 * phase)
    second = second + 0.1 * np.cos(5 * phase)
    alternate = speech.voiced(np.full(24000, true)) * (1 + 0.06 * np.cos(phase / 2))
    for trap in (missing, second, alternate):
        found = f0.track((0.3 * trap / np.abs(trap).max()).astype(np.float32))
        inner = found.f0[8:-8]
        assert (inner > 0).all()
        assert np.abs(cents(inner, np.full(len(inner), true))).max() < 30


def test_creak_is_either_its_pitch_or_none() -> None:
    """Irregular pulses of 45-70 Hz: no frame may claim a normal voice an octave or more above."""
    rng = np.random.default_rng(3)
    x = np.zeros(24000)
    at = 100
    while at < 23000:
        ring = np.exp(-np.arange(400) / 60) * np.cos(2 * np.pi * 700 / 16000 * np.arange(400))
        x[at : at + 400] += rng.uniform(0.4, 1) * ring
        at += int(16000 / rng.uniform(45, 70))
    found = f0.track((0.4 * x).astype(np.float32))
    assert (found.f0 > 110).mean() < 0.1


def test_breath_is_heard_as_noise() -> None:
    pitch = speech.glide(130, 120, 0.8)
    measured = [
        np.median(f0.track(speech.voiced(pitch, breath=b)).noise[8:-8]) for b in (0.01, 0.2, 1.0)
    ]
    assert measured[0] + 4 < measured[1] < measured[2] - 2


def test_blocks_do_not_show() -> None:
    """9 s are read in two blocks; the second half alone gives the same numbers."""
    pitch = np.concatenate([speech.glide(110, 190, 4.608), speech.glide(190, 120, 4.608)])
    x = speech.voiced(pitch)
    whole = f0.track(x)
    half = f0.track(x[4 * 16000 :])
    offset = 4 * 16000 // f0.HOP
    assert np.allclose(whole.f0[offset + 8 : -8], half.f0[8:-8], rtol=1e-4)
    assert np.abs(np.diff(whole.f0[8:-8])).max() < 3


def test_the_louder_of_two_voices_is_followed() -> None:
    one = speech.voiced(speech.glide(110, 130, 1.0))
    two = 0.15 * speech.voiced(speech.glide(260, 230, 1.0))
    found = f0.track((one + two).astype(np.float32)).f0[8:-8]
    true = at_frames(speech.glide(110, 130, 1.0))[8:-8]
    good = (found > 0) & (np.abs(cents(np.maximum(found, 1), true)) < 100)
    assert good.mean() > 0.9
