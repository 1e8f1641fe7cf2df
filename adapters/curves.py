"""Emotion curves as material: cut, joined, shifted, and made from presets.

A film has one `EmotionTimeline`; each of its shots is given the piece of it that it plays in. A
piece is a timeline again, so every modality takes it, and it holds the same values: where the
interpolation of the shorter timeline would differ from the longer one, keys are added.

It knows no pictures and no sound.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from adapters.emotion import CORE, Emotion, EmotionError, EmotionTimeline

Array = NDArray[np.float64]

TOLERANCE = 2e-3
"""Most by which an intensity of a piece differs from the whole: a tenth of what a critic sees."""
JUMP = 0.02
"""Seconds a join takes where two curves do not meet: half a frame at 25 a second."""
# Intensities and residuals.
WIDTH = len(CORE) + 3
# Adding keys stops at this distance: below it nothing that is made here can tell.
CLOSEST = 0.02
# Places looked at between two keys when comparing.
LOOKS = 9


def cut(timeline: EmotionTimeline, start: float, end: float) -> EmotionTimeline:
    """The piece from start to end seconds, moved to 0: piece.at(t) is timeline.at(start + t).

    Values agree within TOLERANCE: keys are added where fewer would bend differently. Where nothing
    changes between start and end the result has one key. Raises EmotionError unless
    0 <= start < end, both finite.
    """
    if not (np.isfinite(start) and np.isfinite(end) and 0.0 <= start < end):
        msg = f"cut: allowed 0 <= start < end in seconds, received start {start:g}, end {end:g}"
        raise EmotionError(msg)
    inner = [t - start for t, _ in timeline.keys if start < t < end]

    def states(times: Array) -> Array:
        return timeline._states(times + start)

    return _fitted(states, end - start, inner)


def join(parts: Sequence[tuple[EmotionTimeline, float]]) -> EmotionTimeline:
    """Curves one after the other, each for its seconds; where two do not meet, a jump of 20 ms.

    parts: (timeline, seconds > 2 JUMP). After the last part its last value holds. Raises
    EmotionError.
    """
    if not parts:
        msg = "join: expected at least one (timeline, seconds), received none"
        raise EmotionError(msg)
    for _, seconds in parts:
        if not (np.isfinite(seconds) and seconds > 2 * JUMP):
            msg = f"join: each part allowed more than {2 * JUMP:g} s, received {seconds:g}"
            raise EmotionError(msg)
    starts = np.cumsum([0.0, *(seconds for _, seconds in parts)])
    curves = [timeline for timeline, _ in parts]
    inner: list[float] = []
    jumps = []
    for i, (timeline, seconds) in enumerate(parts):
        inner += [starts[i] + t for t, _ in timeline.keys if 0.0 < t < seconds - 2 * JUMP]
        if i + 1 < len(parts):
            inner.append(float(starts[i + 1]))
            if timeline.at(seconds) != curves[i + 1].at(0.0):
                # The end of a part gives way: a cut shows the new value in its first frame.
                jumps.append(i + 1)
                inner.append(float(starts[i + 1]) - JUMP)

    def states(times: Array) -> Array:
        part = np.clip(np.searchsorted(starts, times, side="right") - 1, 0, len(parts) - 1)
        out = np.empty((len(times), WIDTH))
        for i, timeline in enumerate(curves):
            here = part == i
            out[here] = timeline._states(times[here] - starts[i])
        for i in jumps:
            ends = np.array([starts[i] - JUMP, starts[i]])
            here = (times > ends[0]) & (times < ends[1])
            last = curves[i - 1]._states(ends[:1] - starts[i - 1])
            share = ((times[here] - ends[0]) / JUMP)[:, None]
            out[here] = (1 - share) * last + share * curves[i]._states(ends[1:] - starts[i])
        return out

    return _fitted(states, float(starts[-1]), sorted(inner))


def shifted(timeline: EmotionTimeline, seconds: float) -> EmotionTimeline:
    """The same curve `seconds` later; earlier when negative, and then what lies before 0 is cut."""
    if not np.isfinite(seconds):
        msg = f"shifted: expected finite seconds, received {seconds}"
        raise EmotionError(msg)
    if seconds >= 0.0 or timeline.is_constant:
        later = max(seconds, 0.0)
        return EmotionTimeline(tuple((t + later, emotion) for t, emotion in timeline.keys))
    if -seconds >= timeline.duration:
        return EmotionTimeline.constant(timeline.keys[-1][1])
    return cut(timeline, -seconds, timeline.duration)


def _fitted(
    states: Callable[[Array], Array], seconds: float, inner: Sequence[float]
) -> EmotionTimeline:
    """A timeline over 0..seconds that agrees with a function (n,) -> (n, 15) within TOLERANCE."""
    times = np.array([0.0, *inner, seconds])
    while True:
        timeline = EmotionTimeline(
            tuple(zip(times.tolist(), map(Emotion._of_state, states(times)), strict=True))
        )
        looks = np.linspace(times[:-1], times[1:], LOOKS + 2, axis=1)[:, 1:-1]
        wanted = states(looks.ravel())
        away = np.abs(timeline._states(looks.ravel()) - wanted).max(axis=1)
        bad = away.reshape(looks.shape).max(axis=1) > TOLERANCE
        bad &= np.diff(times) > 2 * CLOSEST
        if not bad.any():
            break
        times = np.sort(np.append(times, (times[:-1] + times[1:])[bad] / 2))
    if timeline.is_constant and np.ptp(wanted, axis=0).max() <= TOLERANCE:
        return EmotionTimeline.constant(timeline.keys[0][1])
    return EmotionTimeline(_without_repeats(list(timeline.keys)))


def _without_repeats(keys: list[tuple[float, Emotion]]) -> tuple[tuple[float, Emotion], ...]:
    """Keys without those between two equal ones: they say nothing."""
    kept = [
        key
        for i, key in enumerate(keys)
        if i in (0, len(keys) - 1) or not (keys[i - 1][1] == key[1] == keys[i + 1][1])
    ]
    if all(emotion == kept[0][1] for _, emotion in kept):
        return ((0.0, kept[0][1]),)
    return tuple(kept)
