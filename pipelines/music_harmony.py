"""The chords of one piece under the notes of another.

Each half bar of both is read as a chord; where they differ, the notes are moved into the other
one by the shortest way, so that melody and texture keep their shape (smooth voice leading:
Tymoczko, A Geometry of Music, 2011, ch. 2). It deliberately does not know which bar takes from
which (`pipelines.music_transfer`).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from adapters.piece import MELODY, Piece
from adapters.tonality import CHORD_TONES, chords_of, find_key, pitch_class_weights, scale_of
from pipelines.music_edit import HIGHEST, LOWEST, TOGETHER
from pipelines.music_mode import struck_once

Indices = NDArray[np.int64]

#: A melody note shorter than this, in beats, and off the beat may stand outside the chord.
LONG = 1.0


def with_chords_of(source: Piece, onto: Piece, matched: Indices) -> Piece:
    """Notes of `onto` moved into the chords of `source`, half bar by half bar, in its own key.

    matched: (onto.bars,) the bar of `source` each bar takes from. Chord tones go to the nearest
    chord tone, in the bass to the same member of the chord; passing notes of the melody go to the
    nearest note of the scale. Halves with the same chord stay, and halves silent in `source`.
    """
    theirs, own = find_key(source), find_key(onto)
    halves = np.repeat(matched * 2, 2) + np.tile([0, 1], onto.bars)
    given_root, given_quality = (x[halves] for x in half_chords(source))
    given_root = np.where(given_root < 0, -1, (given_root + own.tonic - theirs.tonic) % 12)
    root, quality = half_chords(onto)
    other = (given_root >= 0) & ((given_root != root) | (given_quality != quality)) & (root >= 0)
    half = onto.beats_per_bar / 2
    at = np.clip(((onto.onset + TOGETHER) / half).astype(np.int64), 0, len(root) - 1)
    scale = set(scale_of(theirs._replace(tonic=own.tonic)))
    pitch = onto.pitch.astype(np.int64)
    moved, duration = pitch.copy(), onto.duration.copy()
    for note in range(len(onto)):
        segment = int(at[note])
        if not other[segment]:
            continue
        old = _tones(root[segment], quality[segment])
        new = _tones(given_root[segment], given_quality[segment])
        tone = int(pitch[note]) % 12
        melody = onto.voice[note] == MELODY
        struck = np.abs(onto.onset - onto.onset[note]) <= TOGETHER
        bass = not melody and pitch[note] == pitch[struck].min()
        on_beat = abs(onto.onset[note] - round(float(onto.onset[note]))) <= TOGETHER
        if bass and tone in old:
            goal = {new[min(old.index(tone), len(new) - 1)]}
        elif melody and tone not in old and not on_beat and duration[note] < LONG:
            goal = scale | set(new)
        else:
            goal = set(new)
        moved[note] = _nearest(int(pitch[note]), goal)
        following = min(segment + 1, len(root) - 1)
        if melody or not other[following]:
            continue
        if moved[note] % 12 not in _tones(given_root[following], given_quality[following]):
            # Held into another chord it would rub.
            rest = (segment + 1) * half - onto.onset[note]
            duration[note] = max(min(duration[note], rest), TOGETHER)
    if (moved == pitch).all():
        return onto
    return struck_once(replace(onto, duration=duration), moved)


def half_chords(piece: Piece) -> tuple[Indices, Indices]:
    """(2 x bars,) root and quality of each half bar, -1 in silence."""
    edges = np.arange(2 * piece.bars + 1) * (piece.beats_per_bar / 2)
    weights = pitch_class_weights(piece, edges)
    bass = np.full(2 * piece.bars, 128)
    at = np.clip(np.searchsorted(edges, piece.onset + TOGETHER, side="right") - 1, 0, len(bass) - 1)
    np.minimum.at(bass, at, piece.pitch)
    return chords_of(weights, np.where(bass == 128, -1, bass))


def _tones(root: int, quality: int) -> list[int]:
    """Pitch classes of a chord from its root up."""
    return [int(root + step) % 12 for step in CHORD_TONES[quality]]


def _nearest(pitch: int, goal: set[int]) -> int:
    """The pitch nearest to `pitch` whose class is in `goal`; below before above."""
    for away in range(12):
        for each in (pitch - away, pitch + away):
            if each % 12 in goal and LOWEST <= each <= HIGHEST:
                return each
    return pitch
