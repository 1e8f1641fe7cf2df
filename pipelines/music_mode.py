"""Major into minor and back on the same tonic, so that the music still works.

A piece is not moved by swapping pitch classes: the leading tone of a cadence has to stay, the
dominant of a chord whose root moves has to move as a whole, a scale that climbs through a raised
seventh raises its sixth. Each beat is read as a chord in the local key and the notes are altered
degree by degree in STEPS: the third first, the sixth next, the seventh last, and what a step has
altered every later step alters too.

It deliberately does not know emotions or how many steps a feeling is worth
(`pipelines.music_edit`). Rules of the minor mode: Aldwell & Schachter, Harmony and Voice Leading,
units 4-6 and 25 (leading tone, melodic minor, applied dominants).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from adapters.piece import MELODY, Piece
from adapters.tonality import (
    CHORD_TONES,
    MAJOR_SCALE,
    NATURAL_MINOR,
    QUALITIES,
    Key,
    chords_of,
    find_key,
    keys_over_time,
    pitch_class_weights,
)

STEPS = 3
"""Third, sixth, seventh."""
TO_MINOR = {4: 3, 9: 8, 11: 10}
TO_MAJOR = {low: high for high, low in TO_MINOR.items()}
#: Degrees from which step on, both ways.
_STEP_OF = {4: 1, 3: 1, 9: 2, 8: 2, 11: 3, 10: 3}
#: Beats of a window in which the local key is looked for: four bars of 4/4 tell a tonic from its
#: dominant no better than a coin where a piece opens on one. A visit shorter than half of it is
#: heard as colour, not as a modulation.
KEY_WINDOW = 32.0
#: Beats between the end of a note and the start of the one it goes to.
_NEXT = 0.3
_TOGETHER = 0.06  # beats within which notes count as struck together: 30 ms at 120 bpm
_MAJORS = tuple(QUALITIES.index(name) for name in ("major", "dominant seventh"))
_DIMINISHED = tuple(
    QUALITIES.index(name) for name in ("diminished", "half-diminished", "diminished seventh")
)
_DIMINISHED_SEVENTH = QUALITIES.index("diminished seventh")
_SEVENTHS = tuple(k for k, name in enumerate(QUALITIES) if "seventh" in name)


class _Beat(NamedTuple):
    """Half a beat as a chord in a key: degrees are semitones above the local tonic.

    Half, because ragtime and pop change their chords between beats.
    """

    key: Key
    root: int  # -1: silence
    quality: int
    following: int  # degree of the next other root, -1 at the end
    bass: int  # lowest sounding pitch, -1: silence


def local_keys(piece: Piece) -> list[Key]:
    """One key a bar: the piece's own, except in stretches that stand in another scale.

    A stretch in the relative key is no modulation here, for both have the same notes, and another
    scale is named in the mode of the whole piece: what moves is its parallel. (Leaving relative
    stretches as they are was tried: the halves of a song then lie a third apart and the whole
    has no key left.) The home tonic in the other mode is that mode.
    """
    home = find_key(piece)
    window = max(4, round(KEY_WINDOW / piece.beats_per_bar))
    keys = keys_over_time(piece, window)
    for bar, each in enumerate(keys):
        if each.tonic != home.tonic and each.minor != home.minor:
            tonic = (each.tonic + (3 if each.minor else -3)) % 12
            named = each._replace(tonic=tonic, minor=home.minor)
            keys[bar] = home if tonic == home.tonic else named
    for start, stop in _runs(keys):
        if 2 * (stop - start) < window:
            keys[start:stop] = [home] * (stop - start)
    return keys


def _runs(keys: list[Key]) -> list[tuple[int, int]]:
    """First bar and bar after the last of each stretch in one key."""
    names = [(key.tonic, key.minor) for key in keys]
    cuts = [k for k in range(1, len(names)) if names[k] != names[k - 1]]
    return list(zip([0, *cuts], [*cuts, len(names)], strict=True))


def with_mode(piece: Piece, steps: ArrayLike | int) -> Piece:
    """The piece with its local keys moved towards major or minor.

    steps: whole numbers, one or one a bar (bars,): 1..3 alters so many degrees of minor keys
    towards major, -1..-3 of major keys towards minor, 0 nothing. A key already in the asked mode
    stays. Onsets stay; no note is lost except where two would strike one key at one moment.

    Raises:
        ValueError: as many steps as neither one nor bars.
    """
    asked = np.asarray(steps, dtype=np.int64)
    if asked.shape not in ((), (piece.bars,)):
        msg = f"steps: one or one for each of {piece.bars} bars, received {asked.shape}"
        raise ValueError(msg)
    asked = np.clip(np.broadcast_to(asked, piece.bars), -STEPS, STEPS)
    if not len(piece) or not asked.any():
        return piece
    moved = _moved(piece, asked)
    if (moved == piece.pitch).all():
        return piece
    return struck_once(piece, moved)


def _moved(piece: Piece, asked: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n,) pitches after the alteration."""
    keys = local_keys(piece)
    edges = _beat_edges(piece)
    beats = _beats(piece, edges, keys)
    at = np.clip(
        np.searchsorted(edges, piece.onset + _TOGETHER, side="right") - 1, 0, len(beats) - 1
    )
    bar = np.minimum(piece.bar_of(), piece.bars - 1)
    pitch = piece.pitch.astype(np.int64)
    moved = pitch.copy()
    lines = _Lines(piece)
    kept_seventh = np.zeros(len(piece), dtype=bool)
    neighbours: list[int] = []
    sixths: list[int] = []
    for note in range(len(piece)):
        step = int(asked[bar[note]])
        beat = beats[at[note]]
        if not step or beat.key.minor != (step > 0):
            continue
        degree = int(pitch[note] - beat.key.tonic) % 12
        table = TO_MAJOR if step > 0 else TO_MINOR
        shift = _applied_dominant(beat, degree, table)
        if shift is not None:
            moved[note] += shift
            continue
        if degree not in table:
            if degree in table.values() and (degree - beat.root) % 12 not in _tones(beat):
                neighbours.append(note)
            continue
        if abs(step) < _STEP_OF[degree] and degree not in _completed(beat):
            continue
        # Struck before its chord is complete, or just before it changes, it belongs to what comes.
        soon = beats[at[note] : at[note] + 2 + int(2 * piece.duration[note])]
        passing = beat.root not in (4, 7, 11) and bool(lines.after(note, 1))
        if degree == 11 and (passing or any(map(_is_dominant, soon))):
            kept_seventh[note] = True
            continue
        if degree == 9:
            sixths.append(note)
        moved[note] += table[degree] - degree
        if degree == 10 and beat.root == 10 and beat.bass == pitch[note]:
            # The major triad on the lowered seventh becomes the upper part of a dominant seventh;
            # in the bass the leading tone would be doubled, so the bass takes the root below.
            moved[note] = pitch[note] - 3
    for note in sixths:
        near = [*lines.after(note, 2), *lines.before(note, 2)]
        beat = beats[at[note]]
        chordal = (9 - beat.root) % 12 in _tones(beat)
        if any(kept_seventh[j] for j in near) and not chordal and not _clashes(piece, moved, note):
            moved[note] = pitch[note]
    for note in neighbours:
        # A chromatic neighbour of an altered degree goes along with it, else both would be one.
        toward = 1 if asked[bar[note]] < 0 else -1
        touching = [*lines.after(note, toward), *lines.before(note, toward)]
        coming = lines.before(note, -toward)
        if any(moved[j] == pitch[note] for j in touching) and not coming:
            moved[note] -= toward
    return moved


