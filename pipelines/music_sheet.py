"""A sheet: a piece as it stands on the page, in C, on a grid of sixteenths, with its chords.

What the composer learns from and what a file that is to be continued is made into. Onsets are
rounded to the grid, the key is found and moved to C, each half bar is given a chord. It
deliberately does not know tokens, models, files or emotions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from adapters.piece import MELODY, Piece
from adapters.tonality import QUALITIES, chords_of, find_key, pitch_class_weights

STEPS = 4
"""Grid positions in a beat: POP909's notes lie on sixteenths to 5 ms on average."""
LOWEST, HIGHEST = 21, 108  # the keys of a piano
SOURCES = ("pop", "classical")
"""Where a training piece came from; the composer can ask for either manner."""
REPEATS = (0, 1, 2, 4, 8)
"""Bars back to what a bar repeats; 0: it is new; the last class is any other distance."""
CHORD_QUALITIES = ("maj", "min", "7", "maj7", "min7", "sus", "dim", "aug")
CHORDS = 1 + 12 * len(CHORD_QUALITIES)  # 0: no chord; then root * qualities + quality
SIMILAR = 0.6  # share of common notes from which a bar counts as a repeat
# The finder's qualities (adapters.tonality) as ours.
NAMED = {
    "major": "maj", "minor": "min", "dominant seventh": "7", "major seventh": "maj7",
    "minor seventh": "min7", "suspended": "sus", "diminished": "dim", "augmented": "aug",
    "half-diminished": "dim", "diminished seventh": "dim",
}  # fmt: skip


Codes = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Sheet:
    """A piece as it stands on the page.

    piece: onsets and durations on the grid of sixteenths, tonic C, velocities meaningless.
    minor: C minor or C major. chords: int16 (bars, 2), the chord of each half bar, 0..CHORDS-1.
    source: index into SOURCES. bpm: quarter notes a minute.
    """

    piece: Piece
    minor: bool
    chords: NDArray[np.int16]
    source: int = 0
    bpm: float = 100.0


def chord_code(root: int, quality: str) -> int:
    """The layout's number of a chord."""
    return 1 + root * len(CHORD_QUALITIES) + CHORD_QUALITIES.index(quality)


