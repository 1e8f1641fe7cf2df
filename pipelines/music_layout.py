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

from adapters.piece import ACCOMPANIMENT, MELODY, Piece
from pipelines.music_sheet import CHORDS, HIGHEST, LOWEST, SOURCES, STEPS

if TYPE_CHECKING:
    from miditok import REMI

UNKNOWN = "None"

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
LEFT = 4  # the last bars are counted down, so that a piece knows how to end
Codes = NDArray[np.int64]


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
        vocabulary: dict[str, int] = dict(tokenizer.vocab)
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
        # What a note token says, by id.
        self.kind: dict[int, tuple[str, int]] = {}
        for at, token in enumerate(self.position):
            self.kind[int(token)] = ("position", at)
        for index, token in enumerate(self.pitch):
            self.kind[int(token)] = ("pitch", LOWEST + index)
        for token, steps in zip(self.duration_ids, self.durations, strict=True):
            self.kind[int(token)] = ("duration", int(steps))

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
        found: list[tuple[int, int, int, int]] = []
        voice, at, key = MELODY, -1, -1
        for token in map(int, tokens):
            if token in (self.melody, self.accompaniment):
                voice, at, key = (MELODY if token == self.melody else ACCOMPANIMENT), -1, -1
                continue
            kind, value = self.kind.get(token, ("", 0))
            if kind == "position":
                at, key = value, -1
            elif kind == "pitch":
                key = value
            elif kind == "duration" and at >= 0 and key >= 0:
                found.append((at, key, value, voice))
                key = -1
        return found


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
