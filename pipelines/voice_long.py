"""A long voice in pieces: rendered one after the other between pauses, joined without a seam.

What an edit does is planned on the whole recording; rendering wants several copies of the sound,
so that it goes over pieces of half a minute. Pieces are cut in pauses, reach a little into their
neighbours, and are laid over each other there for 20 ms. Emotions run on across cuts, because the
rows of the edit do. It deliberately knows no emotion, no model and no file. numpy only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import fields, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from adapters.voice_analysis import HOP, RATE, Analysis
from adapters.voice_edit import LIMITS, VoiceEdit
from pipelines.voice_render import STRETCH, render, time_warp

Singles = NDArray[np.float32]
Floats = NDArray[np.float64]

LONGEST = 40.0
"""Seconds of a piece; after half of them the next pause is a cut, and at the end the quietest
moment of its second half has to do."""
MARGIN = 8  # frames (128 ms) that pieces reach into each other
FADE = 0.02  # s in which one piece takes over from the other
_PAUSE = 13  # frames (.2 s) of a pause


def cuts(analysis: Analysis, longest: float = LONGEST) -> list[int]:
    """Frames at which a recording is cut: in the middle of pauses; none in up to `longest` s."""
    frames = len(analysis)
    most = round(longest * RATE / HOP)
    least = most // 2
    edge = np.diff(np.concatenate([[1], analysis.speech.view(np.int8), [1]]))
    starts, stops = np.flatnonzero(edge == -1), np.flatnonzero(edge == 1)
    long = stops - starts >= _PAUSE
    pauses = ((starts + stops) // 2)[long]
    found: list[int] = []
    at = 0
    while frames - at > most:
        here = pauses[(pauses >= at + least) & (pauses <= at + most)]
        if len(here):
            at = int(here[0])
        else:
            inside = slice(at + least, at + most)
            level = analysis.energy[inside] + 20 * (analysis.f0[inside] > 0)
            at += least + int(level.argmin())
        found.append(at)
    return found


def rendered(
    waveform: Singles,
    sample_rate: int,
    analysis: Analysis,
    edit: VoiceEdit,
    *,
    seconds: float | None = None,
    protect: float = 0.3,
    engine: str = "psola",
    seed: int = 0,
    longest: float = LONGEST,
    on_piece: Callable[[float], None] | None = None,
) -> Singles:
    """As `pipelines.voice_render.render`, in pieces: (channels, samples) -> (channels, n).

    longest: seconds of a piece. on_piece: called with the share 0..1 that has been rendered.
    """
    places = cuts(analysis, longest)
    if not places:
        made = render(
            waveform, sample_rate, analysis, edit,
            seconds=seconds, protect=protect, engine=engine, seed=seed,
        )  # fmt: skip
        if on_piece is not None:
            on_piece(1.0)
        return made
    duration = waveform.shape[1] / sample_rate
    if seconds is not None:
        edit = fitted(edit, duration, seconds)
    warp = time_warp(edit, duration, None)
    total = waveform.shape[1] if warp[0] is warp[1] else round(float(warp[1][-1]) * sample_rate)
    if seconds is not None:
        total = round(seconds * sample_rate)

    def then(sample: int) -> int:
        """The sample of the result at which a sample of the source sounds."""
        if sample >= waveform.shape[1]:
            return total
        at = float(np.interp(sample / sample_rate, *warp)) * sample_rate
        return min(round(at), total)

    result = np.zeros((len(waveform), total), dtype=np.float32)
    half = round(FADE * sample_rate / 2)
    bounds = [0, *places, len(analysis)]
    for k, (first, last) in enumerate(pairwise(bounds)):
        low, high = max(0, first - MARGIN), min(len(analysis), last + MARGIN)
        begin = round(low * HOP * sample_rate / RATE)
        end = waveform.shape[1]
        if high < len(analysis):
            end = min(end, round(high * HOP * sample_rate / RATE))
        part = cut(analysis, low, end - begin, sample_rate)
        rows = {item.name: getattr(edit, item.name)[low : low + len(part)] for item in fields(edit)}
        at, stop = then(begin), then(end)
        length = int(np.clip(stop - at, *np.ceil(np.array(STRETCH) * (end - begin)).astype(int)))
        made = render(
            waveform[:, begin:end], sample_rate, part, VoiceEdit(**rows),
            seconds=length / sample_rate, protect=protect, engine=engine,
            seed=seed if k == 0 else _seed(seed, k),
        )  # fmt: skip
        _join(result, made, at, None if k == 0 else then(_sample(first, sample_rate)), half)
        if on_piece is not None:
            on_piece(last / len(analysis))
    return result


def _sample(frame: int, rate: int) -> int:
    return round(frame * HOP * rate / RATE)


def _join(result: Singles, made: Singles, at: int, middle: int | None, half: int) -> None:
    """Lay a piece down from sample `at` on, taking over from what lies there around `middle`."""
    stop = min(at + made.shape[1], result.shape[1])
    if middle is None:
        result[:, at:stop] = made[:, : stop - at]
        return
    low, high = max(middle - half, at), min(middle + half, stop)
    ramp = (0.5 - 0.5 * np.cos(np.pi * (np.arange(high - low) + 0.5) / max(high - low, 1))).astype(
        np.float32
    )
    here = made[:, low - at : high - at]
    result[:, low:high] += (here - result[:, low:high]) * ramp
    result[:, high:stop] = made[:, high - at : stop - at]


def cut(analysis: Analysis, first: int, samples: int, rate: int) -> Analysis:
    """The analysis from frame `first` on of so many samples at `rate`, as one of its own."""
    own = -(-samples * RATE // rate)
    frames = min(1 + own // HOP, len(analysis) - first)
    rows = {
        item.name: getattr(analysis, item.name)[first : first + frames]
        for item in fields(analysis)
        if item.name not in ("samples", "contour")
    }
    contour = analysis.contour[2 * first : 2 * first + 1 + own // (HOP // 2)]
    return replace(analysis, samples=own, contour=contour, **rows)


def fitted(edit: VoiceEdit, duration: float, seconds: float) -> VoiceEdit:
    """The edit with its stretch moved so that the whole lasts `seconds`, within the limits."""
    stretch, limit = edit.log_stretch.astype(np.float64), LIMITS["log_stretch"]
    moved = edit
    for _ in range(20):  # what is at its limit leaves the rest to the others
        now = float(time_warp(moved, duration, None)[1][-1])
        if abs(now - seconds) < 1e-6:
            break
        stretch = np.clip(stretch + np.log(seconds / now), -limit, limit)
        moved = replace(edit, log_stretch=stretch.astype(np.float32))
    return moved


def _seed(seed: int, piece: int) -> int:
    digest = hashlib.sha256(f"{seed} piece {piece}".encode()).digest()
    return int.from_bytes(digest[:6], "big")
