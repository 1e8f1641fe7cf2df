"""What the model of portraits hears: speech as it is, silence where nobody speaks."""

from __future__ import annotations

import numpy as np
import pytest

from adapters.voice_analysis import VoiceError
from pipelines.portrait_sound import BANDS, FEATURES, FPS, PARTS, SILENT, hear, padded, silence
from tests.speech import hiss, sentence

LEVEL = PARTS * BANDS + 3


def bands(features: np.ndarray) -> np.ndarray:
    return features[:, : PARTS * BANDS]


def test_frames_lie_on_the_clock_of_the_video() -> None:
    x = sentence()
    heard = hear(x)
    assert len(heard) == round(len(x) / 16000 * FPS)
    assert heard.features.shape == (len(heard), FEATURES)
    assert heard.features.dtype == np.float32
    level = bands(heard.features).mean(axis=1)
    loud = np.flatnonzero(level > level.min() + 0.5) / FPS
    assert loud[0] == pytest.approx(0.2, abs=0.1)  # where the first vowel begins
    assert loud[-1] == pytest.approx(1.75, abs=0.15)


def test_nobody_speaks_in_silence_and_noise() -> None:
    for x in (np.zeros(16000), hiss(16000), 0.01 * hiss(16000)):
        heard = hear(x)
        assert (heard.features == silence(30).features).all()
        assert not heard.speaking.any()
        assert not len(heard.dips)


def test_a_quiet_recording_is_heard_as_the_loud_one() -> None:
    x = sentence()
    near, far = hear(x), hear(0.05 * x)
    assert np.abs(bands(near.features) - bands(far.features)).mean() < 0.05
    assert np.abs(near.speaking - far.speaking).max() < 0.2


def test_speaking_follows_the_words() -> None:
    heard = hear(sentence())
    at = np.arange(len(heard)) / FPS
    assert heard.speaking[(at > 0.3) & (at < 0.9)].min() > 0.8
    assert heard.speaking[at < 0.05].max() < 0.3
    assert 0 <= heard.speaking.min() <= heard.speaking.max() <= 1


def test_longer_and_shorter_than_the_sound() -> None:
    x = sentence()
    heard = hear(x, frames=90)
    assert len(heard) == 90
    assert (heard.features[60:] == silence(30).features).all()
    assert len(hear(x, frames=20)) == 20
    assert len(padded(hear(x, frames=20), 40)) == 40


def test_gaps_inside_words_are_found() -> None:
    from tests.speech import glide, voiced

    x = voiced(glide(120, 115, 1.2))
    x[9000:10000] *= 1e-3  # 62 ms, as of a p
    dips = hear(np.concatenate([np.zeros(4000, np.float32), x])).dips
    assert np.abs(dips - (4000 + 9500) / 16000).min() < 0.04
    assert len(dips) <= 2


def test_other_rates_are_read_and_bad_sound_is_told() -> None:
    low = hear(sentence(rate=8000), 8000)
    assert len(low) == len(hear(sentence()))
    with pytest.raises(VoiceError, match="finite"):
        hear(np.full(16000, np.nan))


def test_silence_is_the_floor() -> None:
    assert (bands(silence(3).features) == SILENT).all()
    assert (silence(3).features[:, LEVEL] == SILENT).all()
