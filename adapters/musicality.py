"""Is it music: figures of harmony, rhythm, form and faults of one piece.

What a small language model of notes lacks is not local harmony but form: motifs that return,
phrases that close, an ending. Each figure here is a definition of a few lines, none is a verdict:
noise scores high on entropy, a loop on groove. They mean something beside real pieces of the same
length (`adapters.musicality_gap`). Knows no emotion, no model and no file. numpy only.

Sources: pitch-class entropy, grooving similarity and structureness, Wu & Yang 2020 (The Jazz
Transformer on the Front Line); fitness of a repeated segment, Mueller, Jiang & Grosche 2013; scale
consistency, Mogren 2016; groove consistency and empty bars, Dong et al. 2020 (MusPy). Where a
definition here is simpler than its source, its docstring says so.

The grid is a sixteenth note: played onsets are rounded to it.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from adapters.piece import MELODY, Piece
from adapters.tonality import Key, chords_of, find_key, find_keys, pitch_class_weights

GRID = 4
"""Positions a beat: sixteenth notes."""

FIGURES: dict[str, str] = {
    "pitch_class_entropy_1": "bits, pitch classes within a bar",
    "pitch_class_entropy_4": "bits, pitch classes within four bars",
    "scale_consistency": "share of notes in the best diatonic scale",
    "key_stability": "share of 4-bar windows in the key of the piece or its relative",
    "groove_consistency": "equal onset positions of neighbouring bars",
    "groove_similarity": "equal onset positions of any two bars",
    "empty_bars": "share of bars in which nothing sounds",
    "silence": "seconds of the longest gap",
    "structure_2_4": "structureness, repeated segments of 2-4 bars",
    "structure_4_8": "structureness, repeated segments of 4-8 bars",
    "structure_8_16": "structureness, repeated segments of 8-16 bars",
    "bars_exact": "share of bars that come again later, note for note",
    "bars_varied": "share of bars that come again later, varied",
    "longest_repeat": "bars of the longest passage that comes again later, note for note",
    "loop": "bars in a row that only repeat what stood 1, 2 or 4 bars before",
    "self_repetition": "share of melodic 9-grams (interval, duration ratio) heard before",
    "stuck_notes": "notes longer than 2 bars, and runs of one pitch over 16",
    "melody_range": "semitones of the melody",
    "leap_share": "share of melodic intervals of a fourth or more",
    "clash_share": "share of sonorities with a minor second or ninth",
    "clash_run": "clashing sonorities in a row, most",
    "cadence_rate": "share of 4-bar phrases that end V-I or IV-I",
    "final_cadence": "the last two chords are V-I or IV-I",
    "final_tonic": "the last chord is the tonic",
    "long_tonic_end": "the last bar holds the tonic for half of it",
}
"""name of each figure: what it counts."""

ENDINGS = ("final_cadence", "final_tonic", "long_tonic_end")
"""Figures of the end of a piece: an excerpt that was cut there has none worth comparing."""

STUCK_BARS, STUCK_RUN = 2.0, 16
LEAP = 5  # semitones: a perfect fourth
PHRASE = 4  # bars
GRAM = 9
# Similarity from which a bar counts as another one again. Of two bars of different POP909 songs
# (20 pairs of songs, moved to one tonic) .8 % are as similar as that by chance.
AGAIN = 0.85
# What a segment loses per bar that does not repeat (Mueller's delta, for a similarity in 0..1).
PENALTY = -2.0

Floats = NDArray[np.float64]


def musicality(piece: Piece) -> dict[str, float]:
    """All FIGURES of a piece. nan where one is not defined: no notes, or too few bars for it."""
    nothing = dict.fromkeys(FIGURES, float("nan"))
    if not len(piece):
        return {**nothing, "empty_bars": 1.0, "silence": piece.seconds, "stuck_notes": 0.0}
    key = find_key(piece)
    line = melody(piece)
    return {
        **nothing,
        "pitch_class_entropy_1": pitch_class_entropy(piece, 1),
        "pitch_class_entropy_4": pitch_class_entropy(piece, 4),
        "scale_consistency": scale_consistency(piece),
        "key_stability": key_stability(piece, key),
        **groove(piece),
        "empty_bars": empty_bars(piece),
        "silence": silence(piece),
        **structureness(self_similarity(piece, line)),
        **returning_bars(piece, line),
        "self_repetition": self_repetition(line),
        "stuck_notes": float(stuck_notes(piece)),
        **melodic(line),
        **clashes(piece),
        **cadences(piece, key),
        "long_tonic_end": long_tonic_end(piece, key),
    }


def melody(piece: Piece) -> Piece:
    """The tune: the highest note of each grid position of voice 0, or of all where there is none.

    Without a melody voice this is the skyline: a note under one that is still held is left out.
    """
    lead = piece.voice == MELODY
    alone = bool(lead.any() and not lead.all())
    part = piece.select(lead) if alone else piece
    where = np.round(part.onset * GRID)
    order = np.lexsort((-part.pitch.astype(np.int64), where))
    first = order[np.r_[True, np.diff(where[order]) > 0]] if len(order) else order
    top = part.select(np.sort(first))
    if alone or not len(top):
        return top
    keep = np.ones(len(top), dtype=bool)
    held_pitch, held_until = -1, 0.0
    for i in range(len(top)):
        if top.pitch[i] < held_pitch and top.onset[i] < held_until - 1 / GRID:
            keep[i] = False
        else:
            held_pitch, held_until = int(top.pitch[i]), float(top.offset[i])
    return top.select(keep)


def pitch_class_entropy(piece: Piece, bars: int) -> float:
    """Entropy in bits of the pitch classes of `bars` bars, mean over windows that hold a note.

    Notes are counted, not their durations (Wu & Yang 2020). 0 one pitch class, 3.58 all alike.
    """
    counts = np.zeros((piece.bars, 12))
    at = piece.bar_of()
    inside = at < piece.bars
    np.add.at(counts, (at[inside], piece.pitch[inside] % 12), 1)
    windows = sliding_window_view(counts, min(bars, piece.bars), axis=0).sum(-1)
    windows = windows[windows.sum(1) > 0]
    if not len(windows):
        return float("nan")
    p = windows / windows.sum(1, keepdims=True)
    return float(-(p * np.log2(np.where(p > 0, p, 1.0))).sum(1).mean())


def scale_consistency(piece: Piece) -> float:
    """Share of notes in the best of the twelve diatonic sets (major or natural minor), 0..1."""
    counts = np.bincount(piece.pitch % 12, minlength=12).astype(float)
    diatonic = np.array([0, 2, 4, 5, 7, 9, 11])
    return float(max(counts[(diatonic + k) % 12].sum() for k in range(12)) / counts.sum())


def key_stability(piece: Piece, key: Key) -> float:
    """Share of 4-bar windows whose own key has the same seven notes as the key of the piece.

    Relatives count as one: four bars cannot tell them apart by a pitch profile. Windows without a
    note are left out. A key drawn at random would be right in 1 of 12.
    """
    weights = pitch_class_weights(piece, np.arange(piece.bars + 1) * piece.beats_per_bar)
    windows = sliding_window_view(weights, min(PHRASE, piece.bars), axis=0).sum(-1)
    keys = find_keys(windows[windows.sum(1) > 0])
    home = _signature(key)
    return float(np.mean([_signature(k) == home for k in keys])) if keys else float("nan")


def _signature(key: Key) -> int:
    """Tonic of the relative major: one number for each set of seven notes."""
    return (key.tonic + 3) % 12 if key.minor else key.tonic


def onset_grid(piece: Piece) -> NDArray[np.bool_]:
    """(bars, positions): where in the bar something starts, on the grid."""
    width = max(1, round(piece.beats_per_bar * GRID))
    grid = np.zeros((piece.bars, width), dtype=bool)
    at = np.round(piece.onset * GRID).astype(np.int64)
    bar, position = np.divmod(at, width)
    inside = bar < piece.bars
    grid[bar[inside], position[inside]] = True
    return grid


def groove(piece: Piece) -> dict[str, float]:
    """1 - share of grid positions in which two bars differ: neighbours, and any two.

    MusPy's groove consistency and Wu & Yang's grooving similarity (which has 64 positions a bar
    and so lies nearer to 1).
    """
    grid = onset_grid(piece).astype(float)
    if len(grid) < 2:
        return {"groove_consistency": float("nan"), "groove_similarity": float("nan")}
    neighbours = 1 - np.abs(np.diff(grid, axis=0)).mean()
    different = (grid @ (1 - grid).T + (1 - grid) @ grid.T) / grid.shape[1]
    pairs = different[np.triu_indices(len(grid), 1)]
    return {
        "groove_consistency": float(neighbours),
        "groove_similarity": float(1 - pairs.mean()),
    }


def empty_bars(piece: Piece) -> float:
    """Share of bars in which no key is down, 0..1 (MusPy counts held bars as empty)."""
    used = np.zeros(piece.bars, dtype=bool)
    first = piece.bar_of()
    last = np.ceil(piece.offset / piece.beats_per_bar - 1e-6).astype(np.int64)
    for start, end in zip(first, last, strict=True):
        used[start : max(int(end), int(start) + 1)] = True
    return float(1 - used.mean())


def silence(piece: Piece) -> float:
    """Seconds of the longest stretch in which nothing sounds, pedal included; before, in, after."""
    starts = piece.seconds_at(piece.onset)
    ends = np.maximum.accumulate(piece.seconds_at(piece.onset + piece.sounding()))
    gaps = np.append(starts, max(piece.seconds, float(ends[-1]))) - np.append(0.0, ends)
    return float(max(gaps.max(), 0.0))


def self_similarity(piece: Piece, line: Piece | None = None) -> Floats:
    """(bars, bars) how alike two bars are, 0..1: mean cosine of chroma, onsets and tune.

    Chroma is weighted by duration, onsets are the grid positions of all notes, the tune is the
    histogram of its intervals (-12..12) by the bar in which they end. An empty bar is like none.
    """
    line = melody(piece) if line is None else line
    chroma = np.zeros((piece.bars, 12))
    at = piece.bar_of()
    inside = at < piece.bars
    lengths = np.minimum(piece.duration, piece.beats_per_bar)
    np.add.at(chroma, (at[inside], piece.pitch[inside] % 12), lengths[inside])
    tune = np.zeros((piece.bars, 25))
    steps = np.diff(np.asarray(line.pitch, dtype=np.int64)).clip(-12, 12).astype(np.int64) + 12
    ends = line.bar_of()[1:]
    np.add.at(tune, (ends[ends < piece.bars], steps[ends < piece.bars]), 1)
    parts = [chroma, onset_grid(piece).astype(float), tune]
    return np.asarray(np.mean([_cosine(part) for part in parts], axis=0))


def _cosine(rows: Floats) -> Floats:
    """(n, n) cosine of rows >= 0; 0 where one of them is all zero."""
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    unit = rows / np.where(length > 0, length, 1.0)
    return np.asarray(np.clip(unit @ unit.T, 0.0, 1.0))


def structureness(similarity: Floats) -> dict[str, float]:
    """Fitness of the best repeated segment of 2-4, 4-8 and 8-16 bars, each 0..1.

    The indicator of Wu & Yang 2020 with bars for seconds: for every segment the harmonic mean of
    how well and how much of the rest of the piece its repeats explain (Mueller et al. 2013).
    Simpler in three ways: bar lines are known, so a repeat is a straight diagonal and needs no time
    warping; a range is given in bars, not seconds; similarity is cut off at AGAIN, the same for
    every piece, not at its own best fifth, so that a piece without repeats scores 0. nan when a
    piece is shorter than twice the shortest segment.
    """
    ranges = ((2, 4), (4, 8), (8, 16))
    bars = len(similarity)
    fits = {
        length: fitness(similarity, length) for length in range(2, min(16, bars // 2) + 1)
    }  # fmt: skip
    return {
        f"structure_{low}_{high}": max(
            (float(fits[length].max()) for length in fits if low <= length <= high),
            default=float("nan"),
        )
        for low, high in ranges
    }


def fitness(similarity: Floats, length: int) -> Floats:
    """(starts,) fitness of each segment of `length` bars: the scape plot's row for that length."""
    bars = len(similarity)
    cells = np.where(similarity >= AGAIN, (similarity - AGAIN) / (1 - AGAIN), PENALTY)
    starts = bars - length + 1
    # paths[i, j]: how well the segment from bar i comes again from bar j on.
    sums = np.zeros((starts, starts))
    for t in range(length):
        sums += cells[t : t + starts, t : t + starts]
    index = np.arange(starts)
    sums[np.abs(index[:, None] - index[None, :]) < length] = -1.0  # it does not repeat itself
    # Choose repeats that do not overlap, for all segments at once: best score up to each bar.
    score = np.zeros((bars + 1, starts))
    count = np.zeros((bars + 1, starts))
    for end in range(1, bars + 1):
        score[end], count[end] = score[end - 1], count[end - 1]
        if end >= length:
            gain = score[end - length] + sums[:, end - length]
            better = (sums[:, end - length] > 0) & (gain > score[end])
            score[end] = np.where(better, gain, score[end])
            count[end] = np.where(better, count[end - length] + 1, count[end])
    repeats = count[-1]
    well = score[-1] / (length * (repeats + 1))
    much = repeats * length / bars
    return np.asarray(np.where(repeats > 0, 2 * well * much / np.maximum(well + much, 1e-9), 0.0))


