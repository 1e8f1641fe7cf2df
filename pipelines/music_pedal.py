"""When a pianist's right foot goes down and up: syncopated pedalling by harmony.

The pedal goes up as a new harmony is struck and down again while its keys are held, so nothing of
the old chord is carried over and nothing of the new one is lost. Harmonies are found from the
notes, beat by beat. It deliberately does not decide whether a mood wants pedal: `wish` says so.

Practice as in Banowetz, "The Pianist's Guide to Pedaling" (1985), legato pedal.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from adapters.piece import Piece
from adapters.tonality import pitch_class_weights

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

#: How much wish it takes, and how many different notes may sound together before it is a blur.
PEDALLED, MOST_BLURRED = 0.42, 6
ONE_CHORD = 0.7
"""Share of what sounds, before and now, that one chord must hold to be the same harmony: two thirds
is what triads a third or a seventh chord a fifth apart have in common."""
TOGETHER = 0.04  # beats: one chord
#: Seconds: the old chord is damped just after the new one is struck, so there is no hole.
OVERLAP = 0.02
SHORTEST = 0.1


def pedalling(piece: Piece, melody: Mask, start: Floats, end: Floats, wish: Floats) -> Floats:
    """(p, 2) beats at which the pedal goes down and up.

    piece: as written, at least one note. melody: (n,) notes whose passing tones change no harmony.
    start, end: (n,) seconds at which keys go down and up. wish: (beats + 1,) how much each beat
    wants pedal, 0..1.
    """
    edges = np.arange(len(wish), dtype=np.float64)
    lines = np.mod(edges + 1e-6, piece.beats_per_bar) < 0.999
    under = piece.select(~melody) if not melody.all() else piece
    window = np.minimum((piece.onset + 1e-6).astype(np.int64), len(edges) - 2)
    opens = _harmonies(pitch_class_weights(under, edges), lines)
    opens = [beat for beat in opens if np.isin(beat, window)]  # where something is struck
    events = []
    for beat, after in pairwise([*opens, len(edges) - 1]):
        inside = np.flatnonzero((window >= beat) & (window < after))
        chord = inside[piece.onset[inside] - piece.onset[inside[0]] <= TOGETHER]
        struck = float(start[chord].max())
        following = np.flatnonzero(window >= after)
        up = piece.seconds
        if len(following):
            up = min(up, float(start[following[0]]) + OVERLAP)
        half_a_beat = float(piece.seconds_at(edges[beat] + 0.5) - piece.seconds_at(edges[beat]))
        held = float((end[chord] - struck).min())
        down = struck + max(OVERLAP, min(half_a_beat, 0.8 * held))
        blurred = len(np.unique(piece.pitch[inside] % 12)) > MOST_BLURRED
        if wish[beat] >= PEDALLED and not blurred and up - down > SHORTEST:
            events.append((down, up))
    return np.asarray(piece.beats_at(np.array(events).reshape(-1, 2)))


def _harmonies(weights: Floats, lines: Mask) -> list[int]:
    """Beats at which a new harmony begins, given what sounds in each: (beats, 12) and bar lines.

    Always at bar lines; inside a bar where no chord holds both what sounded since the last change
    and what sounds now.
    """
    opens: list[int] = []
    since = np.zeros(len(_CHORDS))
    for beat, row in enumerate(weights):
        held = _CHORDS @ row
        total = row.sum()
        best = since.max()
        same = not total or not best or _common(since / best, held / total) >= ONE_CHORD
        if lines[beat] or not same:
            opens.append(beat)
            since = held
        else:
            since = since + held
    return opens


def _common(before: Floats, now: Floats) -> float:
    return float(np.minimum(before, now).max())


#: Major and minor triads and the sevenths on them, as masks (60, 12).
_CHORDS = np.array(
    [
        np.roll(np.isin(np.arange(12), tones), root).astype(np.float64)
        for tones in ((0, 4, 7), (0, 3, 7), (0, 4, 7, 10), (0, 3, 7, 10), (0, 4, 7, 11))
        for root in range(12)
    ]
)