def _tones(beat: _Beat) -> tuple[int, ...]:
    return CHORD_TONES[beat.quality] if beat.root >= 0 else ()


def _is_dominant(beat: _Beat) -> bool:
    """V or vii of the key itself."""
    if beat.quality in _MAJORS:
        return beat.root == 7
    return beat.root == 11 and beat.quality in _DIMINISHED


def _completed(beat: _Beat) -> tuple[int, ...]:
    """Degrees that must not lag behind the third, else the chord would be augmented or cross."""
    degrees: tuple[int, ...] = ()
    if beat.root in (9, 8):
        degrees = (9, 8)
    elif beat.root in (4, 3) or (beat.root == 0 and beat.quality in _SEVENTHS):
        degrees = (11, 10)
    elif beat.root == 5 and beat.quality in _SEVENTHS:
        degrees = (9, 8)
    return degrees


def _applied_dominant(beat: _Beat, degree: int, table: dict[int, int]) -> int | None:
    """Semitones by which a tone of an applied dominant moves; None where the beat is none.

    It follows the root it leads to: 0 where that root stays, -1 or +1 where it moves.
    """
    if beat.quality == _DIMINISHED_SEVENTH:
        # Every tone of it leads somewhere; with one of them moved it is a chord of another kind.
        return 0 if (degree - beat.root) % 3 == 0 else None
    if beat.quality not in _MAJORS or beat.root == 7:
        return None
    target = (beat.root + 5) % 12
    tones = {(beat.root + step) % 12 for step in (0, 4, 7, 10)}
    if beat.following != target or degree not in tones:
        return None
    scale = NATURAL_MINOR if beat.key.minor else MAJOR_SCALE
    foreign = (beat.root + 4) % 12 not in scale
    if not foreign and QUALITIES[beat.quality] != "dominant seventh":
        return None  # I before IV is no dominant
    return table[target] - target if target in table else 0


