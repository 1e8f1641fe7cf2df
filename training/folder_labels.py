"""Any emotion labelling of a data set -> intensities of the twelve core emotions, and a VAD point.

A row of a table may say what is felt as a word (`emotion`: sadness, grief, Q3), as a text form
(`sadness .6 + fear .2`), as votes (`{"sad": 7, "neutral": 3}` or `["sad", "sad", "fear"]`), as a
distribution, as one column per emotion, or as valence, arousal and dominance, with an `intensity`
beside it. Scales that are not declared are inferred from the numbers of the whole set, and told.

    state = intensity * shares of the emotions,  soft label = (1 - sum(state), state)

as everywhere in this project (`Emotion.soft_label`). Where nobody graded the intensity, a named
emotion counts as `DEFAULT_INTENSITY`. Words come from `adapters.lexicon`; this file deliberately
knows neither files nor the layouts of published sets (`training.folder_layouts`).
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapters.emotion import CORE, DEFAULT_INTENSITY, Emotion, EmotionError
from adapters.lexicon import clean, look_up, nearest

Floats = NDArray[np.float64]

# Names of columns, lower case, the first that a row has is read.
EMOTION = ("emotion", "label", "category", "class", "dominant_emotion", "expression", "mood",
           "quadrant")  # fmt: skip
SHARES = ("votes", "counts", "distribution", "probabilities", "soft_label")
INTENSITIES = ("intensities",)
INTENSITY = ("intensity", "strength", "level")
AXES: tuple[tuple[str, ...], ...] = (
    ("valence", "valence_mean", "v", "pleasure"),
    ("arousal", "arousal_mean", "a"),
    ("dominance", "dominance_mean", "d", "control"),
)

# Scales people rate on: SAM 1..9 (Bradley and Lang 1994), Likert 1..5 and 1..7, EmoNet-Face 0..7,
# sliders 0..10 and 0..100, EmotiCrafter -3..3. The first that holds all numbers is taken.
SCALES: tuple[tuple[float, float], ...] = (
    (0, 1), (-1, 1), (1, 5), (1, 7), (-3, 3), (1, 9), (0, 7), (0, 10), (0, 100), (-100, 100),
)  # fmt: skip
GRADES: Mapping[str, float] = {
    "low": 1 / 3, "lo": 1 / 3, "weak": 1 / 3, "mild": 1 / 3, "medium": 2 / 3, "md": 2 / 3,
    "moderate": 2 / 3, "normal": 2 / 3, "high": 1.0, "hi": 1.0, "strong": 1.0, "intense": 1.0,
}  # fmt: skip
"""Words for an intensity: grade k of n is k / n."""

# A quadrant of valence and arousal (Russell 1980) holds several emotions: the core ones that its
# raters' words (happy, angry, sad, calm; EMOPIA, VGMIDI) stand for and that lie deepest in it.
QUADRANTS: Mapping[str, str] = {
    "q1": "happiness .5 + excitement .5", "hvha": "happiness .5 + excitement .5",
    "q2": "anger .5 + fear .5", "lvha": "anger .5 + fear .5",
    "q3": "sadness .7 + boredom .3", "lvla": "sadness .7 + boredom .3",
    "q4": "contentment 1", "hvla": "contentment 1",
}  # fmt: skip

_LONGEST = 500  # characters of an error
_WIDE_LEAST = 3  # columns with emotion words that make a table of one column per emotion
_SUM_SLACK = 0.02  # of a distribution that was rounded to two decimals


class DataError(ValueError):
    """Data that nothing can be trained from; one line that says what to change.

    What a file says may be quoted in it, so it is made one line of printable characters.
    """

    def __init__(self, text: str) -> None:
        line = "".join(c if c.isprintable() else "?" for c in text)
        super().__init__(line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1]}…")


@dataclass(frozen=True, slots=True, eq=False)
class Label:
    """What a row says is felt.

    state: (12,) intensities in CORE order, sum <= 1. vad: valence, arousal and dominance, -1..1
    each, None where that axis was not rated; None where none was. graded: whether somebody rated
    how strong it is; otherwise a named emotion counts as `DEFAULT_INTENSITY`.
    """

    state: Floats
    vad: tuple[float, float, float | None] | None = None
    graded: bool = False


def column(row: Mapping[str, Any], names: Sequence[str]) -> Any:
    """The first filled cell of a row under one of `names`; None where there is none."""
    for name in names:
        value = row.get(name)
        if value is not None and value != "" and value != [] and value != {}:
            return value
    return None


def unit(word: str, labels: Mapping[str, str] | None = None) -> Floats | None:
    """(12,) shares at full intensity of one emotion word, zeros for neutral; None if unknown.

    labels: own class names -> words or text forms of this project.
    """
    name = clean(str(word))
    own = {clean(key): value for key, value in (labels or {}).items()}
    name = clean(own.get(name, name))
    name = QUADRANTS.get(name, name)
    found = look_up(name)
    if found is not None:
        return np.asarray(found[0], dtype=np.float64)
    try:
        return Emotion.parse(name).array
    except EmotionError:
        return None


def to_labels(
    rows: Sequence[Mapping[str, Any]],
    *,
    labels: Mapping[str, str] | None = None,
    scales: Mapping[str, str] | None = None,
    intensity: float = DEFAULT_INTENSITY,
    tell: Callable[[str], None] = lambda line: None,
) -> list[Label | None]:
    """One label a row; None for a row that says nothing.

    Args:
        rows: cells by lower-case column name, as text, numbers or JSON values.
        labels: own class names -> words of this project, such as {"0": "amusement"}.
        scales: declared scales, such as {"valence": "1..9", "intensity": "0..7"}; the three axes
            share one, under any of their names.
        intensity: of a named emotion that nobody graded, 0..1.
        tell: takes a line for each scale that had to be inferred.

    Raises:
        DataError: words that are no emotions, cells that are no numbers, numbers off their scale.
    """
    if not 0 < intensity <= 1:
        msg = f"intensity: allowed above 0 to 1, received {intensity:g}"
        raise DataError(msg)
    words = _Words(labels or {})
    axes = _ratings(rows, scales or {}, tell)
    grades = _intensities(rows, scales or {}, tell)
    wide = _wide(rows, scales or {}, tell)
    found: list[Label | None] = []
    for k, row in enumerate(rows):
        vad, grade = axes[k], grades[k]
        strength = intensity if grade is None else grade
        state: Floats | None = None
        graded = grade is not None
        exact = column(row, INTENSITIES)
        shares = column(row, SHARES)
        word = column(row, EMOTION)
        if exact is not None:
            state, graded = words.weighted(_mapping(exact), normalise=False), True
        elif shares is not None:
            state = strength * words.weighted(_mapping(shares), normalise=True)
        elif wide[k] is not None:
            weights, kind = wide[k] or ({}, "")
            normalise = kind != "intensities"
            state = words.weighted(weights, normalise=normalise)
            state, graded = (strength * state, graded) if normalise else (state, True)
        elif word is not None:
            state, written = words.named(str(word), strength)
            graded = graded or written
        elif vad is not None:
            try:
                state, graded = Emotion.from_vad(*vad).array, True
            except EmotionError as error:
                raise DataError(str(error)) from error
        found.append(None if state is None else Label(_frozen(state), vad, graded))
    words.check(len(rows))
    return found


class _Words:
    """Looks words up, each once, and remembers those that are no emotions."""

    def __init__(self, labels: Mapping[str, str]) -> None:
        self.labels = labels
        self.known: dict[str, Floats | None] = {}
        self.wrong: Counter[str] = Counter()

    def unit(self, word: str) -> Floats:
        if word not in self.known:
            self.known[word] = unit(word, self.labels)
        found = self.known[word]
        if found is None:
            self.wrong[word] += 1
            return np.zeros(len(CORE))
        return found

    def named(self, text: str, strength: float) -> tuple[Floats, bool]:
        """A word at a strength, or a text form with numbers of its own."""
        has_numbers = any(c.isdigit() for c in text) and clean(text) not in QUADRANTS
        if has_numbers and clean(text) not in {clean(key) for key in self.labels}:
            try:
                return Emotion.parse(text).array, True
            except EmotionError:
                pass
        return strength * self.unit(text), False

    def weighted(self, weights: Mapping[str, float], *, normalise: bool) -> Floats:
        state = np.zeros(len(CORE))
        total = sum(weights.values())
        if not all(math.isfinite(w) and w >= 0 for w in weights.values()) or (
            normalise and not total > 0
        ):
            received = str(dict(weights))[:80]
            msg = f"data: votes and shares are 0 or more and not all 0, received {received}"
            raise DataError(msg)
        for word, weight in weights.items():
            if weight > 0:
                state += (weight / total if normalise else weight) * self.unit(word)
        return state if state.sum() <= 1 else state / state.sum()

    def check(self, rows: int) -> None:
        if not self.wrong:
            return
        listed = ", ".join(f'"{word[:40]}" ({n})' for word, n in self.wrong.most_common(5))
        first = self.wrong.most_common(1)[0][0]
        msg = (
            f"data: {len(self.wrong)} labels of {rows} rows are no emotions: {listed}; nearest "
            f'known to "{first[:40]}": {", ".join(nearest(first, 3))}; rename them, or '
            "leave those files out"
        )
        raise DataError(msg)


# Numbers -----------------------------------------------------------------------------------------


def scale_of(
    values: Sequence[float], name: str, declared: str | None, tell: Callable[[str], None]
) -> tuple[float, float]:
    """(low, high) of a rating: as declared ("1..9"), else the first of SCALES that holds all."""
    least, most = min(values), max(values)
    if declared is not None:
        low, high = _declared(name, declared)
        if least < low or most > high:
            msg = (
                f"scales: {name} is declared {declared}, received {least:g}..{most:g}; declare "
                "the scale of the file"
            )
            raise DataError(msg)
        return low, high
    for low, high in SCALES:
        if low <= least and most <= high:
            wrong = (
                "; if that is wrong, write the column from 0 to 1" if (low, high) != (0, 1) else ""
            )
            tell(f"{name}: {least:g}..{most:g} is read on the scale {low:g}..{high:g}{wrong}")
            return low, high
    msg = f"scales: {name} runs {least:g}..{most:g}, no usual scale; write it from 0 to 1"
    raise DataError(msg)


def _declared(name: str, text: str) -> tuple[float, float]:
    low, dots, high = str(text).partition("..")
    try:
        pair = float(low), float(high)
    except ValueError:
        pair = (0.0, 0.0)
    if not dots or not pair[0] < pair[1]:
        msg = f'scales: {name} expects low..high such as 1..9, received "{text}"'
        raise DataError(msg)
    return pair


def _ratings(
    rows: Sequence[Mapping[str, Any]], scales: Mapping[str, str], tell: Callable[[str], None]
) -> list[tuple[float, float, float | None] | None]:
    raw = [[_number(row, names) for names in AXES] for row in rows]
    pairs = [r for r in raw if r[0] is not None and r[1] is not None]
    if not pairs:
        return [None] * len(rows)
    declared = next((scales[n] for names in AXES for n in names if n in scales), None)
    numbers = [x for r in pairs for x in r if x is not None]
    low, high = scale_of(numbers, "valence", declared, tell)
    out: list[tuple[float, float, float | None] | None] = []
    for row in raw:
        unit_ = [None if x is None else 2 * (x - low) / (high - low) - 1 for x in row]
        v, a, d = unit_
        out.append(None if v is None or a is None else (v, a, d))
    return out


def _intensities(
    rows: Sequence[Mapping[str, Any]], scales: Mapping[str, str], tell: Callable[[str], None]
) -> list[float | None]:
    cells = [column(row, INTENSITY) for row in rows]
    words = [GRADES.get(clean(c)) if isinstance(c, str) else None for c in cells]
    numbers = [
        None if c is None or w is not None else _number(row, INTENSITY)
        for row, c, w in zip(rows, cells, words, strict=True)
    ]
    known = [x for x in numbers if x is not None]
    if known:
        declared = next((scales[name] for name in INTENSITY if name in scales), None)
        numbers = _graded(numbers, *scale_of(known, "intensity", declared, tell))
    return [n if w is None else w for n, w in zip(numbers, words, strict=True)]


def _graded(numbers: Sequence[float | None], low: float, high: float) -> list[float | None]:
    """On 0..1. A scale from 1 is graded k of n: its lowest grade is weak, not absent."""
    start = low - 1 if low == 1 else low
    return [None if x is None else (x - start) / (high - start) for x in numbers]


def _wide(
    rows: Sequence[Mapping[str, Any]], scales: Mapping[str, str], tell: Callable[[str], None]
) -> list[tuple[dict[str, float], str] | None]:
    """Rows of a table with a column per emotion, as weights by word, and what they are."""
    taken = {*EMOTION, *SHARES, *INTENSITIES, *INTENSITY, *(n for names in AXES for n in names)}
    heads = [h for h in dict.fromkeys(k for row in rows for k in row) if h not in taken]
    columns = [h for h in heads if look_up(h) is not None]
    if len(columns) < _WIDE_LEAST:
        return [None] * len(rows)
    table = [{h: _number(row, (h,)) for h in columns} for row in rows]
    filled = [{h: x for h, x in row.items() if x is not None} for row in table]
    sums = [sum(row.values()) for row in filled if row]
    numbers = [x for row in filled for x in row.values()]
    if not numbers:
        return [None] * len(rows)
    if all(abs(s - 1) <= _SUM_SLACK for s in sums):
        kind = "distribution"
    elif all(x == int(x) for x in numbers) and len(set(sums)) <= 2 and max(numbers) > 1:
        kind = "votes"
    else:
        kind = "intensities"
        declared = next((scales[h] for h in (*INTENSITY, *columns) if h in scales), None)
        low, high = scale_of(numbers, "intensity", declared, tell)
        filled = [
            {h: (x - low) / (high - low) for h, x in row.items() if high > low} for row in filled
        ]
    tell(f"columns {', '.join(columns[:4])}, ... are read as {kind}")
    return [
        (row, kind) if row and (kind == "intensities" or sum(row.values()) > 0) else None
        for row in filled
    ]


def _number(row: Mapping[str, Any], names: Sequence[str]) -> float | None:
    value = column(row, names)
    if value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        where = row.get("_where", "a row")
        name = next(n for n in names if row.get(n) is not None)
        msg = f'data: {name} of {where} is no number: "{str(value)[:40]}"; correct it or leave out'
        raise DataError(msg)
    return number


def _mapping(value: Any) -> dict[str, float]:
    """Votes or shares from JSON: {"sad": 7}, ["sad", "sad", "fear"] or "sad;sad;fear"."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            value = [part for part in value.replace(";", ",").split(",") if part.strip()]
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        return {word: float(n) for word, n in Counter(item.strip() for item in value).items()}
    if isinstance(value, list) and len(value) == len(CORE) + 1:  # this project's own soft label
        value = dict(zip(("neutral", *CORE), value, strict=True))
    try:
        return {str(word): float(weight) for word, weight in dict(value).items()}
    except (TypeError, ValueError, OverflowError) as error:
        msg = f'data: votes are expected as {{"sad": 7, "fear": 3}}, received {str(value)[:60]}'
        raise DataError(msg) from error


def _frozen(state: Floats) -> Floats:
    state = np.clip(state, 0.0, 1.0)
    state = state / max(1.0, float(state.sum()))
    state.setflags(write=False)
    return state
