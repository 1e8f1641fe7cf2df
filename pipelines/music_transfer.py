"""Musical elements of one piece moved onto another: the rhythm of a with the notes of b.

MusER (Ji & Yang, AAAI 2024) swaps slices of a latent code that were trained to hold one element
each; here the elements are taken from the notes themselves, so that only what was named changes
and a piece given its own elements stays what it is. Bars are matched by their place in the
phrase: bar i of `onto` takes from bar i of `source`, and beyond its end from the start again in
fours, so that first bars of a phrase stay first bars.

It deliberately knows no emotion and no file format, and uses no randomness.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from adapters.piece import ACCOMPANIMENT, MELODY, Piece
from adapters.tonality import find_key
from pipelines.music_edit import HIGHEST, LOWEST, TOGETHER, gaps, ringing
from pipelines.music_harmony import with_chords_of
from pipelines.music_mode import STEPS, struck_once, with_mode

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

PHRASE = 4
"""Bars after which a source that is too short starts again at a first bar of a phrase."""
PER_SLOT = 2
"""Melody notes that share one note of a slower rhythm, halving it. Of more, the longest stay."""
LARGEST_CHORD = 5


class TransferError(ValueError):
    """Elements that are none, or a piece that has none to give; one line."""


class _Group(NamedTuple):
    """Notes of a voice struck together: indices by pitch, and beats from the bar line."""

    notes: tuple[int, ...]
    at: float


class _Row(NamedTuple):
    """A note to be written."""

    onset: float
    duration: float
    pitch: int
    velocity: int
    voice: int


def parse_elements(text: str) -> tuple[str, ...]:
    """Read "rhythm,velocity" into names of ELEMENTS, each once, in the order of ELEMENTS.

    Raises:
        TransferError: nothing named, or a name that is no element; says the nearest one.
    """
    names = [name.strip().lower() for name in text.replace("+", ",").split(",") if name.strip()]
    if not names:
        msg = (
            f"transfer: name elements, --transfer rhythm,velocity; there are {', '.join(ELEMENTS)}"
        )
        raise TransferError(msg)
    _check(names)
    return tuple(name for name in ELEMENTS if name in names)


def transfer(elements: Iterable[str], source: Piece, onto: Piece) -> Piece:
    """`onto` with the named elements of `source`; everything else stays its own.

    elements: names of ELEMENTS, applied in the order of ELEMENTS whatever theirs is. Bars, metre
    and whatever was not named are those of `onto`. A bar that is silent in one of the two keeps
    what `onto` has there. A 4/4 bar is two of 2/4; of other metres the beats are matched: 3/4 onto
    4/4 plays its second beat again, 4/4 onto 3/4 leaves its last beat out.

    Raises:
        TransferError: an unknown element, or a piece without notes.
    """
    names = list(elements)
    _check(names)
    for label, piece in (("from", source), ("onto", onto)):
        if not len(piece):
            msg = f"{label}: the piece has no notes; give a MIDI file with notes"
            raise TransferError(msg)
    source, result = _in_bars_of(onto, source), onto
    for name in ELEMENTS:
        if name in names:
            result = _APPLY[name](source, result)
    return result


def _check(names: Iterable[str]) -> None:
    for name in names:
        if name not in ELEMENTS:
            near = difflib.get_close_matches(name, ELEMENTS, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(ELEMENTS)}"
            msg = f"transfer: no element {name!r}; {hint}"
            raise TransferError(msg)


# --- where things stand -------------------------------------------------------------------------


def _in_bars_of(onto: Piece, source: Piece) -> Piece:
    """`source` counted in the bars of `onto` where one holds a whole number of the other."""
    ratio = source.beats_per_bar / onto.beats_per_bar
    if ratio == 1 or not (float(ratio).is_integer() or float(1 / ratio).is_integer()):
        return source
    bars = int(np.ceil(source.beats / onto.beats_per_bar - 1e-9))
    return replace(source, beats_per_bar=onto.beats_per_bar, bars=bars)


def matched_bars(source: Piece, onto: Piece) -> Indices:
    """(onto.bars,) the bar of `source` that each bar of `onto` takes from."""
    bars = np.arange(onto.bars)
    cycle = source.bars // PHRASE * PHRASE or source.bars
    return np.where(bars < source.bars, bars, bars % cycle)


def _voice(piece: Piece, voice: int) -> Indices:
    """Notes of a voice; where a piece has one voice only, its top line is its melody too."""
    mine = np.flatnonzero(piece.voice == voice)
    if len(mine) or voice == ACCOMPANIMENT:
        return mine if len(mine) else np.arange(len(piece))
    groups = _grouped(piece, np.arange(len(piece)))
    return np.array([group[-1] for group in groups], dtype=np.int64)


def _grouped(piece: Piece, notes: Indices) -> list[tuple[int, ...]]:
    """`notes` (ascending) in groups struck together, each by pitch."""
    if not len(notes):
        return []
    cuts = np.flatnonzero(np.diff(piece.onset[notes]) > TOGETHER) + 1
    return [
        tuple(sorted(part.tolist(), key=lambda k: (int(piece.pitch[k]), k)))
        for part in np.split(notes, cuts)
    ]


def _by_bar(piece: Piece, voice: int) -> list[list[_Group]]:
    """Groups of a voice in each bar. A chord played just before the bar line belongs behind it."""
    bars: list[list[_Group]] = [[] for _ in range(piece.bars)]
    for notes in _grouped(piece, _voice(piece, voice)):
        onset = float(piece.onset[list(notes)].min())
        bar = min(int((onset + TOGETHER) / piece.beats_per_bar), piece.bars - 1)
        bars[bar].append(_Group(notes, onset - bar * piece.beats_per_bar))
    return bars


def _source_bar(groups: list[list[_Group]], bar: int) -> int:
    """`bar`, or if it is silent the nearest that is not at the same place of a phrase, or -1."""
    if groups[bar]:
        return bar
    heard = [k for k in range(len(groups)) if groups[k] and (k - bar) % PHRASE == 0]
    return min(heard, key=lambda k: abs(k - bar), default=-1)


def _in_metre(groups: list[_Group], source: Piece, onto: Piece) -> list[_Group]:
    """Groups of a bar laid into the metre of `onto`, beat by beat."""
    if source.beats_per_bar == onto.beats_per_bar:
        return groups
    have = int(np.ceil(source.beats_per_bar - 1e-9))
    laid = []
    for beat in range(int(np.ceil(onto.beats_per_bar - 1e-9))):
        taken = beat if beat < have else 1 + (beat - 1) % max(1, have - 1) if have > 1 else 0
        for group in groups:
            at = group.at - taken + beat
            inside = at < onto.beats_per_bar - TOGETHER
            if max(int(np.floor(group.at + TOGETHER)), 0) == taken and inside:
                laid.append(_Group(group.notes, at))
    return laid


def _aligned(slots: list[float], groups: list[float]) -> list[list[int]]:
    """Which groups fall to each slot: in order, all slots and all groups used, near in time.

    Dynamic time warping without the moves that would skip: the longer side steps one by one.
    """
    if len(slots) < len(groups):
        back = _aligned(groups, slots)
        taken: list[list[int]] = [[] for _ in slots]
        for group, (slot,) in enumerate(back):
            taken[slot].append(group)
        return taken
    cost = np.abs(np.asarray(slots)[:, None] - np.asarray(groups))
    total = np.full(cost.shape, np.inf)
    total[0, 0] = cost[0, 0]
    for k in range(1, len(slots)):
        moved_on = np.concatenate([[np.inf], total[k - 1, :-1]])
        total[k] = cost[k] + np.minimum(total[k - 1], moved_on)
    group = len(groups) - 1
    path = [group]
    for k in range(len(slots) - 1, 0, -1):
        if group and total[k - 1, group - 1] <= total[k - 1, group]:
            group -= 1
        path.append(group)
    return [[group] for group in reversed(path)]


def _rank(position: int, count: int, among: int) -> int:
    """The note of a chord of `among` that answers note `position` of `count`; the top for one."""
    if count == among:
        return position
    return among - 1 if count == 1 else round(position * (among - 1) / (count - 1))


# --- rhythm and pitch ---------------------------------------------------------------------------


def _rhythm(source: Piece, onto: Piece) -> Piece:
    """Onsets and lengths of `source`, the pitches of `onto` dealt to them in order, by voice."""
    matched = matched_bars(source, onto)
    rows: list[_Row] = []
    mine = [np.flatnonzero(onto.voice == voice) for voice in (MELODY, ACCOMPANIMENT)]
    for voice in np.unique(onto.voice).tolist():
        giving, taking = _by_bar(source, voice), _by_bar(onto, voice)
        for bar in range(onto.bars):
            pitches = taking[bar]
            origin = _source_bar(giving, int(matched[bar])) if pitches else int(matched[bar])
            slots = _in_metre(giving[origin], source, onto) if origin >= 0 else []
            if len(slots) > len(pitches):
                pitches = [*_held_into(onto, mine[voice], bar, pitches), *pitches]
            if not pitches:
                continue
            if not slots:
                rows += [_own(onto, k) for group in pitches for k in group.notes]
                continue
            shared = _aligned([slot.at for slot in slots], [group.at for group in pitches])
            for slot, chosen in zip(slots, shared, strict=True):
                groups = [pitches[k].notes for k in chosen]
                times = [_placed(source, onto, k, slot, origin, bar) for k in slot.notes]
                if voice == MELODY:
                    rows += _halved(onto, groups, times, voice)
                else:
                    rows += _struck(onto, _one_chord(onto, groups), times, voice)
    return _written(onto, rows)


def _pitch(source: Piece, onto: Piece) -> Piece:
    """Pitches of `source` dealt to the rhythm of `onto` in order, by voice; its touch stays.

    Where `source` has more to say in a bar than `onto` has onsets, its longest notes are taken.
    """
    matched = matched_bars(source, onto)
    rows: list[_Row] = []
    for voice in np.unique(onto.voice).tolist():
        giving, taking = _by_bar(source, voice), _by_bar(onto, voice)
        for bar in range(onto.bars):
            slots = taking[bar]
            if not slots:
                continue
            origin = _source_bar(giving, int(matched[bar]))
            pitches = _in_metre(giving[origin], source, onto) if origin >= 0 else []
            if not pitches:
                rows += [_own(onto, k) for slot in slots for k in slot.notes]
                continue
            shared = _aligned([slot.at for slot in slots], [group.at for group in pitches])
            for slot, chosen in zip(slots, shared, strict=True):
                group = max((pitches[k].notes for k in chosen), key=lambda g: _longest(source, g))
                for position, note in enumerate(group):
                    own = _own(onto, slot.notes[_rank(position, len(group), len(slot.notes))])
                    rows.append(own._replace(pitch=int(source.pitch[note])))
    return _written(onto, rows)


def _held_into(onto: Piece, notes: Indices, bar: int, struck: list[_Group]) -> list[_Group]:
    """What is held for a beat and more into a bar before anything else is struck: to be repeated.

    Without it the quicker rhythm would fall silent, or bring in early, wherever a note is held.
    """
    start = bar * onto.beats_per_bar
    if struck and struck[0].at < 1.0:
        return []
    held = notes[(onto.onset[notes] < start - TOGETHER) & (onto.offset[notes] >= start + 1.0)]
    order = sorted(held.tolist(), key=lambda k: (int(onto.pitch[k]), k))
    return [_Group(tuple(order), 0.0)] if order else []


def _own(piece: Piece, note: int) -> _Row:
    return _Row(
        float(piece.onset[note]),
        float(piece.duration[note]),
        int(piece.pitch[note]),
        int(piece.velocity[note]),
        int(piece.voice[note]),
    )


def _longest(piece: Piece, notes: Iterable[int]) -> float:
    return max(float(piece.duration[k]) for k in notes)


def _placed(
    source: Piece, onto: Piece, note: int, slot: _Group, origin: int, bar: int
) -> tuple[float, float]:
    """Onset and length of a source note in a bar of `onto`; the numbers themselves at home."""
    onset, duration = float(source.onset[note]), float(source.duration[note])
    if source.beats_per_bar != onto.beats_per_bar:
        first = float(source.onset[list(slot.notes)].min())
        at = max(slot.at + (onset - first), 0.0)
        return bar * onto.beats_per_bar + at, min(duration, onto.beats_per_bar - at)
    if bar != origin:
        onset = max(onset + (bar - origin) * onto.beats_per_bar, 0.0)
    return onset, duration


def _struck(
    onto: Piece, notes: list[int], times: list[tuple[float, float]], voice: int
) -> list[_Row]:
    rows = []
    for position, note in enumerate(notes):
        onset, duration = times[_rank(position, len(notes), len(times))]
        rows.append(_own(onto, note)._replace(onset=onset, duration=duration, voice=voice))
    return rows


def _halved(
    onto: Piece, groups: list[tuple[int, ...]], times: list[tuple[float, float]], voice: int
) -> list[_Row]:
    """Melody notes that share a slot: the longest PER_SLOT of them divide it evenly."""
    if len(groups) > PER_SLOT:
        ranked = sorted(range(len(groups)), key=lambda k: -_longest(onto, groups[k]))
        groups = [groups[k] for k in sorted(ranked[:PER_SLOT])]
    rows = []
    for place, group in enumerate(groups):
        share = [
            (onset + duration * place / len(groups), duration / len(groups))
            for onset, duration in times
        ]
        rows += _struck(onto, list(group), share, voice)
    return rows


def _one_chord(onto: Piece, groups: list[tuple[int, ...]]) -> list[int]:
    """Accompaniment that shares a slot as one chord: later notes join unless they rub."""
    chord = list(groups[0])
    for group in groups[1:]:
        for note in group:
            away = [abs(int(onto.pitch[note]) - int(onto.pitch[k])) for k in chord]
            # Seconds, sevenths and the key itself are not added.
            if len(chord) < LARGEST_CHORD and not any(a % 12 in (0, 1, 2, 10, 11) for a in away):
                chord.append(note)
    return sorted(chord, key=lambda k: int(onto.pitch[k]))


def _written(onto: Piece, rows: list[_Row]) -> Piece:
    """`onto` with other notes; a key that is struck again is let go before."""
    end = max(onto.beats, float(onto.offset.max()))
    rows = sorted(rows, key=lambda row: (row.onset, row.pitch, row.voice))
    own = sorted((_own(onto, k) for k in range(len(onto))), key=lambda r: (r[0], r[2], r[4]))
    if rows == own:
        return onto
    last: dict[int, int] = {}
    kept: list[_Row] = []
    for row in rows:
        before = last.get(row.pitch)
        if before is not None:
            held = kept[before]
            if row.onset - held.onset <= TOGETHER:
                # One key struck by both voices: the melody keeps it.
                if row.voice == MELODY and held.voice != MELODY:
                    kept[before] = row
                continue
            if held.onset + held.duration > row.onset:
                kept[before] = held._replace(duration=row.onset - held.onset)
        last[row.pitch] = len(kept)
        kept.append(row._replace(duration=max(min(row.duration, end - row.onset), TOGETHER)))
    onset, duration, pitch, velocity, voice = zip(*kept, strict=True)
    dealt = Piece.of(
        onset,
        duration,
        pitch,
        velocity,
        voice,
        tempo=onto.tempo,
        beats_per_bar=onto.beats_per_bar,
        bars=onto.bars,
        pedal=onto.pedal,
    )
    # Lengths that rang over the harmony of the one piece would rub in that of the other.
    rings = np.maximum(ringing(dealt, dealt.duration), np.minimum(dealt.duration, gaps(dealt)))
    return replace(dealt, duration=rings)


# --- touch --------------------------------------------------------------------------------------


def _velocity(source: Piece, onto: Piece) -> Piece:
    """The dynamics of `source`: level of each bar, accents inside it, and its distribution."""
    matched = matched_bars(source, onto)
    played = onto.velocity.astype(np.float64)
    for voice in np.unique(onto.voice).tolist():
        giving, taking = _by_bar(source, voice), _by_bar(onto, voice)
        mine: list[int] = []
        heard: list[int] = []
        for bar, groups in enumerate(taking):
            origin = _source_bar(giving, int(matched[bar]))
            if not groups or origin < 0:
                continue
            pattern = _in_metre(giving[origin], source, onto)
            if not pattern:
                continue
            at = [group.at for group in pattern]
            heard += [k for group in pattern for k in group.notes]
            for group in groups:
                mine += group.notes
                for position, note in enumerate(group.notes):
                    accents = [
                        float(
                            source.velocity[
                                g.notes[_rank(position, len(group.notes), len(g.notes))]
                            ]
                        )
                        for g in pattern
                    ]
                    played[note] = np.interp(group.at, at, accents)
        if mine:
            played[mine] = _distributed(played[mine], source.velocity[heard])
    return replace(onto, velocity=np.clip(np.rint(played), 1, 127).astype(np.int16))


def _distributed(values: Floats, like: NDArray[np.int16]) -> Floats:
    """`values` mapped by rank onto the distribution of `like`; equal values stay equal."""
    order = np.argsort(values, kind="stable")
    ranked = np.sort(like).astype(np.float64)
    taken = ranked[((np.arange(len(values)) + 0.5) / len(values) * len(ranked)).astype(np.int64)]
    _, group = np.unique(values[order], return_inverse=True)
    means = np.bincount(group, weights=taken) / np.bincount(group)
    mapped = np.empty(len(values))
    mapped[order] = means[group]
    return mapped


def _articulation(source: Piece, onto: Piece) -> Piece:
    """Note lengths against the next onset of the voice as `source` has them there."""
    matched = matched_bars(source, onto)
    given = source.duration / gaps(source)
    gap = gaps(onto)
    own = onto.duration / gap
    touch = own.copy()
    for voice in np.unique(onto.voice).tolist():
        giving, taking = _by_bar(source, voice), _by_bar(onto, voice)
        for bar, groups in enumerate(taking):
            origin = _source_bar(giving, int(matched[bar]))
            pattern = _in_metre(giving[origin], source, onto) if origin >= 0 else []
            if not pattern:
                continue
            for group in groups:
                near = min(pattern, key=lambda g, at=group.at: abs(g.at - at)).notes  # type: ignore[misc]
                for position, note in enumerate(group.notes):
                    like = float(given[near[_rank(position, len(group.notes), len(near))]])
                    # What rings on over others rings on here only if it did.
                    touch[note] = min(like, max(1.0, float(own[note])))
    duration = np.where(np.abs(touch - own) < 1e-9, onto.duration, touch * gap)
    return replace(onto, duration=duration)


def _tempo(source: Piece, onto: Piece) -> Piece:
    """The tempo map stretched over the length of `onto`."""
    scale = onto.beats / source.beats
    return replace(onto, tempo=source.tempo * np.array([scale, 1.0]))


def _pedal(source: Piece, onto: Piece) -> Piece:
    """Where the pedal goes down and up in each bar."""
    matched = matched_bars(source, onto)
    bar = np.floor((source.pedal[:, 0] + TOGETHER) / source.beats_per_bar).astype(np.int64)
    bar = np.minimum(bar, source.bars - 1)  # pressed at the very end
    spans: list[tuple[float, float, bool]] = []  # down, up, whether it was carried elsewhere
    for target, origin in enumerate(matched.tolist()):
        shift = target * onto.beats_per_bar - origin * source.beats_per_bar
        for down, up in source.pedal[bar == origin].tolist():
            if not shift:
                spans.append((down, up, False))
            elif max(down + shift, 0.0) < (target + 1) * onto.beats_per_bar:
                spans.append((max(down + shift, 0.0), up + shift, True))
    for k in range(len(spans) - 1):
        down, up, carried = spans[k]
        if carried or spans[k + 1][2]:
            spans[k] = (down, min(up, spans[k + 1][0]), carried)
    pedal = [(down, up) for down, up, _ in spans if up > down]
    return replace(onto, pedal=np.array(pedal, dtype=np.float64).reshape(-1, 2))


# --- keys, chords and register ------------------------------------------------------------------


def _mode(source: Piece, onto: Piece) -> Piece:
    """Major or minor as `source` is, on the tonic of `onto`."""
    wanted, own = find_key(source), find_key(onto)
    if wanted.minor == own.minor:
        return onto
    return with_mode(onto, -STEPS if wanted.minor else STEPS)


def _register(source: Piece, onto: Piece) -> Piece:
    """Transposed to the height of `source`; then voices by octaves, where that crosses nothing."""
    height = float(source.pitch.mean())
    wanted = round(height - float(onto.pitch.mean()))
    low, high = LOWEST - int(onto.pitch.min()), HIGHEST - int(onto.pitch.max())
    shift = int(np.clip(wanted, min(low, 0), max(high, 0)))
    pitch = onto.pitch.astype(np.int64) + shift
    for voice in (MELODY, ACCOMPANIMENT):
        mine, theirs = onto.voice == voice, source.voice == voice
        if not mine.any() or not theirs.any() or mine.all():
            continue
        away = float(source.pitch[theirs].mean()) - float(pitch[mine].mean())
        moved = pitch + np.where(mine, 12 * round(away / 12), 0)
        fits = moved.min() >= min(LOWEST, pitch.min()) and moved.max() <= max(HIGHEST, pitch.max())
        # Voices differ in size: an octave of one must not take the whole away from its height.
        fits &= abs(moved.mean() - height) <= max(abs(pitch.mean() - height), 3.0)
        if fits and _crossings(onto, moved) <= _crossings(onto, pitch):
            pitch = moved
    if (pitch == onto.pitch).all():
        return onto
    return struck_once(onto, pitch)


def _crossings(piece: Piece, pitch: Indices) -> int:
    """Melody notes struck below an accompaniment note that sounds."""
    top, under = np.flatnonzero(piece.voice == MELODY), np.flatnonzero(piece.voice != MELODY)
    if not len(top) or not len(under):
        return 0
    starts = piece.onset[top][:, None]
    sounds = (piece.onset[under] <= starts + TOGETHER) & (piece.offset[under] > starts + TOGETHER)
    return int((sounds & (pitch[under] >= pitch[top][:, None])).any(axis=1).sum())


def _harmony(source: Piece, onto: Piece) -> Piece:
    """The chords of `source`, in the key of `onto`."""
    return with_chords_of(source, onto, matched_bars(source, onto))


_APPLY: dict[str, Callable[[Piece, Piece], Piece]] = {
    "pitch": _pitch,
    "rhythm": _rhythm,
    "harmony": _harmony,
    "mode": _mode,
    "register": _register,
    "velocity": _velocity,
    "articulation": _articulation,
    "tempo": _tempo,
    "pedal": _pedal,
}
ELEMENTS: tuple[str, ...] = tuple(_APPLY)
"""What can be moved, in the order in which it is: notes before the touch they are played with."""