def _beat_edges(piece: Piece) -> NDArray[np.float64]:
    """Starts of all half beats and the end."""
    inside = np.arange(0.0, piece.beats_per_bar - 1e-9, 0.5)
    starts = np.arange(piece.bars)[:, None] * piece.beats_per_bar + inside
    return np.append(starts.ravel(), piece.beats)


def _beats(piece: Piece, edges: NDArray[np.float64], keys: list[Key]) -> list[_Beat]:
    weights = pitch_class_weights(piece, edges)
    per_bar = len(weights) // piece.bars
    by_bar = weights.reshape(piece.bars, per_bar, 12)
    # Half a beat of two notes hardly tells its chord: its beat and its half bar help, for less.
    around = by_bar.copy()
    for width, share in ((2, 0.6), (max(2, (per_bar + 1) // 2), 0.2)):
        for first in range(0, per_bar, width):
            part = by_bar[:, first : first + width]
            around[:, first : first + width] += share * part.sum(axis=1, keepdims=True)
    bass = _bass(piece, edges)
    roots, qualities = chords_of(around.reshape(-1, 12), bass)
    beats: list[_Beat] = []
    following_root = -1
    for k in range(len(roots) - 1, -1, -1):
        key = keys[min(k // per_bar, len(keys) - 1)]
        if k + 1 < len(roots) and roots[k + 1] >= 0 and roots[k + 1] != roots[k]:
            following_root = int(roots[k + 1])
        if roots[k] < 0:
            beats.append(_Beat(key, -1, -1, -1, -1))
            continue
        following = (following_root - key.tonic) % 12 if following_root >= 0 else -1
        root = int(roots[k] - key.tonic) % 12
        beats.append(_Beat(key, root, int(qualities[k]), following, int(bass[k])))
    return beats[::-1]


def _bass(piece: Piece, edges: NDArray[np.float64]) -> NDArray[np.int64]:
    """(beats,) lowest pitch sounding in each beat, -1 in silence."""
    lowest = np.full(len(edges) - 1, 999, dtype=np.int64)
    first = np.searchsorted(edges, piece.onset + _TOGETHER, side="right") - 1
    last = np.searchsorted(edges, piece.offset - _TOGETHER, side="left")
    for start, stop, pitch in zip(np.maximum(first, 0), last, piece.pitch, strict=True):
        part = lowest[start : max(stop, start + 1)]
        np.minimum(part, pitch, out=part)
    return np.where(lowest == 999, -1, lowest)


class _Lines:
    """Who goes where: the notes of the same voice that a note comes from and leads to."""

    def __init__(self, piece: Piece) -> None:
        self._onset, self._offset = piece.onset, piece.offset
        self._pitch, self._voice = piece.pitch.astype(np.int64), piece.voice
        self._longest = float(piece.duration.max()) if len(piece) else 0.0

    def after(self, note: int, up: int) -> list[int]:
        """Notes `up` semitones higher that start where this one ends."""
        start = int(np.searchsorted(self._onset, self._onset[note] + _TOGETHER, side="right"))
        stop = int(np.searchsorted(self._onset, self._offset[note] + _NEXT, side="right"))
        return [int(j) for j in self._at(note, up, start, stop)]

    def before(self, note: int, up: int) -> list[int]:
        """Notes `up` semitones higher that end where this one starts."""
        begin = self._onset[note]
        start = int(np.searchsorted(self._onset, begin - self._longest - _NEXT))
        stop = int(np.searchsorted(self._onset, begin - _TOGETHER))
        found = self._at(note, up, start, stop)
        return [int(j) for j in found[self._offset[found] >= begin - _NEXT]]

    def _at(self, note: int, up: int, start: int, stop: int) -> NDArray[np.int64]:
        pitch, voice = self._pitch[start:stop], self._voice[start:stop]
        same = (pitch == self._pitch[note] + up) & (voice == self._voice[note])
        return start + np.flatnonzero(same)


def _clashes(piece: Piece, moved: NDArray[np.int64], note: int) -> bool:
    """Whether a sixth left as it was would sound against a lowered one in another voice."""
    overlap = (piece.onset < piece.offset[note] - _TOGETHER) & (
        piece.offset > piece.onset[note] + _TOGETHER
    )
    overlap[note] = False
    return bool((moved[overlap] % 12 == (piece.pitch[note] - 1) % 12).any())


def struck_once(piece: Piece, moved: NDArray[np.int64]) -> Piece:
    """The piece with new pitches, where two notes that met on one key no longer do.

    Of two struck together the one that was not there before goes an octave away, under the melody
    and above the bass if it fits, else it is left out; a key still held is let go when it is
    struck again.
    """
    changed = moved != piece.pitch
    keep = np.ones(len(piece), dtype=bool)
    duration = piece.duration.copy()
    for note in np.flatnonzero(changed).tolist():
        if not keep[note]:
            continue
        struck = keep & (np.abs(piece.onset - piece.onset[note]) <= _TOGETHER)
        same = struck & (moved == moved[note])
        same[note] = False
        if same.any():
            mover = note
            if piece.voice[note] == MELODY:
                mover = int(np.flatnonzero(same)[0])
            free = [
                p
                for p in (moved[mover] - 12, moved[mover] + 12)
                if moved[struck].min() < p < moved[struck].max() and p not in moved[struck]
            ]
            if free:
                moved[mover] = free[0]
            else:
                keep[mover] = False
                continue
        earlier = (moved == moved[note]) & (piece.onset < piece.onset[note] - _TOGETHER)
        held = keep & earlier & (piece.onset + duration > piece.onset[note])
        duration[held] = piece.onset[note] - piece.onset[held]
        later = (moved == moved[note]) & (piece.onset > piece.onset[note] + _TOGETHER)
        later &= keep & (piece.onset < piece.onset[note] + duration[note])
        if later.any():
            duration[note] = piece.onset[later].min() - piece.onset[note]
    return Piece.of(
        piece.onset[keep],
        duration[keep],
        moved[keep],
        piece.velocity[keep],
        piece.voice[keep],
        tempo=piece.tempo,
        beats_per_bar=piece.beats_per_bar,
        bars=piece.bars,
        pedal=piece.pedal,
    )
