"""A voice and an edit become the edited voice: the same recording, moved, never made anew.

Pitch and time by pitch-synchronous overlap-add (`pipelines.psola`); colour by a smooth ratio on the
short-time spectrum, whose phase stays the source's; breath by noise under the voice's own envelope;
then level, so that only what the edit says about level changes it. The sound stays at its own
sample rate and keeps its channels; the analysis at 16 kHz says where its frames are. What an edit
leaves alone is skipped, and an edit of zeros gives the source back bit by bit.

It deliberately knows no emotion and no model, and opens no file. For shifts of more than about six
semitones `engine="world"` resynthesises instead (`pipelines.voice_world`), where that is installed.
numpy only. Memory: a few copies of the sound.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from adapters.voice_analysis import (
    BAND_CENTRES,
    HOP,
    RATE,
    Analysis,
    Floats,
    Singles,
    VoiceError,
    at_rate,
)
from adapters.voice_edit import VoiceEdit
from pipelines import psola

ENGINES = ("psola", "world")
"""How pitch and time are changed."""
CLAMP_DB = 12.0
"""The most that a band is raised or lowered."""
STRETCH = (0.25, 4.0)
"""Shortest and longest result, times the source, when its seconds are given."""
PEAK = 0.98
"""Above this the result is brought down for a moment."""

_TREMOR_HZ = (4.5, 6.5)  # of the slow wavering, within the 4-7 Hz of fearful voices
_CREAK_SEMITONES = 4.0  # lower at full creak,
_CREAK_JITTER = 0.10  # every period longer or shorter by this (standard deviation),
_CREAK_ALTERNATION = 0.5  # every other one weaker by this
_PITCH = (35.0, 1000.0)  # Hz: no result lies outside
_BREATH_HZ = (900.0, 2200.0)  # breath comes in between these
_BREATH_HEARD = 0.48  # dB measured of each dB of noise added: 2 to 9 dB on ten voices
_TIPS_DB = 2.0  # of a peak that are pressed within milliseconds; the rest takes seconds
_LEVEL_SECONDS = 0.04  # window of the levels that are compared
_CORRECTION_DB = 15.0  # the most that the level is corrected
_BLOCK = 256  # spectra at a time


def render(
    waveform: ArrayLike,
    sample_rate: int,
    analysis: Analysis,
    edit: VoiceEdit,
    *,
    seconds: float | None = None,
    protect: float = 0.3,
    engine: str = "psola",
    seed: int = 0,
) -> Singles:
    """Render an edit.

    Args:
        waveform: (samples,) or (channels, samples), -1..1.
        sample_rate: its Hz; the result has the same.
        analysis: `adapters.voice_analysis.analyse` of this waveform.
        edit: T rows, as many as the analysis.
        seconds: the result's length, exactly; the stretch is scaled to it. None: what the edit's
            stretch comes to. The source's own length keeps lips in time.
        protect: share 0..1 of colour and breath that unvoiced sounds are spared, so that sibilants
            do not hiss; pauses are always spared.
        engine: one of `ENGINES`.
        seed: of breath, tremor and creak.

    Returns float32 of as many axes as `waveform`, |x| <= `PEAK` unless the source is louder.

    Raises:
        VoiceError: parts that do not belong together, a length out of reach, or an engine that is
            not there.
    """
    given = np.asarray(waveform, dtype=np.float32)
    mono = at_rate(given, sample_rate)
    x = np.atleast_2d(given)
    _check(mono, analysis, edit, protect, engine)
    duration = x.shape[1] / sample_rate
    samples = x.shape[1] if seconds is None else round(seconds * sample_rate)
    if edit.is_identity and samples == x.shape[1]:
        return given.copy()
    warp = time_warp(edit, duration, None if seconds is None else samples / sample_rate)
    if seconds is None:
        samples = x.shape[1] if warp[0] is warp[1] else round(float(warp[1][-1]) * sample_rate)
    rng = np.random.default_rng(seed)
    moved = x
    if engine == "world":
        from pipelines.voice_world import resynthesise

        moved = resynthesise(x, sample_rate, analysis.contour, edit, warp, samples)
    elif _moves(edit) or warp[0] is not warp[1]:
        moved = _moved(x, sample_rate, mono, analysis, edit, warp, samples, rng)
    at = _Times(analysis, warp, samples, sample_rate)
    coloured = moved
    if edit.bands.any() or (edit.breath > 0).any():
        coloured = _coloured(moved, sample_rate, analysis, edit, at, protect, rng)
    result = _levelled(x, coloured, sample_rate, edit, at)
    result = limited(result, sample_rate, max(PEAK, float(np.abs(x).max())))
    return result[0] if given.ndim == 1 else result


def _check(mono: Singles, analysis: Analysis, edit: VoiceEdit, protect: float, engine: str) -> None:
    if len(mono) != analysis.samples:
        seconds = len(mono) / RATE
        msg = f"analysis: of another sound ({analysis.seconds:.2f} s, this has {seconds:.2f} s)"
        raise VoiceError(f"{msg}; analyse this waveform")
    if len(edit) != len(analysis):
        msg = f"edit: {len(analysis)} frames are needed, received {len(edit)}; plan it again"
        raise VoiceError(msg)
    if not 0 <= protect <= 1:
        msg = f"protect: 0 (nothing spared) to 1 (unvoiced sounds untouched), received {protect:g}"
        raise VoiceError(msg)
    if engine not in ENGINES:
        msg = f"engine: {' or '.join(ENGINES)}, received {engine!r}; choose one of these"
        raise VoiceError(msg)


# --- time and pitch


def time_warp(edit: VoiceEdit, duration: float, seconds: float | None) -> tuple[Floats, Floats]:
    """Seconds of the source and of the result, rising; the same array twice when nothing moves."""
    edges = np.clip((np.arange(len(edit) + 1) - 0.5) * (HOP / RATE), 0, duration)
    edges[-1] = duration
    keep = np.concatenate([np.diff(edges) > 0, [True]])
    factor = np.exp(edit.log_stretch.astype(np.float64))
    target = np.concatenate([[0.0], np.cumsum(np.diff(edges) * factor)])
    if seconds is not None:
        low, high = (limit * duration for limit in STRETCH)
        if not low <= seconds <= high:
            msg = f"seconds: {low:.2f} to {high:.2f} can be made of this voice"
            raise VoiceError(f"{msg}, received {seconds:.2f}; choose a length between")
        target *= seconds / target[-1]
    source = edges[keep]
    if np.allclose(target[keep], source, rtol=0, atol=1e-9):
        return source, source
    return source, target[keep]


def _moves(edit: VoiceEdit) -> bool:
    rows = (edit.semitones, edit.tremor, edit.creak, np.minimum(edit.breath, 0))
    return any(row.any() for row in rows)


def _moved(
    x: Singles,
    rate: int,
    mono: Singles,
    analysis: Analysis,
    edit: VoiceEdit,
    warp: tuple[Floats, Floats],
    samples: int,
    rng: np.random.Generator,
) -> Singles:
    """Pitch and time: (channels, samples)."""
    marks = psola.pitch_marks(mono, analysis.contour)
    # each ratio holds between a mark and the next: what is asked for in the middle
    middle = np.append((marks.at[1:] + marks.at[:-1]) / 2, marks.at[-1])
    frame = middle * (RATE / HOP)
    steps = np.arange(len(edit))
    semitones = np.interp(frame, steps, edit.semitones)
    then = np.interp(middle, *warp)
    semitones += np.interp(frame, steps, edit.tremor) * _wavering(then, rng)
    creak = np.interp(frame, steps, edit.creak)
    semitones -= _CREAK_SEMITONES * creak
    ratio = 2 ** (semitones / 12)
    if creak.any():
        ratio *= np.exp(_CREAK_JITTER * creak * rng.standard_normal(len(ratio)))
    pitch = 1 / np.maximum(np.diff(marks.at, append=marks.at[-1] + 0.01), 1e-4)
    inside = np.clip(pitch * ratio, *_PITCH) / pitch
    ratio = np.where((pitch > _PITCH[0]) & (pitch < _PITCH[1]), inside, ratio)
    plan = psola.plan(marks, ratio, warp)
    place = plan.source * (RATE / HOP)
    gain = clean = None
    if creak.any():
        weak = _CREAK_ALTERNATION * np.interp(place, steps, edit.creak)
        gain = 1 - weak * (np.arange(len(place)) % 2)
    if (edit.breath < 0).any():
        # solve (1 - 2a)^2 + 2a^2 = r for the share of the neighbours
        r = np.maximum(10 ** (np.minimum(np.interp(place, steps, edit.breath), 0) / 10), 1 / 3)
        clean = (4 - np.sqrt(np.maximum(16 - 24 * (1 - r), 0))) / 12
    return psola.lay(x, rate, marks, plan, samples, gain, clean)


def _wavering(seconds: Floats, rng: np.random.Generator) -> Floats:
    """-1..1 at rising seconds: a sine whose rate wanders within `_TREMOR_HZ`."""
    knots = np.arange(0, (float(seconds[-1]) if len(seconds) else 0) + 1, 0.25)
    rates = np.interp(seconds, knots, rng.uniform(*_TREMOR_HZ, len(knots)))
    turns = np.concatenate([[0.0], np.cumsum(rates[1:] * np.diff(seconds))])
    return np.asarray(np.sin(2 * np.pi * (turns + rng.uniform())))


class _Times:
    """Where each moment of the result comes from."""

    def __init__(
        self, analysis: Analysis, warp: tuple[Floats, Floats], samples: int, rate: int
    ) -> None:
        self.warp, self.samples, self.rate = warp, samples, rate
        self.steps = np.arange(len(analysis))

    def frame(self, sample: NDArray[np.integer[Any]]) -> Floats:
        """Frames of the source (fractions) that sound at samples of the result."""
        seconds = np.interp(sample / self.rate, self.warp[1], self.warp[0])
        return np.asarray(seconds * (RATE / HOP))

    def row(self, values: ArrayLike, frame: Floats) -> Floats:
        """A row (T,) or rows (T, k) of the source at these frames."""
        table = np.asarray(values, dtype=np.float64)
        if table.ndim == 1:
            return np.asarray(np.interp(frame, self.steps, table))
        frame = np.clip(frame, 0, len(self.steps) - 1)
        low = np.minimum(frame.astype(np.intp), max(len(self.steps) - 2, 0))
        high = np.minimum(low + 1, len(self.steps) - 1)
        part = (frame - low)[:, None]
        return np.asarray(table[low] * (1 - part) + table[high] * part)


# --- colour and breath


def _coloured(
    y: Singles,
    rate: int,
    analysis: Analysis,
    edit: VoiceEdit,
    at: _Times,
    protect: float,
    rng: np.random.Generator,
) -> Singles:
    """The ratio filter and the breath: (channels, samples) of the same length."""
    size = 1 << int(np.ceil(np.log2(0.030 * rate)))  # 32 ms at 16 kHz, 43 at 48 kHz
    hop = size // 4
    window = np.sqrt(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size))
    count = -(-y.shape[1] // hop) + 4
    padded = np.pad(y, ((0, 0), (size, count * hop + size - y.shape[1])))
    result = np.zeros(padded.shape, dtype=np.float32)
    spared = 1 - protect * (1 - _smooth(analysis.voiced, 1))
    spared *= _smooth(analysis.speech, 3)
    breathing = (edit.breath > 0).any()
    noise = rng.standard_normal(padded.shape, dtype=np.float32) if breathing else padded
    to_bins = _to_bins(size, rate)
    rise = _rise(size, rate)
    wide = max(2, round(300 * size / rate))
    for first in range(0, count, _BLOCK):
        frames = np.arange(first, min(first + _BLOCK, count))
        place = at.frame((frames + 2) * hop - size)  # centres of the windows in the result
        weight = at.row(spared, place)[:, None]
        db = np.clip(at.row(edit.bands, place), -CLAMP_DB, CLAMP_DB) * weight
        ratio = 10 ** (db @ to_bins / 20)
        cut = (frames * hop)[:, None] + np.arange(size)
        if breathing:
            more = at.row(np.maximum(edit.breath, 0) * analysis.voiced, place)[:, None] * weight
            more /= _BREATH_HEARD
            before = 10 ** (at.row(analysis.breath, place)[:, None] / 10)
            share = before / (1 + before)
            after = before * 10 ** (more * rise / 10)
            after /= 1 + after
            keep = (1 - after) / (1 - share)
            add = np.maximum(after - share * keep, 0)
            swell = _swell(padded, int(cut[0, 0]), int(cut[-1, -1]) + 1, rate)
            within = cut - cut[0, 0]
        for channel in range(len(y)):
            spectrum = np.fft.rfft(padded[channel][cut] * window, axis=1)
            if breathing:
                envelope = _boxcar(np.square(np.abs(spectrum)), wide)
                hiss = np.fft.rfft(noise[channel][cut] * swell[channel][within] * window, axis=1)
                hiss *= np.sqrt(add * envelope / (0.5 * size))
                spectrum = spectrum * np.sqrt(keep) + hiss
            back = np.fft.irfft(spectrum * ratio, size, axis=1) * (window / 2)
            back = back.astype(np.float32)
            for row, begin in zip(back, frames * hop, strict=True):
                result[channel, begin : begin + size] += row
    return result[:, size : size + y.shape[1]]


def _smooth(flags: NDArray[np.bool_], reach: int) -> Floats:
    """Flags as weights 0..1 that come and go over `reach` frames."""
    width = 2 * reach + 1
    padded = np.pad(flags.astype(np.float64), reach, mode="edge")
    return np.asarray(np.convolve(padded, np.ones(width) / width, "valid"))


@lru_cache(maxsize=4)
def _to_bins(size: int, rate: int) -> Floats:
    """(24, bins): straight lines between the bands' centres on the mel scale, level beyond."""
    f = np.fft.rfftfreq(size, 1 / rate)
    mel = np.log1p(f / 700)
    unit = np.eye(len(BAND_CENTRES))
    return np.array([np.interp(mel, np.log1p(BAND_CENTRES / 700), row) for row in unit])


