"""Edits of a voice: each part moves what it names and nothing else, exactly as long as asked."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from adapters.voice_analysis import BAND_CENTRES, RATE, Analysis, VoiceError, analyse
from adapters.voice_edit import VoiceEdit
from pipelines.voice_render import PEAK, render
from tests import speech


@pytest.fixture(scope="module")
def voice() -> tuple[np.ndarray, Analysis]:
    x = 0.5 * speech.sentence()
    return x, analyse(x, RATE)


def edited(voice: tuple[np.ndarray, Analysis], **values: object) -> Analysis:
    x, analysis = voice
    edit = VoiceEdit.constant(len(analysis), **values)  # type: ignore[arg-type]
    return analyse(render(x, RATE, analysis, edit), RATE)


@pytest.mark.parametrize(("rate", "channels"), [(16000, 0), (44100, 2), (8000, 1)])
def test_no_edit_is_the_same_bits(rate: int, channels: int) -> None:
    x = speech.sentence(rate)
    given = np.tile(x, (channels, 1)) if channels else x
    analysis = analyse(given, rate)
    edit = VoiceEdit.identity(len(analysis))
    assert render(given, rate, analysis, edit).tobytes() == given.tobytes()
    kept = render(given, rate, analysis, edit, seconds=len(x) / rate, protect=0.0, seed=4)
    assert kept.tobytes() == given.tobytes()


@pytest.mark.parametrize("rate", [8000, 24000, 44100, 48000])
def test_every_rate_is_kept(rate: int) -> None:
    x = 0.5 * speech.sentence(rate)
    analysis = analyse(x, rate)
    edit = VoiceEdit.constant(len(analysis), semitones=3, bands=np.linspace(-4, 4, 24), breath=4)
    y = render(np.stack([x, x]), rate, analysis, edit)
    assert y.shape == (2, len(x))
    assert y.dtype == np.float32
    after = analyse(y, rate)
    both = analysis.voiced & after.voiced
    moved = 12 * np.log2(after.f0[both] / analysis.f0[both])
    assert np.median(moved) == pytest.approx(3, abs=0.15)
    if rate > 30000:  # what lies above the analysis is kept as well
        top = np.abs(np.fft.rfft(y[0]))[int(12000 * len(x) / rate) :]
        was = np.abs(np.fft.rfft(x))[int(12000 * len(x) / rate) :]
        assert 0.3 < np.linalg.norm(top) / np.linalg.norm(was) < 3


@pytest.mark.parametrize("semitones", [-5, 4, 6])
def test_pitch_alone_moves_pitch_alone(voice: tuple[np.ndarray, Analysis], semitones: int) -> None:
    before, after = voice[1], edited(voice, semitones=semitones)
    both = before.voiced & after.voiced
    cents = 1200 * np.log2(after.f0[both] / before.f0[both]) - 100 * semitones
    assert np.median(np.abs(cents)) < 25
    assert after.samples == before.samples
    assert abs(after.level - before.level) < 0.5
    assert np.abs(after.energy - before.energy)[both].max() < 4
    shape = (after.bands - before.bands)[both].mean(axis=0)
    assert np.abs(shape[BAND_CENTRES < 4000]).mean() < 1.5


@pytest.mark.parametrize("seconds", [1.2, 1.9003125, 2.5, 5.0])
def test_lengths_are_exact(voice: tuple[np.ndarray, Analysis], seconds: float) -> None:
    x, analysis = voice
    for edit in (
        VoiceEdit.identity(len(analysis)),
        VoiceEdit.constant(len(analysis), log_stretch=0.3, semitones=2),
    ):
        assert len(render(x, RATE, analysis, edit, seconds=seconds)) == round(seconds * RATE)


def test_stretch_is_local(voice: tuple[np.ndarray, Analysis]) -> None:
    """Only the second vowel is slowed: what lies before stays to the bit, what follows moves."""
    x, analysis = voice
    log_stretch = np.where((analysis.times > 0.8) & (analysis.times < 1.05), np.log(1.6), 0)
    edit = VoiceEdit.constant(len(analysis), log_stretch=log_stretch)
    y = render(x, RATE, analysis, edit)
    assert len(y) / RATE == pytest.approx(len(x) / RATE + 0.6 * 0.25, abs=0.02)
    begin = slice(0, int(0.7 * RATE))
    assert np.abs(y[begin] - x[begin]).max() < 1e-3
    kept = render(x, RATE, analysis, edit, seconds=len(x) / RATE)
    assert len(kept) == len(x)


def test_level_is_what_the_edit_says(voice: tuple[np.ndarray, Analysis]) -> None:
    before = voice[1]
    assert edited(voice, energy_db=-6).level == pytest.approx(before.level - 6, abs=0.05)
    tilted = edited(voice, bands=np.linspace(-9, 9, 24))
    assert tilted.level == pytest.approx(before.level, abs=0.5)
    everything = edited(
        voice, semitones=5, log_stretch=0.2, bands=np.linspace(5, -5, 24), breath=6, energy_db=-3
    )
    assert everything.level == pytest.approx(before.level - 3, abs=0.7)


def test_levels_do_not_run_away_from_the_frames() -> None:
    """16 ms are 176.4 samples at 11,025 Hz; counted as 176, the levels of 60 s end 140 ms late."""
    rate = 11025
    x = 0.5 * np.tile(speech.sentence(rate), 32)
    analysis = analyse(x, rate)
    y = render(x, rate, analysis, VoiceEdit.constant(len(analysis), bands=np.linspace(-5, 5, 24)))
    last = slice(-2 * rate, None)
    blocks = [
        10 * np.log10(np.mean(np.square(z[last].reshape(-1, 175)), axis=1) + 1e-9) for z in (x, y)
    ]
    loud = blocks[0] > blocks[0].max() - 25
    assert np.abs(blocks[1] - blocks[0])[loud].max() < 4
    assert np.abs(blocks[1] - blocks[0])[loud].mean() < 0.7


def test_bands_land_and_are_clamped(voice: tuple[np.ndarray, Analysis]) -> None:
    x, before = voice
    wave = 5 * np.sin(np.arange(24) / 3)
    after = edited(voice, bands=wave)
    inner = before.voiced & (before.energy > before.energy.max() - 15)
    change = (after.bands - before.bands)[inner].mean(axis=0)
    wanted = wave - wave.mean()
    heard = BAND_CENTRES < 6500
    assert np.corrcoef(change[heard], wanted[heard])[0, 1] > 0.95
    assert np.abs(change - wanted)[heard].mean() < 1.2
    steep = np.linspace(-24, 24, 24)
    edit = VoiceEdit.constant(len(before), bands=steep)
    clamped = VoiceEdit.constant(len(before), bands=np.clip(steep, -12, 12))
    assert np.array_equal(render(x, RATE, before, edit), render(x, RATE, before, clamped))


def test_sibilants_and_pauses_are_spared(voice: tuple[np.ndarray, Analysis]) -> None:
    x, before = voice
    edit = VoiceEdit.constant(len(before), bands=np.linspace(-10, 10, 24))
    hissing = slice(int(0.64 * RATE), int(0.71 * RATE))

    def moved(protect: float) -> float:
        y = render(x, RATE, before, edit, protect=protect)[hissing]
        was, now = (np.abs(np.fft.rfft(z[hissing] if z is x else z)) for z in (x, y))
        f = np.fft.rfftfreq(len(y), 1 / RATE)
        ratio = [
            np.sum(s[f > 5500] ** 2) / np.sum(s[(f > 2500) & (f < 4000)] ** 2) for s in (was, now)
        ]
        return abs(10 * np.log10(ratio[1] / ratio[0]))

    assert moved(1.0) < 0.6 < moved(0.0)
    assert moved(1.0) < moved(0.5) < moved(0.0)
    assert not render(x, RATE, before, edit)[: int(0.15 * RATE)].any()


def test_breath_comes_and_goes(voice: tuple[np.ndarray, Analysis]) -> None:
    x = 0.5 * speech.voiced(speech.glide(150, 130, 1.0), breath=0.1)
    analysis = analyse(x, RATE)
    found = [
        float(np.median(edited((x, analysis), breath=b).breath[5:-5])) for b in (-6, 0, 4, 8, 14)
    ]
    assert np.all(np.diff(found) > 0.8), found
    louder = edited((x, analysis), breath=10)
    assert abs(louder.level - analysis.level) < 0.5
    assert np.median(np.abs(1200 * np.log2(louder.f0[5:-5] / analysis.f0[5:-5]))) < 15


def test_tremor_wavers_and_creak_lowers() -> None:
    x = 0.5 * speech.voiced(speech.glide(200, 200, 2.0))
    analysis = analyse(x, RATE)
    after = edited((x, analysis), tremor=0.5)
    curve = 12 * np.log2(after.contour[10:-10] / 200)
    assert 0.25 < np.std(curve) < 0.5  # .35 for a sine of .5
    spectrum = np.abs(np.fft.rfft((curve - curve.mean()) * np.hanning(len(curve)), 4096))
    assert 4 < np.fft.rfftfreq(4096, 0.008)[spectrum.argmax()] < 7
    creaky = edited((x, analysis), creak=0.8)
    voiced = creaky.f0 > 0
    assert np.median(creaky.f0[voiced]) < 180
    assert np.median(creaky.hnr[voiced]) < np.median(analysis.hnr) - 5


def test_the_seed_is_all_that_is_random(voice: tuple[np.ndarray, Analysis]) -> None:
    x, analysis = voice
    edit = VoiceEdit.constant(len(analysis), breath=8, tremor=0.3)
    one = render(x, RATE, analysis, edit, seed=1)
    assert np.array_equal(one, render(x, RATE, analysis, edit, seed=1))
    assert not np.array_equal(one, render(x, RATE, analysis, edit, seed=2))
    plain = VoiceEdit.constant(len(analysis), semitones=2, bands=np.linspace(-3, 3, 24))
    assert np.array_equal(
        render(x, RATE, analysis, plain, seed=1), render(x, RATE, analysis, plain, seed=2)
    )


def test_nothing_clips_and_quiet_passages_are_not_pumped(
    voice: tuple[np.ndarray, Analysis],
) -> None:
    x = voice[0]
    loud = (x / np.abs(x).max() * 0.9).astype(np.float32)
    heard = analyse(loud, RATE)
    edit = VoiceEdit.constant(len(heard), energy_db=6, bands=np.linspace(-6, 6, 24))
    y = render(loud, RATE, heard, edit)
    assert np.abs(y).max() <= PEAK
    top = np.abs(y) > PEAK - 1e-6
    assert not (top[1:] & top[:-1]).any(), "flattened tops"
    soft = VoiceEdit.constant(len(heard), energy_db=-1)
    z = render(loud, RATE, heard, soft)
    assert np.allclose(z, loud * 10 ** (-1 / 20), atol=1e-6), "the limiter has nothing to do here"


def test_changes_in_time_make_no_clicks(voice: tuple[np.ndarray, Analysis]) -> None:
    x, analysis = voice
    half = analysis.times > 0.35
    edit = VoiceEdit.constant(
        len(analysis),
        semitones=np.where(half, 5, -3),
        energy_db=np.where(half, 4, -4),
        bands=np.where(half, 6, -6)[:, None] * np.linspace(-1, 1, 24),
    )
    y = render(x, RATE, analysis, edit)
    bend = np.abs(np.diff(y, 2))
    here = slice(int(0.30 * RATE), int(0.42 * RATE))
    elsewhere = np.concatenate([bend[int(0.22 * RATE) : here.start], bend[here.stop : 9000]])
    assert bend[here].max() < 1.2 * elsewhere.max()


def test_silence_noise_and_scraps_survive() -> None:
    noise = 0.1 * np.random.default_rng(0).standard_normal(16000).astype(np.float32)
    for x in (np.zeros(8000, np.float32), noise, np.zeros(1, np.float32), noise[:300]):
        analysis = analyse(x, RATE)
        edit = VoiceEdit.constant(
            len(analysis), semitones=4, log_stretch=0.3, breath=6, bands=np.linspace(-5, 5, 24)
        )
        y = render(x, RATE, analysis, edit)
        assert np.isfinite(y).all()
        assert len(y) == round(len(x) * np.exp(np.float64(np.float32(0.3))))
        assert np.abs(y).max() < 1.5 * np.abs(x).max() + 1e-6


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"seconds": 0.1}, "seconds"),
        ({"seconds": 60.0}, "seconds"),
        ({"protect": 2.0}, "protect"),
        ({"engine": "magic"}, "psola or world"),
    ],
)
def test_errors_are_one_line(
    voice: tuple[np.ndarray, Analysis], options: dict[str, float], word: str
) -> None:
    x, analysis = voice
    with pytest.raises(VoiceError, match=word) as caught:
        render(x, RATE, analysis, VoiceEdit.identity(len(analysis)), **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_parts_of_different_sounds_are_refused(voice: tuple[np.ndarray, Analysis]) -> None:
    x, analysis = voice
    with pytest.raises(VoiceError, match="another sound"):
        render(x[:-400], RATE, analysis, VoiceEdit.identity(len(analysis)))
    with pytest.raises(VoiceError, match="frames"):
        render(x, RATE, analysis, VoiceEdit.identity(len(analysis) - 1))


def test_world_is_there_or_says_what_is_missing(voice: tuple[np.ndarray, Analysis]) -> None:
    x, analysis = voice
    edit = VoiceEdit.constant(len(analysis), semitones=8, log_stretch=0.2)
    if importlib.util.find_spec("pyworld") is None:
        with pytest.raises(VoiceError, match="pyworld, which is not installed"):
            render(x, RATE, analysis, edit, engine="world")
        return
    after = analyse(render(x, RATE, analysis, edit, engine="world"), RATE)
    before = analyse(render(x, RATE, analysis, edit), RATE)
    assert after.samples == before.samples
    both = after.voiced & before.voiced
    assert np.median(np.abs(1200 * np.log2(after.f0[both] / before.f0[both]))) < 40
    assert abs(after.level - before.level) < 1