def on_page(piece: Piece) -> Piece:
    """Onsets and ends on the grid, pitches on the piano, doubled notes once."""
    first = np.rint(piece.onset * STEPS)
    last = np.maximum(np.rint(piece.offset * STEPS), first + 1)
    pitch = piece.pitch.astype(int)
    pitch = np.where(pitch < LOWEST, pitch + 12 * -(-(LOWEST - pitch) // 12), pitch)
    pitch = np.where(pitch > HIGHEST, pitch - 12 * -(-(pitch - HIGHEST) // 12), pitch)
    keep = first < piece.beats * STEPS
    rows: dict[tuple[int, int], tuple[int, int]] = {}
    for at, key, end, voice in zip(
        first[keep].astype(int).tolist(), pitch[keep].tolist(), last[keep].astype(int).tolist(),
        piece.voice[keep].tolist(), strict=True,
    ):  # fmt: skip
        old = rows.get((at, key))
        rows[(at, key)] = (end, voice) if old is None else (max(end, old[0]), min(voice, old[1]))
    # A key struck again ends the note before.
    order = sorted(rows)
    ends: dict[int, tuple[int, int]] = {}
    for at, key in order:
        if key in ends and ends[key][1] > at:
            start, _ = ends[key]
            rows[(start, key)] = (at, rows[(start, key)][1])
        ends[key] = (at, rows[(at, key)][0])
    if not order:
        return replace(piece.select(np.zeros(len(piece), dtype=bool)))
    return Piece.of(
        [at / STEPS for at, _ in order],
        [(rows[row][0] - row[0]) / STEPS for row in order],
        [key for _, key in order],
        64,
        [rows[row][1] for row in order],
        tempo=float(piece.tempo[0, 1]),
        beats_per_bar=piece.beats_per_bar,
        bars=piece.bars,
    )


def in_c(piece: Piece, chords: np.ndarray, tonic: int, mode: str, source: int = 0) -> Sheet:
    """The same music with tonic C, moved by at most six semitones."""
    shift = (-tonic + 5) % 12 - 5
    moved = on_page(piece.transposed(shift))
    codes = chords.astype(int)
    count = len(CHORD_QUALITIES)
    root, quality = (codes - 1) // count, (codes - 1) % count
    codes = np.where(codes > 0, 1 + (root - tonic) % 12 * count + quality, 0)
    return Sheet(
        moved, mode.startswith("min"), codes.astype(np.int16), source, float(piece.tempo[0, 1])
    )


def found_sheet(piece: Piece, source: int = 0) -> Sheet:
    """A sheet whose key and chords are found from its notes, for music that brings neither."""
    page = on_page(piece)
    key = find_key(page)
    moved = in_c(
        page, np.zeros((page.bars, 2), np.int16), key.tonic, "min" if key.minor else "maj", source
    )
    return replace(moved, chords=found_chords(moved.piece))


def found_chords(piece: Piece) -> np.ndarray:
    """int16 (bars, 2): the chord of each half bar by how long each pitch class sounds in it."""
    half = piece.beats_per_bar / 2
    edges = np.arange(piece.bars * 2 + 1) * half
    weights = pitch_class_weights(piece, edges)
    bass = np.full(piece.bars * 2, -1)
    for index in range(piece.bars * 2):
        here = (piece.onset < edges[index + 1] - 1e-6) & (piece.offset > edges[index] + 1e-6)
        if here.any():
            bass[index] = piece.pitch[here].min()
    roots, qualities = chords_of(weights, bass)
    codes = [
        0 if root < 0 else chord_code(int(root), NAMED[QUALITIES[quality]])
        for root, quality in zip(roots, qualities, strict=True)
    ]
    return np.array(codes, dtype=np.int16).reshape(-1, 2)


# Attributes of bars, free of tempo ---------------------------------------------------------------


def bar_attributes(piece: Piece) -> dict[str, NDArray[np.float64]]:
    """What a bar's controls are made from, each (bars,); nan where a bar has no notes.

    Density: notes in the bar. Polyphony: sounding notes while any sounds. Register: mean MIDI
    pitch. Length: mean duration, beats. Contour: melody's rise, semitones a bar (regression of
    pitch on time, times the bar's length).
    """
    count = piece.bars
    bar = np.clip(piece.bar_of(), 0, count - 1)
    notes = np.bincount(bar, minlength=count).astype(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        register = np.bincount(bar, piece.pitch, count) / notes
        length = np.bincount(bar, piece.duration, count) / notes
    cells = round(piece.beats_per_bar * STEPS)
    first = np.rint(piece.onset * STEPS).astype(int)
    last = np.maximum(np.rint(piece.offset * STEPS).astype(int), first + 1)
    change = np.zeros(count * cells + 1)
    np.add.at(change, np.minimum(first, count * cells), 1)
    np.add.at(change, np.minimum(last, count * cells), -1)
    sounding = np.cumsum(change)[:-1].reshape(count, cells)
    busy = (sounding > 0).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        polyphony = sounding.sum(axis=1) / busy
    tune = piece.select(piece.voice == MELODY) if (piece.voice == MELODY).any() else piece
    contour = np.full(count, np.nan)
    where = np.clip(tune.bar_of(), 0, count - 1)
    x = tune.onset - where * piece.beats_per_bar
    y = tune.pitch.astype(float)
    n = np.bincount(where, minlength=count).astype(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        mx, my = np.bincount(where, x, count) / n, np.bincount(where, y, count) / n
        dx, dy = x - mx[where], y - my[where]
        spread = np.bincount(where, dx * dx, count)
        slope = np.bincount(where, dx * dy, count) / spread * piece.beats_per_bar
    contour = np.where((n >= 2) & (spread > 0.01), slope, np.where(n >= 1, 0.0, np.nan))
    empty = notes == 0
    return {
        "Density": notes,
        "Polyphony": np.where(empty, np.nan, polyphony),
        "Register": register,
        "Length": length,
        "Contour": contour,
    }


def repeats(piece: Piece) -> Codes:
    """(bars,) index into REPEATS of each bar, len(REPEATS) for another distance, 0 when new.

    Likeness is the share of common (grid step, pitch) pairs, of the melody where both bars have
    one. The nearest bar that is alike enough counts, up to 32 bars back.
    """
    bar, cells = piece.bar_of(), round(piece.beats_per_bar * STEPS)
    step = np.rint(piece.onset * STEPS).astype(int) - bar * cells
    sets: list[tuple[set[tuple[int, int]], set[tuple[int, int]]]] = []
    for index in range(piece.bars):
        here = bar == index
        tune = here & (piece.voice == MELODY)
        sets.append(
            (
                set(zip(step[tune].tolist(), piece.pitch[tune].tolist(), strict=True)),
                set(zip(step[here].tolist(), piece.pitch[here].tolist(), strict=True)),
            )
        )
    codes = np.zeros(piece.bars, dtype=np.int64)
    for index, (tune, whole) in enumerate(sets):
        for back in range(1, min(index, 32) + 1):
            other_tune, other_whole = sets[index - back]
            a, b = (tune, other_tune) if len(tune) > 1 and other_tune else (whole, other_whole)
            if a and len(a & b) >= SIMILAR * len(a | b):
                codes[index] = REPEATS.index(back) if back in REPEATS else len(REPEATS)
                break
    return codes