@lru_cache(maxsize=4)
def _rise(size: int, rate: int) -> Floats:
    """(bins,) 0..1: how much of the breath each frequency takes."""
    f = np.fft.rfftfreq(size, 1 / rate)
    low, high = _BREATH_HZ
    return np.asarray(np.clip((f - low) / (high - low), 0, 1))


def _boxcar(power: Floats, width: int) -> Floats:
    """(n, bins) averaged over `width` bins around each."""
    half = width // 2
    wide = np.pad(power, ((0, 0), (half + 1, half)), mode="reflect")
    total = np.cumsum(wide, axis=1)
    return np.asarray((total[:, 2 * half + 1 :] - total[:, : -2 * half - 1]) / (2 * half + 1))


def _swell(padded: Singles, begin: int, end: int, rate: int) -> Floats:
    """(channels, end - begin) amplitude of noise that swells with every pulse, as breath does."""
    short, long = max(2, round(0.0015 * rate)), round(0.02 * rate)
    first, last = max(begin - long, 0), min(end + long, padded.shape[1])
    power = np.square(np.diff(padded[:, first:last], prepend=0), dtype=np.float64)
    power[:, 0] = power[:, 1]
    ratio = np.array([(_mean(p, short) + 1e-12) / (_mean(p, long) + 1e-12) for p in power])
    inside = slice(begin - first, end - first)
    return np.asarray(0.4 + 0.6 * np.minimum(np.sqrt(ratio[:, inside]), 3))