def bar_contents(piece: Piece) -> list[frozenset[tuple[int, int]]]:
    """What starts in each bar: (grid position, pitch) of its notes. Durations are left out."""
    width = max(1, round(piece.beats_per_bar * GRID))
    contents: list[set[tuple[int, int]]] = [set() for _ in range(piece.bars)]
    for at, pitch in zip(np.round(piece.onset * GRID).astype(int), piece.pitch, strict=True):
        bar, position = divmod(int(at), width)
        if bar < piece.bars:
            contents[bar].add((position, int(pitch)))
    return [frozenset(notes) for notes in contents]


def returning_bars(piece: Piece, line: Piece | None = None) -> dict[str, float]:
    """How much comes again: bars exactly and varied, the longest passage, the longest loop.

    Shares are of the bars in which something starts. Varied: not exact, but at least AGAIN similar
    to a later bar. A loop is a run of bars that only repeat, note for note, what stood 1, 2 or 4
    bars before; in music that goes somewhere it is short.
    """
    contents = bar_contents(piece)
    filled = [i for i, notes in enumerate(contents) if notes]
    exact = {i for i in filled if contents[i] in contents[i + 1 :]}
    alike = np.triu(self_similarity(piece, line), 1).max(axis=1) >= AGAIN
    varied = [i for i in filled if i not in exact and alike[i]]
    same = np.array([[bool(a) and a == b for b in contents] for a in contents])
    longest = max((_longest_diagonal(same, lag) for lag in range(1, piece.bars)), default=0)
    loops = (_longest_diagonal(same, lag, capped=False) for lag in (1, 2, 4))
    share = max(1, len(filled))
    return {
        "bars_exact": len(exact) / share,
        "bars_varied": len(varied) / share,
        "longest_repeat": float(longest),
        "loop": float(max(loops, default=0)),
    }


