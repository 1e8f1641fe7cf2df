"""The order of tokens in which music-tiny reads and writes a piece, over a MidiTok vocabulary.

Note tokens are those of MidiTok's REMI (Huang & Yang 2020) without velocities: Position, Pitch and
Duration on a grid of sixteenths. Every bar is one block:

    Bar [Left] attributes Chord Chord Melody (Position (Pitch Duration)+)* Accompaniment (...)*

and a piece is `attributes of the piece` followed by its bars. Three decisions are behind this:

* All music stands in C: a plain model of absolute pitches never learns valence, which is mode, and
  the same model of key-relative ones does (EMO-Disentanger, ISMIR 2024; measured here as well).
* The melody of a bar comes before what is under it, so that a returning melody can be given and
  its accompaniment written anew, and chords come before both, so that cadences can be asked for.
* Loudness is not written but played (`music_performance`): a page has no velocities either.

It deliberately does not know emotions, the transformer, or how a piece gets its form.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from adapters.piece import MELODY, Piece

if TYPE_CHECKING:
    from miditok import REMI

STEPS = 4
"""Grid positions in a beat: POP909's notes lie on sixteenths to 5 ms on average."""
LOWEST, HIGHEST = 21, 108  # the keys of a piano
UNKNOWN = "None"

SOURCES = ("pop", "classical")
"""Where a training piece came from; the composer can ask for either manner."""
# How many steps each attribute has. Edges are quantiles of the training music (controls.json).
PIECE_CONTROLS: dict[str, int] = {
    "Source": len(SOURCES),
    "Mode": 2,
    "Tempo": 8,
    "Rhythm": 6,
    "Interval": 6,
    "Range": 6,
    "Dissonance": 6,
}
BAR_CONTROLS: dict[str, int] = {
    "Density": 10,
    "Polyphony": 6,
    "Register": 8,
    "Length": 6,
    "Contour": 3,
    "Repeat": 6,
}
REPEATS = (0, 1, 2, 4, 8)
"""Bars back to what a bar repeats; 0: it is new; the last class is any other distance."""
LEFT = 4  # the last bars are counted down, so that a piece knows how to end
CHORD_QUALITIES = ("maj", "min", "7", "maj7", "min7", "sus", "dim", "aug")
CHORDS = 1 + 12 * len(CHORD_QUALITIES)  # 0: no chord; then root * qualities + quality
SIMILAR = 0.6  # share of common notes from which a bar counts as a repeat

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


def make_tokenizer() -> REMI:
    """A new REMI tokenizer of MidiTok whose special tokens are the controls."""
    from miditok import REMI, TokenizerConfig

    specials = ["PAD_None"]
    specials += [
        f"{name}_{step}"
        for name, steps in (PIECE_CONTROLS | BAR_CONTROLS).items()
        for step in (*range(steps), UNKNOWN)
    ]
    specials += [f"Left_{step}" for step in range(LEFT)]
    specials += [f"Chord_{code}" for code in range(CHORDS)]
    specials += ["Voice_Melody", "Voice_Accompaniment"]
    return REMI(
        TokenizerConfig(
            pitch_range=(LOWEST, HIGHEST + 1),
            beat_res={(0, 4): STEPS, (4, 8): 1},
            special_tokens=specials,
            use_velocities=False,
            use_pitchdrum_tokens=False,
            encode_ids_split="no",
        )
    )


