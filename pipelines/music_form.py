"""The form of a piece: how long, how fast, which phrases return, where they come to rest.

A small language model writes good bars and no piece: nothing returns and nothing ends. So the form
is decided before the notes, as an improviser does: phrases of four bars that are stated, returned
to with changes and set against another; a half cadence where a phrase asks, an authentic one where
it answers, a tonic at the end (Caplin 1998, "Classical Form": sentence, period, small ternary).
The transformer fills it. This file deliberately knows no token, no model and no emotion.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Cadence = Literal["", "half", "approach", "authentic", "final"]
PHRASE = 4
"""Bars of a phrase: the commonest length in songs and in classical themes alike."""
SLOWEST, FASTEST = 30.0, 240.0  # beats a minute of a finished tempo map

# Phrases by letter for as many as a piece has; the same letter returns, a dash is a coda.
_FORMS = {
    1: "a",
    2: "aa",
    3: "aba",
    4: "aaba",
    5: "aaba-",
    6: "aabbaa",
    7: "aabbaa-",
    8: "aabbcaa-",
}
_RONDO = "aabbaaccaaddaa"

FORMS = ("auto", "song", "rondo", "through")
"""What a person can choose: song is auto's rule for all lengths, through returns to nothing."""


@dataclass(frozen=True, slots=True)
class BarForm:
    """The part of one bar in the form.

    phrase: number of its phrase. place: bars since the phrase began. letter: which theme.
    source: the earlier bar that it brings back, None when it is new. cadence: how it comes to
    rest; "approach" is the bar before an authentic or final one.
    """

    phrase: int
    place: int
    letter: str
    source: int | None
    cadence: Cadence


def plan_bars(
    seconds: float, tempo_at: Callable[[float], float], beats_per_bar: float = 4.0
) -> tuple[int, NDArray[np.float64]]:
    """How many bars fill `seconds` exactly, and the tempo of each.

    tempo_at: wanted quarter notes a minute at a time in seconds. The tempos that come out follow
    it, all scaled by one factor (nearest to 1 that whole bars allow).

    Returns:
        bars, and tempo float64 (bars,) with sum(beats_per_bar * 60 / tempo) == seconds.
    """
    at = 0.0
    lengths: list[float] = []
    while at < seconds and len(lengths) < 4000:
        length = beats_per_bar * 60.0 / min(max(tempo_at(at), SLOWEST), FASTEST)
        # The tempo in the middle of the bar is what is heard as its tempo.
        length = beats_per_bar * 60.0 / min(max(tempo_at(at + length / 2), SLOWEST), FASTEST)
        lengths.append(length)
        at += length
    total = np.cumsum(lengths)
    # One bar less when the last one is more than half outside.
    bars = len(lengths)
    if bars > 1 and total[-1] - seconds > seconds - total[-2]:
        bars -= 1
    chosen = np.array(lengths[:bars]) * (seconds / total[bars - 1])
    return bars, beats_per_bar * 60.0 / chosen


def form_of(bars: int, *, form: str = "auto", lead: int = 0) -> list[BarForm]:
    """The form of a piece of `bars` bars.

    Phrases have four bars; what is left over becomes a longer last phrase (1 bar), or a coda of
    two or three bars. `lead`: bars that stand before it when a piece is continued; they count in
    `source`, and their last phrase is the first theme, which may return.
    """
    if bars < 1:
        msg = f"bars: at least 1, received {bars}; ask for more seconds or a faster tempo"
        raise ValueError(msg)
    lengths = [PHRASE] * (bars // PHRASE)
    rest = bars - PHRASE * len(lengths)
    if not lengths:
        lengths = [bars]
    elif rest == 1:
        lengths[-1] += 1
    elif rest:
        lengths.append(rest)
    first_of: dict[str, tuple[int, int]] = {}
    if lead >= PHRASE:
        letters = _letters(len(lengths) + 1, form)[1:]
        first_of["a"] = (lead - PHRASE, PHRASE)
        if letters[0] == "a" and len(letters) > 1:  # go on with something new
            letters = letters[1:] + letters[0]
    else:
        letters = _letters(len(lengths), form)
    if rest > 1 and len(lengths) > 1:
        letters = letters[: len(lengths) - 1] + "-"
    start = lead
    found: list[BarForm] = []
    for phrase, (length, letter) in enumerate(zip(lengths, letters, strict=True)):
        here = start + len(found)
        known = first_of.get(letter) if letter != "-" and form != "through" else None
        last = phrase == len(lengths) - 1
        answers = known is not None or phrase % 2 == 1
        for place in range(length):
            source = None
            if known is not None and place < min(length, known[1]):
                source = known[0] + place
            cadence: Cadence = ""
            if place == length - 1:
                cadence = "final" if last else ("authentic" if answers else "half")
            elif place == length - 2 and (last or answers):
                cadence = "approach"
            if cadence:  # the close of a phrase is always written for where it leads
                source = None
            found.append(BarForm(phrase, place, letter, source, cadence))
        if known is None:
            first_of[letter] = (here, length)
    return found


def _letters(phrases: int, form: str) -> str:
    if form == "through":
        return "".join(chr(ord("a") + i % 26) for i in range(phrases))
    if phrases in _FORMS and form != "rondo":
        return _FORMS[phrases]
    return (_RONDO * (phrases // len(_RONDO) + 1))[:phrases]


def cadence_chords(
    form: BarForm, minor: bool, beats_per_bar: float = 4.0
) -> tuple[str | None, str | None]:
    """Roman numerals of a bar's two halves where the form fixes them, None where it does not.

    half: ends on V. approach: a predominant, then V. authentic and final: I (final: both halves).
    The first bar of a phrase that states a theme stands on I.
    """
    tonic, dominant = ("i" if minor else "I"), "V"
    before = "iv" if minor else "IV"
    if form.cadence == "half":
        return None, dominant
    if form.cadence == "approach":
        return before, dominant
    if form.cadence == "authentic":
        return tonic, None
    if form.cadence == "final":
        return tonic, tonic
    if form.place == 0 and form.letter in "a-":
        return tonic, None
    return None, None
