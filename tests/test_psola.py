"""Marks on every period, and grains that add up: exactly where nothing is asked, near elsewhere."""

from __future__ import annotations

import numpy as np
import pytest

from adapters.f0 import RATE, track
from pipelines import psola
from tests import speech


def changed(
    x: np.ndarray, semitones: float = 0.0, stretch: float = 1.0
) -> tuple[np.ndarray, psola.Marks]:
    marks = psola.pitch_marks(x, track(x).f0)
    end = np.array([0.0, len(x) / RATE])
    plan = psola.plan(marks, np.full(len(marks), 2 ** (semitones / 12)), (end, end * stretch))
    return psola.lay(x[None], RATE, marks, plan, round(len(x) * stretch))[0], marks


def heard(x: np.ndarray) -> float:
    """Median pitch of the inner frames."""
    f0 = track(x).f0[8:-8]
    return float(np.median(f0[f0 > 0]))


def test_marks_are_on_the_periods() -> None:
    pitch = speech.glide(110, 220, 1.0)
    x = speech.voiced(pitch, breath=0.01)
    marks = psola.pitch_marks(x, track(x).f0)
    at = marks.at[marks.voiced]
    inner = (at[:-1] > 0.03) & (at[1:] < 0.97)
    period = np.diff(at)[inner]
    true = 1 / np.interp((at[1:] + at[:-1])[inner] / 2, np.arange(16000) / RATE, pitch)
    assert np.abs(period / true - 1).max() < 0.01, "a whole sample would be 1.4 % at 220 Hz"
    # the pulses of this voice are where its cosines meet: at whole cycles
    cycle = np.interp(at[2:-2] * RATE, np.arange(16000), np.cumsum(pitch) / RATE)
    off = np.abs(cycle - np.rint(cycle))
    assert np.median(off) < 0.06


def test_marks_cover_all_of_the_sound() -> None:
    x = speech.sentence()
    marks = psola.pitch_marks(x, track(x).f0)
    assert marks.at[0] == 0
    assert marks.at[-1] == pytest.approx(len(x) / RATE)
    assert (np.diff(marks.at) > 0).all()
    assert np.diff(marks.at).max() < 0.03


@pytest.mark.parametrize("samples", [1, 50, 400, 5000])
def test_scraps_and_silence_pass(samples: int) -> None:
    x = np.zeros(samples, np.float32)
    assert not changed(x, 4, 1.5)[0].any()
    x = speech.hiss(samples + 10)[:samples]
    assert np.isfinite(changed(x, 4, 1.5)[0]).all()


def test_nothing_asked_gives_the_source_back() -> None:
    x = speech.sentence()
    assert np.abs(changed(x)[0] - x).max() < 1e-6


@pytest.mark.parametrize("semitones", [-7, -4, -0.5, 1, 4, 6, 12])
def test_pitch_lands_where_it_is_asked(semitones: float) -> None:
    x = speech.voiced(speech.glide(150, 170, 1.0))
    found = 12 * np.log2(heard(changed(x, semitones)[0]) / heard(x))
    assert found == pytest.approx(semitones, abs=0.1)


@pytest.mark.parametrize("stretch", [0.6, 0.85, 1.2, 2.0])
def test_time_moves_and_pitch_does_not(stretch: float) -> None:
    x = speech.sentence()
    y, _ = changed(x, 0, stretch)
    assert len(y) == round(len(x) * stretch)
    # every frame of the result against the frame of the source that it comes from
    before, after = track(x), track(y)
    place = np.arange(len(after.f0)) / stretch
    near = np.minimum(np.rint(place).astype(int), len(before.f0) - 1)
    both = (before.f0[near] > 0) & (after.f0 > 0)
    assert both.mean() > 0.9 * (before.f0 > 0).mean()
    assert np.median(np.abs(1200 * np.log2(after.f0[both] / before.f0[near][both]))) < 20


def test_formants_stay_when_the_pitch_rises() -> None:
    x = speech.voiced(speech.glide(120, 125, 1.0))
    y, _ = changed(x, 5)

    def formant(z: np.ndarray) -> float:
        """Centre of the power between 400 and 1,600 Hz."""
        power = np.abs(np.fft.rfft(z)) ** 2
        f = np.fft.rfftfreq(len(z), 1 / RATE)
        inside = (f > 400) & (f < 1600)
        return float((f * power)[inside].sum() / power[inside].sum())

    assert formant(y) == pytest.approx(formant(x), rel=0.06)


def test_hissing_is_copied_and_not_buzzed() -> None:
    """Stretched noise by the grain would repeat itself every 8 ms: it would have a pitch."""
    x = speech.hiss(16000)
    y, _ = changed(x, 0, 1.6)
    assert (track(y).f0 > 0).mean() < 0.02
    inner = y[2000:-2000].astype(np.float64)
    power = np.abs(np.fft.rfft(inner, 2 * len(inner))) ** 2
    correlation = np.fft.irfft(power)
    lags = slice(RATE // 500, RATE // 50)
    assert correlation[lags].max() / correlation[0] < 0.25
    assert np.std(inner) == pytest.approx(np.std(x), rel=0.1)


def test_other_rates_use_the_same_marks() -> None:
    rate = 44100
    x = speech.voiced(speech.glide(150, 160, 0.8, rate), rate)
    low = speech.voiced(speech.glide(150, 160, 0.8))
    marks = psola.pitch_marks(low, track(low).f0)
    end = np.array([0.0, 0.8])
    plan = psola.plan(marks, np.full(len(marks), 2 ** (3 / 12)), (end, end))
    y = psola.lay(np.stack([x, -x]), rate, marks, plan, len(x))
    assert np.array_equal(y[0], -y[1])
    spectrum = np.abs(np.fft.rfft(y[0] * np.hanning(len(x)), 8 * rate))
    # the lowest strong partial is the new fundamental
    f = np.fft.rfftfreq(8 * rate, 1 / rate)
    region = (f > 120) & (f < 260)
    assert f[region][spectrum[region].argmax()] == pytest.approx(155 * 2 ** (3 / 12), rel=0.04)


def test_averaging_neighbours_takes_noise_out() -> None:
    x = speech.voiced(speech.glide(150, 150, 1.0), breath=0.3)
    found = track(x)
    marks = psola.pitch_marks(x, found.f0)
    end = np.array([0.0, 1.0])
    plan = psola.plan(marks, np.ones(len(marks)), (end, end))
    clean = np.full(len(plan.source), 1 / 3)
    y = psola.lay(x[None], RATE, marks, plan, len(x), clean=clean)[0]
    inner = slice(8, -8)
    assert np.median(track(y).noise[inner]) < np.median(found.noise[inner]) - 2


def test_a_step_of_the_ratio_makes_no_click() -> None:
    x = speech.voiced(speech.glide(140, 140, 1.0), breath=0.0)
    marks = psola.pitch_marks(x, track(x).f0)
    end = np.array([0.0, 1.0])
    ratio = np.where(marks.at < 0.5, 1.0, 1.4)
    y = psola.lay(x[None], RATE, marks, psola.plan(marks, ratio, (end, end)), len(x))[0]
    bend = np.abs(np.diff(y, 2))
    assert bend.max() < 1.3 * np.abs(np.diff(x, 2)).max()
