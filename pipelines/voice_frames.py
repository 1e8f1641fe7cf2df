"""A recording as the denoisers of a voice see it: 34 features a frame, relative to itself.

It deliberately does not know the model (pipelines/voice_model.py) or any emotion.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from adapters.voice_analysis import HOP, RATE
from adapters.voice_emotion import contours, frame_parts, phrase_edges, phrases

Floats = NDArray[np.float64]

HOP_SECONDS = HOP / RATE
FEATURES = 34
STRETCH_FRAMES = 4.0
"""Standard deviation of the smoothing of an alignment before its slope is read: 64 ms, a phone."""
VALUE_FRAMES = 1.5
"""The same for what is read along it: 24 ms."""


class Voice(NamedTuple):
    """A recording as the model sees it, T frames.

    features: float32 (T, 34). parts: (T, 7). contour: (T, 2). inside: (T,) bool, from the first to
    the last phrase; what lies before and after is never changed in time.
    """

    features: NDArray[np.float32]
    parts: Floats
    contour: Floats
    inside: NDArray[np.bool_]


class Frames(Protocol):
    """What is read of an `adapters.voice_analysis.Analysis`, T frames 16 ms apart."""

    f0: NDArray[Any]
    energy: NDArray[Any]
    bands: NDArray[Any]
    breath: NDArray[Any]
    speech: NDArray[np.bool_]


def voice_of(analysis: Frames) -> Voice:
    """What the model reads of an analysis.

    Everything is relative to the recording itself: pitch to its median, level and bands to their
    means over speech, so that the model knows neither the person nor the microphone.
    """
    hz, energy, envelope, noise = (
        np.asarray(x, dtype=np.float64)
        for x in (analysis.f0, analysis.energy, analysis.bands, analysis.breath)
    )
    speech = np.asarray(analysis.speech, dtype=bool)
    voiced = (hz > 0) & speech
    semitones = 12.0 * np.log2(np.maximum(hz, 1.0))
    contour = contours(semitones, voiced, energy, speech)
    pitch = _filled(contour[:, 0], voiced)
    begin, end = phrase_edges(speech, HOP_SECONDS)
    progress, inside = np.zeros(len(hz)), np.zeros(len(hz), dtype=bool)
    runs = phrases(speech, HOP_SECONDS)
    for first, last in runs:
        progress[first:last] = (np.arange(last - first) + 0.5) / (last - first)
    if runs:
        inside[runs[0][0] : runs[-1][1]] = True
    colour = np.zeros_like(envelope)
    if speech.any():
        colour[speech] = envelope[speech] - envelope[speech].mean(axis=0)
    columns = [
        pitch / 4.0,
        voiced,
        speech,
        contour[:, 1] / 10.0,
        _relative(noise, voiced) / 6.0,
        begin,
        end,
        progress,
        np.gradient(pitch) if len(pitch) > 1 else pitch,
        np.gradient(contour[:, 1]) / 5.0 if len(pitch) > 1 else pitch,
    ]
    features = np.concatenate([np.stack(columns, axis=1), colour / 8.0], axis=1)
    parts = frame_parts(voiced, speech, HOP_SECONDS)
    return Voice(features.astype(np.float32), parts, contour, inside)


def _relative(values: Floats, where: NDArray[np.bool_]) -> Floats:
    """(T,) distance from the mean over `where`, 0 elsewhere."""
    return np.where(where, values - values[where].mean(), 0.0) if where.any() else 0.0 * values


def smooth(rows: Floats, frames: float) -> Floats:
    """(T, ...) Gaussian of `frames` standard deviation along time; the ends are held."""
    half = int(np.ceil(3 * frames))
    taps = np.exp(-0.5 * (np.arange(-half, half + 1) / frames) ** 2)
    padded = np.pad(rows, [(half, half)] + [(0, 0)] * (rows.ndim - 1), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, len(taps), axis=0)
    return np.asarray(windows @ (taps / taps.sum()))


def _filled(values: Floats, where: NDArray[np.bool_]) -> Floats:
    """(T,) values where known, straight lines between, flat before and after."""
    if not where.any():
        return np.zeros_like(values)
    at = np.flatnonzero(where)
    return np.interp(np.arange(len(values)), at, values[at])
