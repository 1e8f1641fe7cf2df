"""Fundamental frequency of a voice over time: how high it speaks, and where it has a pitch at all.

Candidates are the peaks of a normalised cross-correlation whose window grows with the lag and is
centred on the frame, so that a high voice is followed within two of its periods and a glide is not
read late; dynamic programming picks one candidate a frame or none (after Talkin 1995, "A robust
algorithm for pitch tracking"). A second pass knows the range of this speaker from the first and
charges for what lies an octave outside (after De Looze and Hirst 2008). The chosen lags are then
measured again at the full rate, where the correlation also tells how much of the sound is periodic
(harmonics-to-noise ratio, Boersma 1993).

It deliberately knows nothing of words, emotions or files, and of two people who speak at once it
follows the louder one. numpy only; memory grows by some bytes a frame.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]

RATE = 16000
"""Samples a second that are read."""
HOP = 128
"""Samples between frames: 8 ms."""
FLOOR, CEILING = 60.0, 600.0
"""Hz: a low creak-free male voice and a shouting child."""

_HALF = RATE // 2  # candidates are sought at 8 kHz: higher formants only blur the correlation
_FIRST, _LAST = int(_HALF / CEILING) - 1, int(_HALF / FLOOR) + 2  # lags at that rate
_WINDOW = 0.010  # s at the least, plus half a period: shorter windows take formants for pitch
_CANDIDATES = 7
_BLOCK = 1000  # frames: 8 s
_MARGIN = 512  # samples at RATE beside a block: the longest lag and its window

# Costs of the dynamic programming; a correlation of 1 costs 0.
_LAG_COST = 0.10  # of the longest lag: twice the period correlates as well as the period
_LEAP = 0.35  # per octave between neighbouring frames (8 ms)
_OCTAVE = 0.45  # for jumping by just an octave, which is what creak does
_TURN = 0.12  # for starting or stopping to be voiced
_UNVOICED = 0.44  # what a frame costs without pitch: the correlation has to exceed .56
_QUIET = (-32.0, -50.0)  # dB re the voice's level: from here pitch is doubted, below there is none
_SILENT = -75.0  # dB full scale: nobody speaks
_STRANGE = 0.25  # per octave outside the speaker's range
_RANGE = (0.65, 1.75)  # times the quartiles of the first pass


@dataclass(frozen=True, slots=True)
class Pitch:
    """What was tracked, every `HOP` samples; frame i is centred on sample i * HOP.

    f0: float32 (n,) Hz, 0 where unvoiced. strength: (n,) periodicity 0..1, correlation at the
    period (at the best lag where unvoiced). hnr: (n,) dB, harmonics to noise, 0 where unvoiced.
    noise: (n,) dB, noise to harmonics above 1.5 kHz, where a breathy voice loses its harmonics; 0
    where unvoiced. level: (n,) dB full scale.
    """

    f0: Singles
    strength: Singles
    hnr: Singles
    noise: Singles
    level: Singles


def track(waveform: Singles, on_block: Callable[[], None] | None = None) -> Pitch:
    """Track the pitch of float32 (samples,) at `RATE`, -1..1. Returns 1 + samples // HOP frames.

    on_block: called after every 8 s that were searched; may raise, to stop.
    """
    x = np.asarray(waveform, dtype=np.float32)
    frames = 1 + len(x) // HOP
    lags = np.zeros((frames, _CANDIDATES))
    values = np.zeros((frames, _CANDIDATES))
    level = np.full(frames, -120.0)
    for first in range(0, frames, _BLOCK):
        part = slice(first, min(first + _BLOCK, frames))
        lags[part], values[part], level[part] = _candidates(_cut(x, part.start, part.stop))
        if on_block is not None:
            on_block()
    loud = _loudness_of_voice(level)
    quiet = np.clip((loud + _QUIET[0] - level) / (_QUIET[0] - _QUIET[1]), 0, 1)
    quiet[level < _SILENT] = 1
    chosen = _best_path(lags, values, quiet, None)
    spoken = chosen >= 0
    if spoken.sum() >= 10:
        row = np.flatnonzero(spoken)
        octaves = np.log2(_HALF / lags[row, chosen[row]])
        low, high = np.quantile(octaves, (0.25, 0.75))
        bounds = (float(low + np.log2(_RANGE[0])), float(high + np.log2(_RANGE[1])))
        chosen = _best_path(lags, values, quiet, bounds)
    row = np.flatnonzero(chosen >= 0)
    f0, hnr, noise = (np.zeros(frames, dtype=np.float32) for _ in range(3))
    strength = values.max(axis=1).clip(0, 1).astype(np.float32)
    for first in range(0, len(row), _BLOCK):
        here = row[first : first + _BLOCK]
        lag, full, high_band = _measure(x, here, 2 * lags[here, chosen[here]])
        f0[here] = RATE / lag
        strength[here] = full
        hnr[here] = _ratio(full)
        noise[here] = -_ratio(high_band)
    return Pitch(f0, strength, hnr, noise, level.astype(np.float32))


def _ratio(correlation: Floats) -> Floats:
    """Periodic to aperiodic power in dB, -20..40."""
    r = np.clip(correlation, 0.01, 0.9999)
    return np.asarray(10 * np.log10(r / (1 - r)))


def _loudness_of_voice(level: Floats) -> float:
    """The level that the loudest tenth of the sounding frames reaches."""
    heard = level[level > _SILENT]
    return float(np.quantile(heard, 0.9)) if len(heard) else 0.0


def _cut(x: Singles, first: int, last: int) -> Singles:
    """The samples of frames first .. last - 1 with `_MARGIN` on both sides, zeros beyond."""
    begin, end = first * HOP - _MARGIN, (last - 1) * HOP + _MARGIN + 1
    inside = x[max(begin, 0) : max(end, 0)]
    return np.pad(inside, (max(-begin, 0), end - begin - len(inside) - max(-begin, 0)))


# --- candidates


def _halved(x: Singles) -> Floats:
    """Every second sample after a low pass at 3.4 kHz and a high pass at 40 Hz (hum, wind)."""
    taps = np.sinc(np.arange(-24, 25) * 0.45) * np.kaiser(49, 7.0)
    low = np.convolve(x, taps / taps.sum(), "same")[::2].astype(np.float64)
    width = _HALF // 40
    total = np.cumsum(np.pad(low, (width, width), mode="edge"))
    mean = (total[2 * width :] - total[: -2 * width]) / (2 * width)
    return np.asarray(low - mean)


def _candidates(block: Singles) -> tuple[Floats, Floats, Floats]:
    """Lags at 8 kHz and correlations (frames, `_CANDIDATES`), 0 where there are fewer; level."""
    y = _halved(block)
    step, margin = HOP // 2, _MARGIN // 2
    centre = np.arange(margin, len(y) - margin, step)
    power = np.concatenate([[0.0], np.cumsum(y * y)])
    window = round(0.024 * _HALF) // 2
    level = power[centre + window] - power[centre - window]
    level = 10 * np.log10(level / (2 * window) + 1e-12)
    # a whisper of noise in the denominator: rounding errors of digital silence correlate well
    tiny = 1e-9
    curves = np.empty((_LAST - _FIRST + 1, len(centre)))
    for row, lag in enumerate(range(_FIRST, _LAST + 1)):
        size = round(_WINDOW * _HALF + lag / 2)
        product = np.concatenate([[0.0], np.cumsum(y[:-lag] * y[lag:])])
        start = centre - (lag + size) // 2
        cross = product[start + size] - product[start]
        one = power[start + size] - power[start]
        other = power[start + lag + size] - power[start + lag]
        # the mean of the energies and not their product: a formant that rings on between the
        # pulses of a creaking voice is alike but dies away
        curves[row] = cross / ((one + other) / 2 + size * tiny)
    left, middle, right = curves[:-2], curves[1:-1], curves[2:]
    peak = (middle > left) & (middle >= right) & (middle > 0.25)
    worth = np.where(peak, middle - _LAG_COST * np.linspace(0, 1, len(middle))[:, None], -1.0)
    order = np.argpartition(-worth, _CANDIDATES, axis=0)[:_CANDIDATES]
    a, b, c = (np.take_along_axis(part, order, axis=0) for part in (left, middle, right))
    bend = a - 2 * b + c
    shift = np.where(bend < -1e-12, 0.5 * (a - c) / np.where(bend < -1e-12, bend, 1), 0.0)
    shift = np.clip(shift, -0.5, 0.5)
    real = np.take_along_axis(worth, order, axis=0) > -1
    lags = np.where(real, order + _FIRST + 1 + shift, 0.0)
    values = np.where(real, b - 0.25 * (a - c) * shift, 0.0)
    return lags.T, values.T, level


# --- choosing


def _best_path(
    lags: Floats, values: Floats, quiet: Floats, bounds: tuple[float, float] | None
) -> NDArray[np.intp]:
    """Which candidate each frame takes, -1 for none: the cheapest way through all of them."""
    frames = len(lags)
    real = lags > 0
    octave = np.log2(_HALF / np.where(real, lags, _LAST))
    cost = 1 - values + _LAG_COST * lags / _LAST + quiet[:, None]
    if bounds is not None:
        outside = np.maximum(bounds[0] - octave, 0) + np.maximum(octave - bounds[1], 0)
        cost += np.where(outside > 0, _STRANGE * np.minimum(outside + 0.3, 1), 0)
    cost = np.where(real, cost, 9.0)
    last = _CANDIDATES
    back = np.empty((frames, last + 1), dtype=np.int8)
    total = np.append(cost[0], _UNVOICED)
    for i in range(1, frames):
        leap = np.abs(octave[i][:, None] - octave[i - 1])
        move = np.minimum(_LEAP * leap, _OCTAVE + _LEAP * np.abs(leap - 1))
        arrive = np.empty((last + 1, last + 1))
        arrive[:last, :last] = total[:last] + move
        arrive[:last, last] = total[last] + _TURN
        arrive[last, :last] = total[:last] + _TURN
        arrive[last, last] = total[last]
        back[i] = best = arrive.argmin(axis=1)
        total = arrive[np.arange(last + 1), best]
        total[:last] += cost[i]
        total[last] += _UNVOICED
        total -= total.min()  # an hour of frames would lose the digits
    chosen = np.empty(frames, dtype=np.intp)
    at = int(total.argmin())
    for i in range(frames - 1, -1, -1):
        chosen[i] = -1 if at == last or not real[i, at] else at
        at = int(back[i, at]) if i else at
    return chosen


# --- measuring


def _measure(x: Singles, frame: NDArray[np.intp], lag: Floats) -> tuple[Floats, Floats, Floats]:
    """Measure chosen lags (samples at RATE) again: finer lags, correlations of all and above."""
    begin, end = int(frame[0]), int(frame[-1]) + 1
    block = _cut(x, begin, end).astype(np.float64)
    taps = np.sinc(np.arange(-32, 33) * (2 * 1500 / RATE)) * np.hanning(65)
    high = block - np.convolve(block, taps / taps.sum(), "same")
    centre = (frame - begin) * HOP + _MARGIN
    whole = np.rint(lag).astype(np.intp)
    size = np.minimum(np.maximum(np.rint(1.3 * lag), 0.012 * RATE), 2 * _MARGIN - 40 - lag)
    found = _near(block, centre, whole, size.astype(np.intp), 3)
    # the noise of the breath sits on the fine structure: a lag of its own, within a sample or so
    above = _near(high, centre, np.rint(found[0]).astype(np.intp), size.astype(np.intp), 2)
    return found[0], found[1], above[1]


def _near(
    y: Floats, centre: NDArray[np.intp], lag: NDArray[np.intp], size: NDArray[np.intp], reach: int
) -> tuple[Floats, Floats]:
    """The highest correlation within `reach` samples of each lag: (place, value), interpolated."""
    offset = np.arange(int(size.max()))
    weight = np.where(
        offset < size[:, None], np.sin(np.pi * (offset + 0.5) / size[:, None]) ** 2, 0.0
    )
    curves = []
    for step in range(-reach, reach + 1):
        shifted = lag + step
        start = centre - (shifted + size) // 2
        one = y[np.clip(start[:, None] + offset, 0, len(y) - 1)]
        other = y[np.clip((start + shifted)[:, None] + offset, 0, len(y) - 1)]
        cross = np.einsum("ij,ij,ij->i", weight, one, other)
        both = np.einsum("ij,ij,ij->i", weight, one, one) * np.einsum(
            "ij,ij,ij->i", weight, other, other
        )
        curves.append(cross / np.sqrt(both + 1e-18))
    table = np.array(curves)
    best = np.clip(table.argmax(axis=0), 1, 2 * reach - 1)
    row = np.arange(table.shape[1])
    a, b, c = table[best - 1, row], table[best, row], table[best + 1, row]
    bend = np.minimum(a - 2 * b + c, -1e-12)
    shift = np.clip(0.5 * (a - c) / bend, -1.0, 1.0)
    return lag + best - reach + shift, b - 0.25 * (a - c) * shift
