"""Frames of a voice: against other libraries, against what is known of a synthetic one, bounds."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from adapters.voice_analysis import (
    BAND_CENTRES,
    HOP,
    QUIETEST,
    RATE,
    VoiceError,
    analyse,
    at_rate,
    mel_filters,
)
from adapters.voice_edit import TARGETS, VoiceEdit
from tests import speech


def test_mels_are_those_of_the_speech_vocoders() -> None:
    from transformers import SpeechT5FeatureExtractor

    # a noise floor: below it two ways to round would be compared
    x = speech.sentence()
    x += 1e-3 * np.random.default_rng(0).standard_normal(len(x)).astype(np.float32)
    theirs = SpeechT5FeatureExtractor()._extract_mel_features(x)
    ours = analyse(x, RATE).mel
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() < 1e-4


def test_mel_filters_are_those_of_torchaudio() -> None:
    functional = pytest.importorskip("torchaudio.functional", reason="torchaudio is optional")
    theirs = functional.melscale_fbanks(
        513, 80.0, 7600.0, 80, 16000, norm="slaney", mel_scale="slaney"
    )
    assert np.abs(mel_filters() - theirs.numpy()).max() < 1e-6


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 24000, 44100, 48000, 96000])
def test_every_rate_gives_the_same_frames(rate: int) -> None:
    x = speech.sentence(rate)
    found = analyse(x, rate)
    assert len(found) == 1 + len(at_rate(x, rate)) // HOP
    here = analyse(speech.sentence(), RATE)
    frames = min(len(found), len(here))
    both = (found.f0[:frames] > 0) & (here.f0[:frames] > 0)
    assert both.sum() > 0.93 * max((found.f0 > 0).sum(), (here.f0 > 0).sum())
    assert np.abs(np.log2(found.f0[:frames][both] / here.f0[:frames][both])).max() < 0.02
    assert abs(found.level - here.level) < 1.5


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_resampling_keeps_what_fits_and_drops_what_does_not(rate: int) -> None:
    at = np.arange(2 * rate) / rate
    low = np.sin(2 * np.pi * 3100 * at + 1)
    ours = at_rate(low, rate)
    true = np.sin(2 * np.pi * 3100 * np.arange(len(ours)) / RATE + 1)
    assert np.abs(ours - true)[1500:-1500].max() < 1e-4
    if rate > 20000:
        high = at_rate(np.sin(2 * np.pi * 9500 * at), rate)
        assert np.abs(high)[1500:-1500].max() < 1e-3


def test_channels_are_averaged() -> None:
    x = speech.sentence()
    stereo = analyse(np.stack([x, 0.5 * x]), RATE)
    assert np.allclose(stereo.f0, analyse(0.75 * x, RATE).f0)


def test_speech_is_where_somebody_speaks() -> None:
    found = analyse(speech.sentence(), RATE)
    seconds = found.times
    for begin, end, spoken in (
        (0.05, 0.15, False),
        (0.25, 0.55, True),
        (0.63, 0.72, True),  # the "s"
        (0.80, 1.05, True),
        (1.17, 1.28, False),
        (1.40, 1.70, True),
        (1.80, 1.88, False),
    ):
        inside = (seconds > begin) & (seconds < end)
        assert (found.speech[inside] == spoken).mean() > 0.9, (begin, end)
    assert not found.f0[(seconds > 0.64) & (seconds < 0.71)].any()


def test_level_moves_nothing_but_energy() -> None:
    x = speech.sentence()
    loud, soft = analyse(x, RATE), analyse(0.1 * x, RATE)
    sounding = loud.speech & soft.speech
    assert np.allclose((loud.energy - soft.energy)[sounding], 20, atol=0.1)
    assert np.allclose(loud.f0, soft.f0)
    assert np.abs(loud.bands - soft.bands)[sounding].max() < 0.2
    assert np.abs(loud.tilt - soft.tilt)[sounding].max() < 0.1
    assert loud.level - soft.level == pytest.approx(20, abs=0.1)


def test_bands_hold_the_vowel_and_not_the_pitch() -> None:
    """One vowel at three pitches: without smoothing over a period narrow bands move by 10 dB."""
    found = [analyse(speech.voiced(speech.glide(p, p, 0.6)), RATE) for p in (105, 160, 240)]
    rows = [a.bands[8:-8].mean(axis=0) for a in found]
    below = BAND_CENTRES < 4000
    spread = np.ptp(rows, axis=0)[below]
    assert spread[0] < 6, "around 100 Hz nothing is left of a voice of 240 Hz"
    assert spread[1:].max() < 4.5
    assert spread.mean() < 2
    assert np.abs(found[0].bands.mean(axis=1)).max() < 1e-3, "rows are free of level"


def test_a_brighter_sound_has_brighter_rows() -> None:
    x = speech.voiced(speech.glide(130, 130, 0.6))
    bright = np.append(x[0], x[1:] - 0.9 * x[:-1]).astype(np.float32)
    plain, found = analyse(x, RATE), analyse(bright, RATE)
    assert np.median(found.tilt) > np.median(plain.tilt) + 5
    rise = (found.bands - plain.bands)[8:-8].mean(axis=0)
    assert np.corrcoef(np.log(BAND_CENTRES), rise)[0, 1] > 0.95


def test_silence_noise_and_scraps() -> None:
    noise = 0.1 * np.random.default_rng(0).standard_normal(32000)
    for sound in (np.zeros(16000), noise, np.ones(1), np.full(100, 0.1)):
        found = analyse(sound, RATE)
        assert not found.speech.any()
        assert found.level == QUIETEST
        for name in ("mel", "bands", "energy", "tilt", "hnr", "breath", "f0"):
            assert np.isfinite(getattr(found, name)).all()


def test_long_sounds_in_bounded_memory() -> None:
    """Half a minute grows by what is kept, not by the spectra that were computed on the way."""
    half = np.tile(speech.sentence(), 16)
    tracemalloc.start()
    found = analyse(half, RATE)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.seconds > 30
    assert peak < 40e6, peak
    one = analyse(half[: len(half) // 16], RATE)
    assert abs((found.f0 > 0).mean() - (one.f0 > 0).mean()) < 0.03


@pytest.mark.parametrize(
    ("sound", "rate", "word"),
    [
        (np.zeros(0), 16000, "samples"),
        (np.zeros((2, 0)), 16000, "samples"),
        (np.zeros((2, 3, 4)), 16000, "shape"),
        (np.full(1000, np.nan), 16000, "no finite"),
        (np.zeros(1000), 500, "500"),
        (np.broadcast_to(np.float32(0), 16000 * 3601), 16000, "hour"),
    ],
)
def test_errors_are_one_line(sound: np.ndarray, rate: int, word: str) -> None:
    with pytest.raises(VoiceError, match=word) as caught:
        analyse(sound, rate)
    assert "\n" not in str(caught.value)


def test_edits_round_trip_and_refuse() -> None:
    rows = np.random.default_rng(0).normal(size=(5, len(TARGETS))).astype(np.float32)
    rows[:, 2] *= 0.3
    assert np.array_equal(VoiceEdit.from_rows(rows).rows(), rows)
    assert VoiceEdit.identity(7).is_identity
    assert VoiceEdit.from_rows(rows).scaled(0).is_identity
    edit = VoiceEdit.constant(4, semitones=3, tremor=0.5)
    assert np.all(edit.scaled(0.5).semitones == 1.5)
    assert not edit.is_identity
    assert np.all(edit.scaled(-1).tremor == 0)
    for values, word in (
        ({"semitones": 40}, "semitones"),
        ({"creak": -1}, "creak"),
        ({"breath": np.nan}, "breath"),
    ):
        with pytest.raises(VoiceError, match=word):
            VoiceEdit.constant(4, **values)
    with pytest.raises(VoiceError, match="frames"):
        VoiceEdit(np.zeros(4), np.zeros(5), np.zeros(4), np.zeros((4, 24)), np.zeros(4))
    with pytest.raises(VoiceError, match="28"):
        VoiceEdit.from_rows(np.zeros((4, 27)))