class Layout:
    """Token ids of everything in the layout; made from a tokenizer.

    durations: grid steps of each Duration token, ascending, with `duration_ids` beside it.
    """

    def __init__(self, tokenizer: REMI) -> None:
        self.tokenizer = tokenizer
        vocabulary: dict[str, int] = dict(tokenizer.vocab)  # type: ignore[arg-type]
        self.size = len(vocabulary)
        self.pad = vocabulary["PAD_None"]
        self.bar = vocabulary["Bar_None"]
        self.melody = vocabulary["Voice_Melody"]
        self.accompaniment = vocabulary["Voice_Accompaniment"]
        self.pitch = np.array([vocabulary[f"Pitch_{p}"] for p in range(LOWEST, HIGHEST + 1)])
        self.position = np.array([vocabulary[f"Position_{p}"] for p in range(4 * STEPS)])
        self.left = np.array([vocabulary[f"Left_{step}"] for step in range(LEFT)])
        self.chord = np.array([vocabulary[f"Chord_{code}"] for code in range(CHORDS)])
        lengths = {}
        for token, number in vocabulary.items():
            if token.startswith("Duration_"):
                beats, part, resolution = map(int, token.split("_")[1].split("."))
                lengths[round((beats + part / resolution) * STEPS)] = number
        self.durations = np.array(sorted(lengths))
        self.duration_ids = np.array([lengths[steps] for steps in self.durations])
        self.control = {
            name: np.array([vocabulary[f"{name}_{s}"] for s in (*range(steps), UNKNOWN)])
            for name, steps in (PIECE_CONTROLS | BAR_CONTROLS).items()
        }
        self.first_pitch = int(self.pitch[0])

    def nearest_duration(self, steps: NDArray[np.float64]) -> Codes:
        """Indices of the durations nearest to a number of grid steps."""
        middle = (self.durations[1:] + self.durations[:-1]) / 2
        return np.searchsorted(middle, steps)

    def voice_tokens(self, piece: Piece) -> list[int]:
        """One voice of one bar as tokens: positions in order, pitches upwards at each."""
        position = np.rint(piece.onset * STEPS).astype(int)
        lengths = self.duration_ids[self.nearest_duration(piece.duration * STEPS)]
        tokens: list[int] = []
        last = -1
        for at, pitch, length in zip(position, piece.pitch, lengths, strict=True):
            if at != last:
                tokens.append(int(self.position[at]))
                last = at
            tokens += (int(self.pitch[pitch - LOWEST]), int(length))
        return tokens

    def bar_tokens(self, bar: Piece, controls: Sequence[int], chords: Sequence[int]) -> list[int]:
        """One bar: its controls (token ids, in order), two chords, both voices."""
        tokens = [self.bar, *controls, *(int(self.chord[code]) for code in chords)]
        tokens.append(self.melody)
        tokens += self.voice_tokens(bar.select(bar.voice == MELODY))
        tokens.append(self.accompaniment)
        return tokens + self.voice_tokens(bar.select(bar.voice != MELODY))

    def notes(self, tokens: Sequence[int]) -> list[tuple[int, int, int, int]]:
        """Notes of one bar's tokens as (grid step, pitch, grid steps long, voice).

        A pitch before any position or without a duration is left out: a sampler may be stopped
        anywhere.
        """
        position = {int(token): at for at, token in enumerate(self.position)}
        pitch = {int(token): LOWEST + i for i, token in enumerate(self.pitch)}
        length = {int(t): int(s) for t, s in zip(self.duration_ids, self.durations, strict=True)}
        found: list[tuple[int, int, int, int]] = []
        voice, at, key = MELODY, -1, -1
        for token in map(int, tokens):
            if token == self.melody or token == self.accompaniment:
                voice, at, key = (0 if token == self.melody else 1), -1, -1
            elif token in position:
                at, key = position[token], -1
            elif token in pitch:
                key = pitch[token]
            elif token in length and at >= 0 and key >= 0:
                found.append((at, key, length[token], voice))
                key = -1
        return found


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


@dataclass(frozen=True, slots=True)
class Edges:
    """Where one step of an attribute ends and the next begins: name -> ascending edges."""

    table: Mapping[str, tuple[float, ...]]

    def step(self, name: str, value: float) -> int:
        """Step of a value; the number of steps (the unknown one) for nan."""
        steps = (PIECE_CONTROLS | BAR_CONTROLS)[name]
        if not np.isfinite(value):
            return steps
        return int(np.searchsorted(self.table[name], value, side="right"))

    @classmethod
    def fit(cls, values: Mapping[str, NDArray[np.float64]]) -> Edges:
        """Edges at even quantiles, so that each step is as common as the next."""
        table = {}
        for name, given in values.items():
            steps = (PIECE_CONTROLS | BAR_CONTROLS)[name]
            known = given[np.isfinite(given)]
            inner = np.quantile(known, np.arange(1, steps) / steps)
            table[name] = tuple(float(round(edge, 5)) for edge in inner)
        return cls(table)

    @classmethod
    def load(cls, path: Path) -> Edges:
        """Read controls.json."""
        data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return cls({name: tuple(edges) for name, edges in data["edges"].items()})

    def save(self, path: Path) -> None:
        """Write controls.json."""
        data = {"steps_per_beat": STEPS, "edges": {k: list(v) for k, v in self.table.items()}}
        path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
