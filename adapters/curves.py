"""Emotion curves as material: cut, joined, shifted, and made from presets.

A film has one `EmotionTimeline`; each of its shots is given the piece of it that it plays in. A
piece is a timeline again, so every modality takes it, and it holds the same values: where the
interpolation of the shorter timeline would differ from the longer one, keys are added.

Presets are courses that emotions take in films: hold, swell, drift, leap, escalate, recover, kept
in assets/emotions/curves.json, where each number says whether it was measured or chosen. A file of
the same form may be given as FILE.json:NAME. It knows no pictures and no sound.

Source: EmoVid (arXiv 2511.11002) for persistence and for which emotion leads to which.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapters.assets import ASSETS
from adapters.emotion import CORE, Emotion, EmotionError, EmotionTimeline

Array = NDArray[np.float64]

SHIPPED = ASSETS / "emotions" / "curves.json"
LARGEST_FILE = 1_000_000  # bytes; a table of courses has a few thousand

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


# Presets -----------------------------------------------------------------------------------------


def presets(file: str | Path | None = None) -> dict[str, str]:
    """What each preset does, by name: of the shipped table, or of a file of the same form."""
    table = _table(None if file is None else str(file))
    return {name: str(one.get("about", "")) for name, one in table["presets"].items()}


def preset(name: str, emotion: Emotion, seconds: float) -> EmotionTimeline:
    """The course of a preset for one emotion, over a length.

    name: one of presets(), or FILE.json:NAME (FILE.json alone where it holds one). seconds: above
    0. No state is stronger than the emotion that is asked for. Raises EmotionError in one line.
    """
    if not (np.isfinite(seconds) and seconds > 0.0):
        msg = f"curve {name}: seconds allowed above 0, received {seconds:g}"
        raise EmotionError(msg)
    file, _, wanted = name.rpartition(":") if ".json:" in name else ("", "", name)
    if name.endswith(".json"):
        file, wanted = name, ""
    table = _table(file or None)
    courses = table["presets"]
    if not wanted and len(courses) == 1:
        wanted = next(iter(courses))
    if wanted not in courses:
        near = get_close_matches(wanted, courses, 1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else "or give your own as FILE.json:NAME"
        msg = f"curve: allowed {', '.join(courses)}; received {wanted or name}; {hint}"
        raise EmotionError(msg)
    keys: dict[float, Emotion] = {}
    for key in courses[wanted]["keys"]:
        at = key["at"]
        share = _persistence(emotion, table["persistence"]) if at == "persistence" else float(at)
        share = min(share + float(key.get("after", 0.0)), 1.0)
        keys[round(share * seconds, 6)] = _led(emotion, key["state"], table["leads"])
    times = list(keys)
    if any(b <= a for a, b in pairwise(times)):
        shown = ", ".join(f"{t:g}s" for t in times)
        msg = f"curve {wanted}: its keys must follow each other, received {shown}; reorder them"
        raise EmotionError(msg)
    return EmotionTimeline(_without_repeats(list(keys.items())))


def _persistence(emotion: Emotion, table: Mapping[str, float]) -> float:
    """Share of the length for which a mixture lasts: the mean of its parts."""
    if not emotion.intensity:
        return float(table["other"])
    lasts = np.array([table.get(name, table["other"]) for name in CORE])
    return float(emotion.array @ lasts / emotion.array.sum())


def _led(emotion: Emotion, state: Mapping[str, float], leads: Mapping[str, Any]) -> Emotion:
    """The emotion itself and what it leads to, each with its factor."""
    own = float(state.get("self", 0.0))
    intensities = own * emotion.array
    for word, factor in state.items():
        if word == "self":
            continue
        for name, share in zip(CORE, emotion.array, strict=True):
            for target, part in leads[word].get(name, {name: 1.0}).items():
                intensities[CORE.index(target)] += float(factor) * share * float(part)
    v, a, d = (own * x for x in emotion.residual)
    return Emotion(tuple(intensities.tolist()), (v, a, d))


@cache
def _shipped() -> dict[str, Any]:
    table: dict[str, Any] = json.loads(SHIPPED.read_text(encoding="utf-8"))
    return table


def _table(file: str | None) -> Mapping[str, Any]:
    """The shipped table, or the tables of a file over it, checked; never cached: people edit it."""
    if file is None:
        return _shipped()
    path = Path(file).expanduser()
    try:
        if path.stat().st_size > LARGEST_FILE:
            msg = f"curve: {file} is larger than {LARGEST_FILE} bytes; is it a table of curves?"
            raise EmotionError(msg)
        given = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        msg = f"curve: {file} cannot be read ({error.strerror}); copy {SHIPPED.name} and edit it"
        raise EmotionError(msg) from error
    except ValueError as error:
        if isinstance(error, EmotionError):
            raise
        where = f" (line {error.lineno})" if isinstance(error, json.JSONDecodeError) else ""
        msg = f"curve: {file} is no JSON{where}; mend it, or start from a copy of {SHIPPED.name}"
        raise EmotionError(msg) from error
    try:
        return _checked(given)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        said = str(error) if isinstance(error, EmotionError) else f"{type(error).__name__} {error}"
        msg = f"curve: {file} is not like {SHIPPED.name} ({said}); compare the two"
        raise EmotionError(msg) from error


def _checked(given: Any) -> dict[str, Any]:
    """A table with everything that preset() looks up; raises what went wrong."""
    shipped = _shipped()
    persistence = {**shipped["persistence"], **given.get("persistence", {})}
    for name, share in persistence.items():
        _number(f"persistence of {name}", share)
    leads = {**shipped["leads"], **given.get("leads", {})}
    for word, rows in leads.items():
        for name, row in rows.items():
            if name == "about":
                continue
            for target in (name, *row):
                if target not in CORE:
                    msg = f"{word}: {target} is not a core emotion"
                    raise EmotionError(msg)
            if sum(_number(f"{word} of {name}", part) for part in row.values()) > 1.0 + 1e-6:
                msg = f"{word} of {name}: its parts add up to more than 1"
                raise EmotionError(msg)
    if not given["presets"]:
        msg = "it holds no presets"
        raise EmotionError(msg)
    for name, course in given["presets"].items():
        if not course["keys"]:
            msg = f"{name}: it holds no keys"
            raise EmotionError(msg)
        for key in course["keys"]:
            if key["at"] != "persistence":
                _number(f"{name}: at", key["at"])
            _number(f"{name}: after", key.get("after", 0.0))
            unknown = set(key["state"]) - {"self", *leads}
            if unknown or set(key) - {"at", "after", "state"}:
                what = min(unknown or set(key) - {"at", "after", "state"})
                msg = f"{name}: {what} is unknown; allowed self, {', '.join(leads)}"
                raise EmotionError(msg)
            if sum(_number(f"{name}: state", part) for part in key["state"].values()) > 1.0 + 1e-6:
                msg = f"{name}: a state adds up to more than 1"
                raise EmotionError(msg)
    return {"persistence": persistence, "leads": leads, "presets": given["presets"]}


def _number(what: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 <= value <= 1.0:
        msg = f"{what}: allowed 0 to 1, received {value!r}"
        raise EmotionError(msg)
    return float(value)