def _longest_diagonal(same: NDArray[np.bool_], lag: int, *, capped: bool = True) -> int:
    """Longest run of bars equal to those `lag` later; capped at `lag`, so that none overlaps."""
    run = longest_run(np.diagonal(same, lag))
    return min(run, lag) if capped else run


def longest_run(flags: NDArray[np.bool_]) -> int:
    """Length of the longest unbroken run of True."""
    edges = np.diff(np.concatenate([[0], np.asarray(flags, dtype=np.int8), [0]]))
    lengths = np.nonzero(edges == -1)[0] - np.nonzero(edges == 1)[0]
    return int(lengths.max()) if len(lengths) else 0


def self_repetition(line: Piece) -> float:
    """Share of the melody's 9-grams of (interval, duration ratio) that were heard before, 0..1.

    Durations are from onset to onset on the grid, so a transposed or rescaled motif counts.
    """
    at = np.round(line.onset * GRID)
    step = np.diff(at)
    ratio = np.round(step[1:] / np.maximum(step[:-1], 1), 2)
    interval = np.diff(line.pitch.astype(np.int64))[1:]
    events = list(zip(interval.tolist(), ratio.tolist(), strict=True))
    grams = [tuple(events[i : i + GRAM]) for i in range(len(events) - GRAM + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else float("nan")


def stuck_notes(piece: Piece) -> int:
    """Notes held longer than 2 bars (keys, not pedal), and runs of one pitch over 16 notes long.

    A run is of single notes that follow each other in one voice: a pitch repeated inside changing
    chords is not stuck.
    """
    count = int((piece.duration > STUCK_BARS * piece.beats_per_bar + 1e-6).sum())
    for voice in np.unique(piece.voice):
        part = piece.select(piece.voice == voice)
        at = np.round(part.onset * GRID)
        starts = np.nonzero(np.r_[True, np.diff(at) > 0])[0]
        chords = [tuple(group.tolist()) for group in np.split(part.pitch, starts[1:])]
        length = 1
        for before, now in zip(chords, [*chords[1:], ()], strict=True):
            if before == now:
                length += 1
                continue
            count += length > STUCK_RUN
            length = 1
    return count


def melodic(line: Piece) -> dict[str, float]:
    """Range of the tune in semitones, and the share of its moves that leap a fourth or more."""
    if len(line) < 2:
        return {"melody_range": 0.0, "leap_share": float("nan")}
    steps = np.abs(np.diff(line.pitch.astype(np.int64)))
    return {
        "melody_range": float(np.ptp(line.pitch.astype(np.int64))),
        "leap_share": float((steps >= LEAP).mean()),
    }


def clashes(piece: Piece) -> dict[str, float]:
    """Sonorities with two keys a minor second or minor ninth apart: their share, and most in a row.

    One sonority per grid position at which something starts, with all keys then down.
    """
    at = np.unique(np.round(piece.onset * GRID) / GRID)
    start = np.round(piece.onset * GRID) / GRID
    # Legato notes overlap by a hair: less than a grid step is not a sonority.
    held = (start[None] <= at[:, None]) & (
        np.maximum(piece.offset - 1 / GRID, start)[None] >= at[:, None]
    )
    keys = np.zeros((len(at), 128), dtype=bool)
    rows, notes = np.nonzero(held)
    keys[rows, piece.pitch[notes]] = True
    near = (keys[:, :-1] & keys[:, 1:]).any(1) | (keys[:, :-13] & keys[:, 13:]).any(1)
    clash = np.asarray(near, dtype=bool)
    return {"clash_share": float(clash.mean()), "clash_run": float(longest_run(clash))}


def cadences(piece: Piece, key: Key) -> dict[str, float]:
    """How phrases and the piece close: V-I or IV-I root motion, and the tonic at the end.

    One chord for each beat (`tonality.chords_of`, with the bass), equal neighbours joined. A
    phrase is four bars, the first from the first bar that starts in its first half (an upbeat is
    none); its cadence are its last two chords. Many real phrases close otherwise (on V, or on the
    first beat of the next one): the rate of real pieces is the measure, not 1.
    """
    parts = max(1, int(piece.beats_per_bar))
    slot = piece.beats_per_bar / parts
    slots = parts * piece.bars
    roots, _ = chords_of(pitch_class_weights(piece, np.arange(slots + 1) * slot), bass(piece, slot))
    steps = np.where(roots < 0, -1, (roots - key.tonic) % 12)
    begin = parts * int(np.floor(float(piece.onset[0]) / piece.beats_per_bar + 0.5))
    size = parts * PHRASE
    ends = range(begin + size, slots + 1, size)
    closed = [_closes(steps[max(0, end - size) : end]) for end in ends]
    heard = steps[steps >= 0]
    return {
        "cadence_rate": float(np.mean(closed)) if closed else float("nan"),
        "final_cadence": float(_closes(steps[-size:])),
        "final_tonic": float(len(heard) > 0 and heard[-1] == 0),
    }


def bass(piece: Piece, slot: float) -> NDArray[np.int64]:
    """(slots,) lowest key down at any time in each stretch of `slot` beats, -1 where none is."""
    count = round(piece.beats / slot)
    lowest = np.full(count, 128, dtype=np.int64)
    first = np.floor(piece.onset / slot + 1e-6).astype(int)
    last = np.ceil(piece.offset / slot - 1e-6).astype(int)
    for start, end, pitch in zip(first, last, piece.pitch, strict=True):
        part = lowest[start : max(end, start + 1)]
        np.minimum(part, int(pitch), out=part)
    return np.where(lowest < 128, lowest, -1)


def _closes(steps: NDArray[np.int64]) -> bool:
    """Whether the last two different chords (roots above the tonic, -1 silence) are V-I or IV-I."""
    heard = steps[steps >= 0]
    if not len(heard) or heard[-1] != 0:
        return False
    before = heard[heard != 0] if (heard != 0).any() else heard
    return bool(before[-1] in (5, 7))


def long_tonic_end(piece: Piece, key: Key) -> float:
    """1 when the lowest or the highest key of the last bar is the tonic, held for half the bar."""
    end = piece.beats
    start = end - piece.beats_per_bar
    held = np.minimum(piece.offset, end) - np.maximum(piece.onset, start)
    inside = held > 1e-6
    if not inside.any():
        return 0.0
    pitch, held = piece.pitch[inside], held[inside]
    outer = (pitch == pitch.min()) | (pitch == pitch.max())
    long = held >= piece.beats_per_bar / 2 - 1 / GRID
    return float((outer & long & (pitch % 12 == key.tonic)).any())
