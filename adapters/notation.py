"""The text forms of an emotion, the same on the command line, in manifests and in file metadata.

    sadness 0.8                                 a name and an intensity 0..1 (also 80%, sadness=0.8)
    sadness                                     a name alone: intensity .7
    happiness .6 + fear .2                      a mixture; the intensities add up to at most 1
    happiness + fear                            names alone share .7 between them
    grief .9                                    any word of the lexicon: that share of its mixture
    v=-.7 a=.3 d=0                              a point of valence, arousal, dominance, each -1..1;
                                                without d the dominance that usually goes along
    contentment .5 + dv=.1 dd=-.4               a shift of that point which no core emotion explains
    neutral                                     nothing
    0s contentment .5; 8s fear .9; 1m awe .6    keys of a timeline: ms, s or m
    "I just lost my dog"                        free text in double quotes, read by the lexicon
    "I just lost my dog" .9                     the same, scaled to an intensity of its own

Shells eat quotes, so a phrase of several words that holds no number and in which the lexicon finds
an emotion is read as free text without them. It does not know what a word means (that is
`adapters.lexicon`) nor how a state is written (`Emotion.text`).
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from adapters.emotion import (
    CORE,
    DEFAULT_INTENSITY,
    MOST_OVER,
    SLACK,
    Emotion,
    EmotionError,
    EmotionTimeline,
    check_intensity,
)
from adapters.lexicon import entry, look_up, read_text

LONGEST = 20_000  # characters; text of this length is a mistake or an attack, not an emotion

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?"
_TERM = re.compile(rf"(?P<name>[^\d=:]*?)\s*[=:]?\s*(?P<number>{_NUMBER})\s*(?P<percent>%)?", re.I)
# What programs print for a number that is none; after an emotion's name it is no free text.
_NO_NUMBER = re.compile(r"(?P<name>.*\S)\s+(?P<number>[-+]?(?:nan|inf|infinity))", re.I)
_TIME = re.compile(rf"(?P<t>{_NUMBER})\s*(?P<unit>ms|s|sec|m|min)\b\s*(?P<rest>.*)", re.I | re.S)
_AXES = {"v": "v", "a": "a", "d": "d", "valence": "v", "arousal": "a", "dominance": "d"}
_AXIS = re.compile(
    rf"(d?)(valence|arousal|dominance|v|a|d)\s*=\s*({_NUMBER})(?=[\s,]|$)[\s,]*", re.I
)
_SECONDS = {"ms": 0.001, "s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0}
_QUOTES = str.maketrans({"“": '"', "”": '"', "„": '"', "«": '"', "»": '"', "\u2212": "-"})
_FORMS = "write it like: sadness 0.8, happiness .6 + fear .2, v=-.7 a=.3 d=0"


def parse_emotion(text: str, *, over: bool = False, reader: str | None = None) -> Emotion:
    """Read one emotion; raises EmotionError with one line for anything else."""
    clean = _clean(text)
    parts = _split(clean, ";")
    if len(parts) > 1 or _TIME.fullmatch(parts[0]):
        msg = f"emotion: expected one emotion, received the timeline {_short(text)}; keep one key"
        raise EmotionError(msg)
    return _mixture(parts[0], over=over, reader=reader)


def parse_timeline(text: str, *, over: bool = False, reader: str | None = None) -> EmotionTimeline:
    """Read one emotion or a timeline; raises EmotionError with one line for anything else."""
    parts = _split(_clean(text), ";")
    if len(parts) == 1 and not _TIME.fullmatch(parts[0]):
        return EmotionTimeline.constant(_mixture(parts[0], over=over, reader=reader))
    keys: list[tuple[float, Emotion]] = []
    for part in parts:
        found = _TIME.fullmatch(part)
        if not found or not found["rest"]:
            msg = (
                f"timeline: each key needs a time and an emotion, received {_short(part)}; "
                "write it like: 0s contentment .5; 8s fear .9"
            )
            raise EmotionError(msg)
        seconds = float(found["t"]) * _SECONDS[found["unit"].lower()]
        keys.append((seconds, _mixture(found["rest"].strip(), over=over, reader=reader)))
    return EmotionTimeline(tuple(keys))


def _clean(text: str) -> str:
    if len(text) > LONGEST:
        msg = f"emotion: at most {LONGEST} characters allowed, received {len(text)}; shorten it"
        raise EmotionError(msg)
    clean = text.translate(_QUOTES).strip()
    if not clean.strip("; \t\r\n"):
        msg = f"emotion: expected an emotion, received an empty text; {_FORMS}"
        raise EmotionError(msg)
    if clean.count('"') % 2:
        msg = f"emotion: a double quote is not closed in {' '.join(text.split())[:40]}; close it"
        raise EmotionError(msg)
    return clean


def _split(text: str, mark: str) -> list[str]:
    """Parts between marks outside quotes, stripped; a trailing semicolon is no part."""
    parts = re.split(rf'{re.escape(mark)}(?=(?:[^"]*"[^"]*")*[^"]*$)', text)
    if mark == ";" and not parts[-1].strip():
        parts.pop()
    return [part.strip() for part in parts]


def _mixture(text: str, *, over: bool, reader: str | None) -> Emotion:
    axes = _read_axes(text)
    if axes is not None and axes[0] == "":
        return Emotion.from_vad(*axes[1])
    terms = _terms(text)
    state = np.zeros(len(CORE) + 3)
    for term in terms:
        state += _term(term, len(terms), over=over, reader=reader)
    total = float(state[: len(CORE)].sum())
    if total > (MOST_OVER if over else 1.0) + SLACK:
        check_intensity(total, f"{_short(text, 60)} together", over=over)
    return Emotion._of_state(state)


def _terms(text: str) -> list[str]:
    """Split at '+', but not at the sign of a number as in dv=+.1 or 1e+3."""
    terms: list[str] = []
    glue = False
    for piece in _split(text, "+"):
        if glue:
            terms[-1] += f"+{piece}"
        else:
            terms.append(piece)
        glue = bool(re.search(r"(=|\de)$", piece, re.I))
    return terms


def _term(term: str, among: int, *, over: bool, reader: str | None) -> NDArray[np.float64]:
    """State (15,) of one term of a mixture."""
    if not term:
        msg = f"emotion: a name is missing beside '+'; {_FORMS}"
        raise EmotionError(msg)
    axes = _read_axes(term)
    if axes is not None:
        kind, (dv, da, dd) = axes
        shift = (dv, da, dd or 0.0)
        if kind == "" or max(abs(x) for x in shift) > 2.0:
            msg = (
                f"emotion: expected dv=, da=, dd= between -2 and 2 in a mixture, received "
                f"{_short(term)}; a point v= a= d= stands alone"
            )
            raise EmotionError(msg)
        return np.append(np.zeros(len(CORE)), shift)
    quoted = re.fullmatch(rf'"([^"]*)"\s*({_NUMBER})?\s*(%)?', term)
    if quoted:
        read = read_text(quoted[1], reader=reader)
        return _quoted(read, quoted[2], quoted[3], over=over)
    found = _TERM.fullmatch(term)
    name = (found["name"] if found else term).strip().strip("'\"").strip()
    if not name or any(c in name for c in '=:"') or re.search(r"\d", name):
        msg = f"emotion: cannot read {_short(term)}; {_FORMS}"
        raise EmotionError(msg)
    if name.lower() == "neutral":
        if found:
            check_intensity(_value(found["number"], found["percent"]), name, over=over)
        return np.zeros(len(CORE) + 3)
    if (no := _NO_NUMBER.fullmatch(name)) and look_up(no["name"]) is not None:
        msg = (
            f"emotion: intensity of {no['name']} allowed 0 to 1, received {no['number']}; "
            "give a number in that range"
        )
        raise EmotionError(msg)
    if not found and " " in name and look_up(name) is None:
        read = read_text(name, reader=reader, quiet=True)
        if read.intensity > 0.0:
            return np.append(read.array, read.residual)
    unit = np.append(*entry(name))
    value = _value(found["number"], found["percent"]) if found else DEFAULT_INTENSITY / among
    check_intensity(value, name, over=over)
    return value * unit


def _quoted(
    read: Emotion, number: str | None, percent: str | None, *, over: bool
) -> NDArray[np.float64]:
    state = np.append(read.array, read.residual)
    if number is None:
        return state
    value = _value(number, percent)
    check_intensity(value, "the quoted text", over=over)
    return state * (value / read.intensity) if read.intensity else state


def _value(number: str, percent: str | None) -> float:
    return float(number) / (100.0 if percent else 1.0)


def _read_axes(text: str) -> tuple[str, tuple[float, float, float | None]] | None:
    """("", point) for v= a= d=, ("d", shift) for dv= da= dd=, None for any other text."""
    if not re.match(r"d?(valence|arousal|dominance|v|a|d)\s*=", text, re.I):
        return None
    values: dict[str, float] = {}
    kinds = set()
    at = 0
    while at < len(text) and (found := _AXIS.match(text, at)):
        kinds.add(found[1].lower())
        axis = _AXES[found[2].lower()]
        if axis in values:
            break
        values[axis] = float(found[3])
        at = found.end()
    if at < len(text) or len(kinds) != 1:
        msg = (
            f"emotion: cannot read {_short(text)}; write v=-.7 a=.3 d=0 (each once, -1 to 1) or "
            "dv=.1 da=0 dd=-.2 as a part of a mixture"
        )
        raise EmotionError(msg)
    return kinds.pop(), (values.get("v", 0.0), values.get("a", 0.0), values.get("d"))


def _short(text: str, most: int = 40) -> str:
    """The text in quotes on one line, cut to be readable in a message."""
    line = " ".join(text.split())
    return f'"{line[: most - 1]}…"' if len(line) > most else f'"{line}"'
