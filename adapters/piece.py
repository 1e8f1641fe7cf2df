"""A piece of music as plain arrays: notes in beats, a tempo map, bars and the pedal.

Everything musical in this project speaks this type: attributes and critics read it, the composer
and the re-performance make it, the piano plays it, `pipelines.media_midi` turns it into a file and
back. It deliberately knows no file format, no token and no emotion. numpy only.

A beat is a quarter note whatever the metre, as in MIDI.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

VOICES = ("melody", "accompaniment")
"""What a note's `voice` means: 0 the tune, 1 everything under it."""
MELODY, ACCOMPANIMENT = 0, 1

Floats = NDArray[np.float64]
Ints = NDArray[np.int16]


class PieceError(ValueError):
    """Notes that make no piece; one line that says what to change."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Notes on a time axis of quarter-note beats; `Piece.of` sorts and checks.

    onset, duration: float64 (n,), beats, duration > 0; sorted by onset, then pitch. pitch: int16
    (n,), MIDI 0..127. velocity: int16 (n,), 1..127. voice: int16 (n,), index into VOICES.
    tempo: float64 (m, 2), rows of beat and quarter notes a minute, the first at beat 0; each
    holds until the next. pedal: float64 (p, 2), beats at which the sustain pedal goes down and up.
    beats_per_bar: 4.0 for 4/4, 3.0 for 3/4 and 6/8. bars: how many; what is longer is not cut.
    """

    onset: Floats
    duration: Floats
    pitch: Ints
    velocity: Ints
    voice: Ints
    bars: int
    beats_per_bar: float = 4.0
    tempo: Floats = field(default_factory=lambda: np.array([[0.0, 120.0]]))
    pedal: Floats = field(default_factory=lambda: np.zeros((0, 2)))

    @classmethod
    def of(
        cls,
        onset: ArrayLike,
        duration: ArrayLike,
        pitch: ArrayLike,
        velocity: ArrayLike = 64,
        voice: ArrayLike = ACCOMPANIMENT,
        *,
        tempo: ArrayLike | float = 120.0,
        beats_per_bar: float = 4.0,
        bars: int | None = None,
        pedal: ArrayLike | Sequence[Any] = (),
    ) -> Piece:
        """Sort, broadcast and check. `bars` None: as many as the notes fill.

        Raises:
            PieceError: arrays of different lengths, numbers out of range, a tempo map that does
                not start at beat 0 or goes back.
        """
        starts = np.atleast_1d(np.asarray(onset, dtype=np.float64))
        count = len(starts)
        try:
            lengths = np.broadcast_to(np.asarray(duration, dtype=np.float64), count)
            pitches = np.broadcast_to(np.asarray(pitch, dtype=np.int16), count)
            loud = np.broadcast_to(np.asarray(velocity, dtype=np.int16), count)
            voices = np.broadcast_to(np.asarray(voice, dtype=np.int16), count)
        except ValueError as error:
            msg = f"piece: onset has {count} notes, another array does not; give one value a note"
            raise PieceError(msg) from error
        if not (np.isfinite(starts).all() and np.isfinite(lengths).all()):
            msg = "piece: onsets and durations must be finite numbers of beats"
            raise PieceError(msg)
        if (starts < 0).any() or (lengths <= 0).any():
            msg = "piece: onsets must be 0 or later and durations longer than 0 beats"
            raise PieceError(msg)
        if ((pitches < 0) | (pitches > 127) | (loud < 1) | (loud > 127)).any():
            msg = "piece: pitches are 0 to 127 and velocities 1 to 127"
            raise PieceError(msg)
        if not 0 < beats_per_bar <= 64:
            msg = f"piece: beats_per_bar is above 0 and at most 64, received {beats_per_bar:g}"
            raise PieceError(msg)
        given = np.asarray(tempo, dtype=np.float64)
        changes = np.array([[0.0, float(given)]]) if given.ndim == 0 else given.reshape(-1, 2)
        ordered = len(changes) > 0 and changes[0, 0] == 0 and (np.diff(changes[:, 0]) > 0).all()
        if not ordered or not np.isfinite(changes).all() or (changes[:, 1] <= 0).any():
            msg = "piece: tempo is rows of (beat, bpm), the first at beat 0, ascending, bpm above 0"
            raise PieceError(msg)
        order = np.lexsort((pitches, starts))
        filled = float((starts + lengths).max()) if count else 0.0
        need = max(1, int(np.ceil(filled / beats_per_bar - 1e-6)))
        return cls(
            onset=starts[order],
            duration=lengths[order].copy(),
            pitch=pitches[order].copy(),
            velocity=loud[order].copy(),
            voice=voices[order].copy(),
            bars=need if bars is None else int(bars),
            beats_per_bar=float(beats_per_bar),
            tempo=changes.copy(),
            pedal=np.asarray(pedal, dtype=np.float64).reshape(-1, 2),
        )

    def __len__(self) -> int:
        """Number of notes."""
        return len(self.onset)

    @property
    def offset(self) -> Floats:
        """(n,) beats at which each key is let go."""
        return self.onset + self.duration

    @property
    def beats(self) -> float:
        """Length in beats: all its bars."""
        return self.bars * self.beats_per_bar

    @property
    def seconds(self) -> float:
        """Length in seconds: all its bars."""
        return float(self.seconds_at(self.beats))

    def seconds_at(self, beats: ArrayLike) -> Floats:
        """Seconds from the start at which `beats` (any shape) fall, by the tempo map."""
        starts, bpm = self.tempo[:, 0], self.tempo[:, 1]
        at = np.concatenate([[0.0], np.cumsum(np.diff(starts) * 60.0 / bpm[:-1])])
        where = np.asarray(beats, dtype=np.float64)
        row = np.clip(np.searchsorted(starts, where, side="right") - 1, 0, len(starts) - 1)
        return np.asarray(at[row] + (where - starts[row]) * 60.0 / bpm[row])

    def beats_at(self, seconds: ArrayLike) -> Floats:
        """The inverse of `seconds_at`."""
        starts, bpm = self.tempo[:, 0], self.tempo[:, 1]
        at = np.concatenate([[0.0], np.cumsum(np.diff(starts) * 60.0 / bpm[:-1])])
        when = np.asarray(seconds, dtype=np.float64)
        row = np.clip(np.searchsorted(at, when, side="right") - 1, 0, len(at) - 1)
        return np.asarray(starts[row] + (when - at[row]) * bpm[row] / 60.0)

    def bar_of(self) -> NDArray[np.int64]:
        """(n,) the bar in which each note starts, 0 the first."""
        return np.floor(self.onset / self.beats_per_bar + 1e-6).astype(np.int64)

    def select(self, mask: ArrayLike) -> Piece:
        """The piece with only some of its notes; bars, tempo and pedal stay."""
        keep = np.asarray(mask)
        return replace(
            self,
            onset=self.onset[keep],
            duration=self.duration[keep],
            pitch=self.pitch[keep],
            velocity=self.velocity[keep],
            voice=self.voice[keep],
        )

    def between(self, first: int, last: int) -> Piece:
        """Bars first..last-1 as a piece of their own; notes held over its end are cut there."""
        start, end = first * self.beats_per_bar, last * self.beats_per_bar
        part = self.select((self.onset >= start - 1e-9) & (self.onset < end - 1e-9))
        row = max(0, int(np.searchsorted(self.tempo[:, 0], start, side="right")) - 1)
        changes = self.tempo[row:][self.tempo[row:, 0] < end].copy()
        changes[:, 0] = np.maximum(changes[:, 0] - start, 0.0)
        held = self.pedal[(self.pedal[:, 1] > start) & (self.pedal[:, 0] < end)]
        return replace(
            part,
            onset=np.maximum(part.onset - start, 0.0),
            duration=np.minimum(part.duration, end - part.onset),
            bars=last - first,
            tempo=changes,
            pedal=np.clip(held, start, end) - start,
        )

    def then(self, other: Piece) -> Piece:
        """This piece followed by `other` of the same metre, from the next bar line on."""
        if other.beats_per_bar != self.beats_per_bar:
            msg = (
                f"piece: {other.beats_per_bar:g} beats a bar cannot follow "
                f"{self.beats_per_bar:g}; join pieces of one metre"
            )
            raise PieceError(msg)
        shift = np.array([self.beats, 0.0])
        joined = Piece.of(
            np.concatenate([self.onset, other.onset + self.beats]),
            np.concatenate([self.duration, other.duration]),
            np.concatenate([self.pitch, other.pitch]),
            np.concatenate([self.velocity, other.velocity]),
            np.concatenate([self.voice, other.voice]),
            tempo=np.concatenate([self.tempo[self.tempo[:, 0] < self.beats], other.tempo + shift]),
            beats_per_bar=self.beats_per_bar,
            bars=self.bars + other.bars,
            pedal=np.concatenate([self.pedal, other.pedal + self.beats]),
        )
        return joined

    def transposed(self, semitones: int) -> Piece:
        """The piece moved by whole semitones; notes that would leave 0..127 move by an octave."""
        moved = self.pitch.astype(np.int64) + semitones
        moved = np.where(moved > 127, moved - 12 * ((moved - 116) // 12), moved)
        moved = np.where(moved < 0, moved + 12 * ((11 - moved) // 12), moved)
        return replace(self, pitch=moved.astype(np.int16))

    def sounding(self) -> Floats:
        """(n,) beats each note sounds: until its key and the pedal are both up, or its key again.

        A note whose key is let go while the pedal is down sounds until the pedal goes up.
        """
        end = self.offset
        if len(self.pedal):
            rows = np.searchsorted(self.pedal[:, 0], end, side="right") - 1
            inside = (rows >= 0) & (end < self.pedal[np.maximum(rows, 0), 1])
            end = np.where(inside, self.pedal[np.maximum(rows, 0), 1], end)
        order = np.lexsort((self.onset, self.pitch))
        same = self.pitch[order][1:] == self.pitch[order][:-1]
        following = np.full(len(self), np.inf)
        following[order[:-1]] = np.where(same, self.onset[order][1:], np.inf)
        return np.asarray(np.maximum(np.minimum(end, following) - self.onset, 1e-3))