def _mean(x: Floats, width: int) -> Floats:
    """Moving average of (n,), n values."""
    total = np.cumsum(np.pad(x, (width // 2 + 1, width - width // 2 - 1), mode="edge"))
    return np.asarray((total[width:] - total[:-width]) / width)[: len(x)]


# --- level


def _levelled(x: Singles, y: Singles, rate: int, edit: VoiceEdit, at: _Times) -> Singles:
    """Give every moment the level of the source there, and what the edit says about level."""
    hop = rate * HOP / RATE  # 705.6 samples at 44.1 kHz: whole ones would run away from the frames
    centres = _whole(np.arange(1 + int(y.shape[1] / hop)) * hop)
    place = at.frame(centres)
    gain = at.row(edit.energy_db, place)
    if y is not x:
        source = at.row(_levels(x, rate, _whole(at.steps * hop)), place)
        here = _levels(y, rate, centres)
        # where both are loud enough to be heard; in pauses the noise stays what it is
        loud = np.minimum(source, here) > source.max() - 50
        correction = np.where(loud, np.clip(source - here, -_CORRECTION_DB, _CORRECTION_DB), 0)
        padded = np.pad(correction, 2, mode="edge")
        gain += np.convolve(padded, (0.1, 0.2, 0.4, 0.2, 0.1), "valid")
    if not gain.any():
        return y
    return _amplified(y, centres, 10 ** (gain / 20))


def _amplified(y: Singles, knots: NDArray[np.intp] | Floats, gain: Floats) -> Singles:
    """Times an amplitude that is given at some samples, straight lines between; in parts."""
    result = np.empty_like(y)
    for first in range(0, y.shape[1], 1 << 18):
        part = np.arange(first, min(first + (1 << 18), y.shape[1]))
        result[:, part] = y[:, part] * np.interp(part, knots, gain)
    return result


def _whole(places: NDArray[np.floating[Any]]) -> NDArray[np.intp]:
    return np.asarray(np.rint(places).astype(np.intp))


def _levels(x: Singles, rate: int, centres: NDArray[np.intp]) -> Floats:
    """dB of windows of 40 ms around these samples, all channels together; zeros lie outside."""
    half = round(_LEVEL_SECONDS * rate / 2)
    mean = np.empty(len(centres))
    for first in range(0, len(centres), 4096):
        centre = centres[first : first + 4096]
        begin = max(int(centre[0]) - half, 0)
        part = np.square(x[:, begin : int(centre[-1]) + half], dtype=np.float64).mean(axis=0)
        total = np.concatenate([[0.0], np.cumsum(part)])
        low = np.clip(centre - half - begin, 0, len(part))
        high = np.clip(centre + half - begin, 0, len(part))
        mean[first : first + len(centre)] = (total[high] - total[low]) / (2 * half)
    return np.asarray(10 * np.log10(np.maximum(mean, 0) + 1e-12))


def limited(y: Singles, rate: int, peak: float) -> Singles:
    """Bring (channels, samples) down to `peak`.

    Accents are what an emotion is heard by: only their tips are pressed, over 10 ms on either side;
    for what exceeds the peak by more, everything within a second is turned down alike.
    """
    return _pressed(_pressed(y, rate, peak * 10 ** (_TIPS_DB / 20), 0.1), rate, peak, 0.001)


def _pressed(y: Singles, rate: int, peak: float, seconds: float) -> Singles:
    """Bring the level down around what exceeds `peak`, over ten times `seconds` on either side."""
    if not y.size or float(np.abs(y).max()) <= peak:
        return y
    step = max(1, round(seconds * rate))
    count = -(-y.shape[1] // step)
    highest = np.maximum.reduceat(np.abs(y).max(axis=0), np.arange(count) * step)
    wanted = np.minimum(1.0, peak / np.maximum(highest.astype(np.float64), 1e-9))
    reach = 10
    padded = np.pad(wanted, 2 * reach + 1, mode="edge")
    lowest = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 3).min(axis=1)
    hann = np.hanning(2 * reach + 3)[1:-1]
    smooth = np.convolve(lowest, hann / hann.sum(), "valid")
    knots = (np.arange(count) + 0.5) * step
    return np.clip(_amplified(y, knots, smooth), -peak, peak)
