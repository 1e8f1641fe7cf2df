"""The sound of a film: loudness as BS.1770 defines it, ducking, peaks, no clicks."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.film_sound import (
    AHEAD,
    LOUDNESS,
    PEAK,
    RATE,
    TICK,
    Placed,
    ducking,
    limited,
    loudness,
    mix,
    peak,
)


def sine(seconds: float, level: float, hertz: float = 997.0) -> np.ndarray:
    """(1, samples) with a peak of `level` dB."""
    t = np.arange(round(seconds * RATE)) / RATE
    return (10 ** (level / 20) * np.sin(2 * np.pi * hertz * t)).astype(np.float32)[None]


def words(seconds: float = 2.0) -> np.ndarray:
    """Noise in syllables, as loud as speech, with peaks as speech has them."""
    rng = np.random.default_rng(0)
    t = np.arange(round(seconds * RATE)) / RATE
    return (rng.laplace(0, 0.05, len(t)) * np.sin(np.pi * t / 0.2) ** 2).astype(np.float32)[None]


@pytest.mark.parametrize(("channels", "wanted"), [(1, -20.0), (2, -20.0)])
def test_loudness_of_the_calibration_tone(channels: int, wanted: float) -> None:
    """A 997 Hz sine at 0 dB in one channel of two is -3.01 LUFS (BS.1770-4, annex 1)."""
    tone = np.repeat(sine(3, -20), channels, axis=0)
    assert loudness(tone) == pytest.approx(wanted, abs=0.05)
    left = np.concatenate([sine(3, 0), np.zeros_like(sine(3, 0))])
    assert loudness(left) == pytest.approx(-3.01, abs=0.05)
    assert loudness(np.zeros((2, RATE), dtype=np.float32)) == -np.inf


def test_low_tones_count_less_and_silence_not_at_all() -> None:
    assert loudness(sine(3, -20, 40)) < loudness(sine(3, -20)) - 3
    paused = np.concatenate([sine(2, -20), np.zeros((1, 4 * RATE), dtype=np.float32)], axis=1)
    assert loudness(paused) == pytest.approx(loudness(sine(2, -20)), abs=0.6)


def test_peaks_between_samples_are_found() -> None:
    t = np.arange(RATE)
    tone = np.sin(np.pi / 2 * t + np.pi / 4).astype(np.float32)[None]
    assert np.abs(tone).max() == pytest.approx(0.707, abs=1e-3)
    assert peak(tone[:, 1000:-1000]) == pytest.approx(0.0, abs=0.5)


def test_music_steps_back_ahead_of_the_words() -> None:
    spoken = np.zeros(6 * RATE, dtype=np.float32)
    spoken[2 * RATE : 4 * RATE] = words()[0]
    gain = ducking(spoken, 6.0, 12.0)
    at = np.arange(len(gain)) * TICK
    assert (gain[at < 2 - AHEAD - 0.05] == 0).all()
    assert (gain[(at > 2.0) & (at < 4.0)] < -11).all(), "down when the first word begins"
    assert gain[at > 5.5].min() > -1
    assert np.abs(np.diff(gain)).max() < 4, "dB in 10 ms"
    assert not ducking(np.zeros(RATE, dtype=np.float32), 1.0, 12.0).any()
    assert not ducking(spoken, 6.0, 0.0).any()


def test_a_mix_is_loud_enough_and_clips_nowhere() -> None:
    music = np.repeat(sine(8, -30, 330), 2, axis=0)
    done = mix(8.0, [Placed(words(), 3.0, speech=True)], music, duck=10, fade_out=0.5)
    assert done.waveform.shape == (2, 8 * RATE)
    assert LOUDNESS - 2.5 < done.loudness < LOUDNESS + 0.1
    assert done.peak <= PEAK + 1e-3
    assert loudness(done.waveform) == pytest.approx(done.loudness, abs=1e-6)
    level = [loudness(done.waveform[:, a * RATE : b * RATE]) for a, b in ((1, 2), (3, 5))]
    assert level[1] - level[0] == pytest.approx(9, abs=1.5), "dB of words over music"
    alone = mix(8.0, [], music)
    assert alone.peak <= PEAK + 1e-3
    assert not alone.gain.any()


def test_music_is_quieter_under_words() -> None:
    """A tone that is only in the music is weaker by what was asked."""
    music = np.repeat(sine(8, -30, 5000), 2, axis=0)
    quiet = (0.001 * words()).astype(np.float32)  # shares no band with the tone that counts

    def tone(sound: np.ndarray, second: float) -> float:
        part = sound[0, round(second * RATE) : round((second + 0.5) * RATE)]
        t = np.arange(len(part)) / RATE
        return float(np.abs((part * np.exp(-2j * np.pi * 5000 * t)).mean()))

    done = mix(8.0, [Placed(quiet, 3.0, volume=-30, speech=True)], music, duck=12).waveform
    assert 20 * np.log10(tone(done, 3.7) / tone(done, 1.0)) == pytest.approx(-12, abs=1.0)
    assert tone(done, 7.0) == pytest.approx(tone(done, 1.0), rel=0.05)


def test_nothing_clicks() -> None:
    """A tone that is cut in the middle of a wave begins and ends softly."""
    cut = sine(1.0, -6, 100)[:, 110:-110]
    done = mix(3.0, [Placed(cut, 1.0)]).waveform[0]
    steps = np.abs(np.diff(done))
    inside = steps[round(1.1 * RATE) : round(1.8 * RATE)].max()
    assert steps.max() <= 1.3 * inside
    beyond = mix(1.5, [Placed(cut, 1.0)]).waveform[0]
    assert abs(beyond[-1]) < 1e-3, "cut by the end of the film, and soft there too"


def test_nothing_heard_is_silence() -> None:
    done = mix(1.0, [])
    assert not done.waveform.any()
    assert done.loudness == -np.inf


def test_a_limiter_holds_peaks_and_leaves_the_rest() -> None:
    sound = np.repeat(sine(1.0, -12), 2, axis=0)
    assert limited(sound) is sound
    sound[:, RATE // 2] = 1.6
    held = limited(sound)
    assert np.abs(held).max() <= 10 ** (PEAK / 20) + 1e-6
    far = slice(0, RATE // 2 - round(0.02 * RATE))
    np.testing.assert_array_equal(held[:, far], sound[:, far])
