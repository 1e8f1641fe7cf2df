"""WORLD as another way to move a voice: taken apart into pitch, envelope and noise, and made anew.

For shifts of more than about six semitones, where overlapping grains begin to rattle; below that
the sound of overlap-add is nearer to the source. Morise, Yokomori and Ozawa (2016), "WORLD: a
vocoder-based high-quality speech synthesis system", through pyworld, which is optional and has to
be compiled. Colour, breath and level are not its business: `pipelines.voice_render` adds them
after either way.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from adapters import f0 as f0_tracker
from adapters.voice_analysis import HOP, RATE, Floats, Singles, VoiceError
from adapters.voice_edit import VoiceEdit

PERIOD = 5.0
"""Milliseconds between WORLD's frames."""
RATES = (16_000, 48_000)
"""Hz that it takes."""
_BLOCK = 20.0  # s that are taken apart at a time: a spectrum of 1,025 doubles every 5 ms
_OVERLAP = 0.25  # s on both sides of a block


def resynthesise(
    x: Singles,
    sample_rate: int,
    contour: Singles,
    edit: VoiceEdit,
    warp: tuple[Floats, Floats],
    samples: int,
) -> Singles:
    """Pitch and time by WORLD: float32 (channels, n) -> (channels, samples).

    contour: Hz every `adapters.f0.HOP` samples at 16 kHz. warp: seconds of the source and of the
    result, both rising.

    Raises:
        VoiceError: pyworld is not installed, or a sample rate that it does not take.
    """
    try:
        import pyworld
    except ImportError as error:
        msg = "engine: world needs pyworld, which is not installed; pip install pyworld, or psola"
        raise VoiceError(msg) from error
    if not RATES[0] <= sample_rate <= RATES[1]:
        low, high = (rate // 1000 for rate in RATES)
        msg = f"engine: world takes {low} to {high} kHz, this has {sample_rate} Hz; use psola"
        raise VoiceError(msg)
    count = int(samples / sample_rate * 1000 / PERIOD) + 1
    then = np.arange(count) * (PERIOD / 1000)
    now = np.interp(then, warp[1], warp[0])
    semitones = np.interp(now * (RATE / HOP), np.arange(len(edit)), edit.semitones)
    pitch = _pitch_at(now, contour) * 2 ** (semitones / 12)
    result = np.zeros((len(x), samples), dtype=np.float32)
    step = int(_BLOCK * 1000 / PERIOD)
    margin = int(_OVERLAP * 1000 / PERIOD)
    for channel, sound in enumerate(x):
        for first in range(0, count, step):
            begin, end = max(0, first - margin), min(count, first + step + margin)
            spectrum, noise = _apart(pyworld, sound, sample_rate, contour, now[begin:end])
            made = pyworld.synthesize(
                np.ascontiguousarray(pitch[begin:end]), spectrum, noise, sample_rate, PERIOD
            )
            _join(result[channel], made, begin, first, margin, sample_rate)
    return result


def _pitch_at(seconds: Floats, contour: Singles) -> Floats:
    """Hz at these seconds, 0 where unvoiced; between voiced frames a straight line."""
    place = seconds * (f0_tracker.RATE / f0_tracker.HOP)
    near = np.clip(np.rint(place).astype(np.intp), 0, len(contour) - 1)
    low = np.clip(place.astype(np.intp), 0, len(contour) - 1)
    high = np.minimum(low + 1, len(contour) - 1)
    both = (contour[low] > 0) & (contour[high] > 0)
    between = contour[low] + (place - low) * (contour[high] - contour[low])
    return np.asarray(np.where(both, between, contour[near]), dtype=np.float64)


def _apart(
    pyworld: object, sound: Singles, rate: int, contour: Singles, seconds: Floats
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Envelope and aperiodicity of the source at these seconds."""
    begin = max(0, int((seconds[0] - _OVERLAP) * rate))
    end = int((seconds[-1] + _OVERLAP) * rate) + 1
    piece = np.ascontiguousarray(sound[begin:end], dtype=np.float64)
    pitch = _pitch_at(seconds, contour)
    times = np.ascontiguousarray(seconds - begin / rate)
    spectrum = pyworld.cheaptrick(piece, pitch, times, rate)  # type: ignore[attr-defined]
    noise = pyworld.d4c(piece, pitch, times, rate)  # type: ignore[attr-defined]
    return spectrum, noise


def _join(result: Singles, made: Floats, begin: int, first: int, margin: int, rate: int) -> None:
    """Add a block, faded in over the overlap with the one before."""
    at = round(begin * PERIOD / 1000 * rate)
    piece = made[: max(0, len(result) - at)].astype(np.float32)
    if first:
        middle = round(first * PERIOD / 1000 * rate)
        fade = round(margin * PERIOD / 1000 * rate / 2)
        ramp = np.clip((np.arange(at, at + len(piece)) - middle) / fade + 0.5, 0, 1)
        piece = piece * ramp.astype(np.float32)
        result[at : at + len(piece)] *= (1 - ramp).astype(np.float32)
    result[at : at + len(piece)] += piece
