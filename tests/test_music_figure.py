"""The picture of a piece: what is drawn is where and how it should be."""

from __future__ import annotations

import time

import numpy as np
import pytest
from PIL import Image

from adapters.piece import ACCOMPANIMENT, MELODY, Piece
from pipelines.curve import Curve
from pipelines.drawing import ASKED, READ
from pipelines.music_figure import (
    HEIGHT,
    WIDTH,
    chord_names,
    piano_roll,
    small_roll,
)


def song(bars: int = 8, velocity: int = 80, tempo: float = 120.0) -> Piece:
    """A melody over held chords: C, Am, F, G and again."""
    roots = [(60, 64, 67), (57, 60, 64), (53, 57, 60), (55, 59, 62)]
    notes = []
    for bar in range(bars):
        chord = roots[bar % 4]
        notes += [(4 * bar, 4.0, pitch - 12, ACCOMPANIMENT) for pitch in chord]
        notes += [(4 * bar + beat, 1.0, chord[beat % 3] + 12, MELODY) for beat in range(4)]
    onset, duration, pitch, voice = zip(*notes, strict=True)
    return Piece.of(onset, duration, pitch, velocity, voice, tempo=tempo, bars=bars)


def near(picture: Image.Image, colour: str, off: int = 12) -> np.ndarray:
    """Where a picture has about this colour, (height, width) bool."""
    pixels = np.asarray(picture).astype(int)
    wanted = np.array(list(bytes.fromhex(colour.removeprefix("#"))))
    return np.abs(pixels - wanted).max(axis=2) <= off


def warm(picture: Image.Image) -> np.ndarray:
    """Where a note of the melody is: much more red than blue, below legend and curves."""
    pixels = np.asarray(picture).astype(int)[100:]
    return (pixels[..., 0] - pixels[..., 2]) > 70


def test_notes_stand_where_their_time_and_pitch_say() -> None:
    """One late high melody note: only the right upper part of the roll is warm."""
    lone = Piece.of([0, 14], [1, 2], [40, 90], 100, [ACCOMPANIMENT, MELODY], bars=4)
    rows, columns = np.nonzero(warm(piano_roll(lone)))
    assert len(rows)
    # beats 14 to 16 of 16, on an axis from 92 to WIDTH - 36
    left, width = 92, WIDTH - 36 - 92
    assert columns.min() == pytest.approx(left + width * 14 / 16, abs=4)
    assert columns.max() == pytest.approx(left + width, abs=4)
    assert rows.max() < HEIGHT / 4


def test_louder_is_darker_and_the_voices_differ() -> None:
    quiet, loud = (piano_roll(song(velocity=v)).crop((92, 130, 1500, 800)) for v in (30, 110))
    assert np.asarray(loud.convert("L")).mean() < np.asarray(quiet.convert("L")).mean() - 2
    assert warm(piano_roll(song())).any()
    only_chords = song().select(song().voice == ACCOMPANIMENT)
    assert not warm(piano_roll(only_chords)).any()


def test_curves_are_drawn_where_the_numbers_are() -> None:
    piece = song()
    times = np.linspace(0, piece.seconds, 9)
    up, down = np.full(9, 0.9), np.full(9, -0.9)
    asked = Curve.of(times, up, down)
    read = {"critic": Curve.of(times, down, up), "reader": Curve.of(times, 0.5 * up, up)}
    picture = piano_roll(piece, asked=asked, read=read, title="t", subtitle="s")
    assert picture.size == (WIDTH, HEIGHT)
    line = near(picture, ASKED)[:, 110:1000]
    valence, arousal = line[100:192].mean(axis=1), line[204:296].mean(axis=1)
    assert valence[:46].sum() > 1 > valence[46:].sum(), "asked is above the middle"
    assert arousal[46:].sum() > 1 > arousal[:46].sum()
    critic = near(picture, READ[0])[100:192, 110:1000].mean(axis=1)
    assert critic[46:].sum() > 1 > critic[:46].sum()
    gaps = near(picture, READ[1])[100:150, 110:1000].any(axis=0)
    assert 0.3 < gaps.mean() < 0.9, "the second reader is dashed, which needs no colour to be told"


def test_unread_stretches_are_left_out() -> None:
    piece = song()
    times = np.linspace(0, piece.seconds, 9)
    holed = np.where(np.arange(9) < 5, np.nan, 0.5)
    picture = piano_roll(piece, read={"critic": Curve.of(times, holed, holed)})
    columns = np.nonzero(near(picture, READ[0])[100:296].any(axis=0))[0]
    assert columns.min() > WIDTH / 2


def test_chords_are_named_as_lead_sheets_do() -> None:
    assert chord_names(song(4), np.arange(5) * 4.0) == ["C", "Am", "F", "G"]
    silent = Piece.of([8], [1], [60], bars=3)
    assert chord_names(silent, np.arange(4) * 4.0)[:2] == ["", ""]


@pytest.mark.parametrize(
    "piece",
    [
        Piece.of([], [], [], bars=2),
        Piece.of([0], [0.01], [60]),
        Piece.of([0, 1], [1, 1], [0, 127]),
        Piece.of(np.arange(600) * 4.0, 4.0, 60, tempo=240, beats_per_bar=2.0),
    ],
    ids=["empty", "one note", "all keys", "ten minutes"],
)
def test_anything_that_is_a_piece_can_be_drawn(piece: Piece) -> None:
    long = "a title with no end " * 40
    assert piano_roll(piece, title=long, subtitle=long).size == (WIDTH, HEIGHT)
    assert small_roll(piece, asked=0.5, read=(0.2, 0.9)).size == (224, 140)


def test_a_stamp_shows_what_was_asked_and_read() -> None:
    red = "#d23f31"
    for value in (0.25, 0.75):
        picture = small_roll(song(), asked=1.0, read=(value, 0.0), colour=red, size=(200, 120))
        bar = near(picture, red)[-17:].any(axis=0)
        assert np.nonzero(bar)[0].max() == pytest.approx(5 + 190 * value, abs=2)


def test_drawing_costs_a_moment() -> None:
    """A three-minute song of 1,400 notes: .2 s alone, tripled here for a busy machine."""
    long = song(200, tempo=260)
    start = time.perf_counter()
    piano_roll(long)
    assert time.perf_counter() - start < 0.9
