"""The picture of a piece: its notes over time, under the emotion that was asked for and read.

`piano_roll` is what a person looks at to see what was made: two curves, valence and arousal, as
asked and as both readers read them, above the notes. Melody is warm, accompaniment cool, louder is
darker; bar lines, octaves, key and chords, the pedal below. `small_roll` is the same at the size of
a stamp, for contact sheets. The time axis is seconds, so a change of tempo shows as bars that
narrow or widen, and curves and notes stand exactly above each other.

It deliberately knows no request and no file. Drawn with Pillow alone, at twice the size and halved,
which is what smooths the lines; some .2 s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw

from adapters.piece import MELODY, Piece
from adapters.tonality import NAMES, QUALITIES, chords_of, pitch_class_weights
from pipelines.curve import Curve
from pipelines.drawing import (
    BAND,
    INK,
    LINE,
    PAPER,
    READ,
    SCALE,
    SOFT,
    Box,
    fitted,
    font_of,
    inset,
    legend,
    placed,
    reading_bars,
    round_step,
    scaled,
    seconds_axis,
    strip,
    write,
)

# Quiet to loud. Chosen so that the quietest still stands out from the paper and the two voices
# differ in lightness as well as hue, for those who see no red.
WARM = ((250, 190, 120), (168, 40, 20))
COOL = ((176, 200, 230), (28, 58, 118))
QUIET, LOUD = 25, 110  # velocities at the two ends of the colours
# Lead-sheet suffixes of adapters.tonality's chord qualities.
SUFFIX = {
    "major": "",
    "minor": "m",
    "diminished": "dim",
    "augmented": "aug",
    "suspended": "sus",
    "dominant seventh": "7",
    "major seventh": "maj7",
    "minor seventh": "m7",
    "half-diminished": "m7b5",
    "diminished seventh": "dim7",
}
WIDTH, HEIGHT = 1600, 900
STEPS_SHOWN = 30  # semitones that the roll shows at least, so that a drone is no wall


def piano_roll(
    piece: Piece,
    *,
    asked: Curve | None = None,
    read: Mapping[str, Curve] | None = None,
    title: str = "",
    subtitle: str = "",
    seconds: float | None = None,
) -> Image.Image:
    """Draw a piece, RGB 1600 x 900.

    asked: the emotion over time that was asked for. read: name -> how that reader reads it, at
    most two. seconds: length of the time axis, None for the piece's own.
    """
    total = max(seconds or piece.seconds, 1e-3)
    sheet = Image.new("RGB", (WIDTH * SCALE, HEIGHT * SCALE), PAPER)
    draw = ImageDraw.Draw(sheet)
    left, right = 92.0, WIDTH - 36.0
    write(draw, (left, 26), fitted(title, 26, right - left - 470), 26, INK)
    write(draw, (left, 62), fitted(subtitle, 16, right - left - 400), 16, SOFT)
    _key(draw, right, 62)
    top = 100.0
    curves = dict(list((read or {}).items())[: len(READ)])
    if asked is not None or curves:
        legend(draw, right, 34, asked is not None, list(curves))
        for name in ("valence", "arousal"):
            box = (left, top, right, top + 92)
            strip(draw, box, name, total, asked, curves)
            top += 92 + 12
        top += 22
    bottom = HEIGHT - 66.0
    _roll(draw, (left, top, right, bottom), piece, total)
    _pedal(draw, (left, bottom + 6, right, bottom + 13), piece, total)
    seconds_axis(draw, (left, bottom + 16, right, HEIGHT - 10.0), total)
    return sheet.reduce(SCALE)


def small_roll(
    piece: Piece,
    *,
    asked: float | None = None,
    read: Sequence[float] = (),
    colour: str = SOFT,
    size: tuple[int, int] = (224, 140),
) -> Image.Image:
    """Draw a piece as a stamp: notes, and a track with a bar a reader and a tick at what was asked.

    asked: intensity 0..1, None for no tick. read: one intensity 0..1 a reader.
    """
    width, height = size
    sheet = Image.new("RGB", (width * SCALE, height * SCALE), "#ffffff")
    draw = ImageDraw.Draw(sheet)
    foot = reading_bars(draw, size, asked=asked, read=read, colour=colour)
    box = (0.0, 0.0, float(width), height - foot)
    _notes(draw, inset(box, 4, 5), piece, max(piece.seconds, 1e-3), radius=0.6)
    draw.rectangle(scaled((0, 0, width - 0.5, height - 0.5)), outline="#d8d5cc", width=SCALE)
    return sheet.reduce(SCALE)


# Notes -------------------------------------------------------------------------------------------


def _roll(draw: ImageDraw.ImageDraw, box: Box, piece: Piece, total: float) -> None:
    """Octaves, black keys, bar lines with numbers and chords, then the notes."""
    left, top, right, bottom = box
    low, high = _range(piece)
    step = (bottom - top) / (high - low)
    draw.rectangle(scaled(box), fill="#ffffff", outline=LINE, width=SCALE)
    for pitch in range(low, high):
        y = bottom - (pitch - low) * step
        if pitch % 12 in (1, 3, 6, 8, 10):
            draw.rectangle(scaled((left + 1, y - step, right - 1, y)), fill=BAND)
        if pitch % 12 == 0:
            draw.line([placed((left, y)), placed((right, y))], fill=LINE, width=SCALE)
            write(draw, (left - 12, y - step / 2), f"C{pitch // 12 - 1}", 14, SOFT, "rm")
    lines = left + (right - left) * _bar_seconds(piece) / total
    every = round_step(len(lines) * 46 / (right - left), (1, 2, 4, 8, 16, 32, 64))
    for bar, x in enumerate(lines.tolist()):
        if x > right + 0.5:
            break
        strong = bar % every == 0
        if strong or len(lines) < 240:
            colour = "#bdb9ae" if strong else LINE
            draw.line([placed((x, top)), placed((x, bottom))], fill=colour, width=SCALE)
        if strong and x < right - 12:
            write(draw, (x + 4, top + 10), f"{bar + 1}", 12, SOFT, "lm")
    _chords(draw, (left, top - 20, right, top), piece, total)
    _notes(draw, (left, top, right, bottom), piece, total, radius=2.0, frame=True)


def _notes(
    draw: ImageDraw.ImageDraw,
    box: Box,
    piece: Piece,
    total: float,
    *,
    radius: float,
    frame: bool = False,
) -> None:
    """Every note as a bar: accompaniment first, melody over it, louder is darker."""
    if not len(piece):
        return
    left, top, right, bottom = box
    low, high = _range(piece)
    step = (bottom - top) / (high - low)
    wide = (right - left) / total
    start = left + piece.seconds_at(piece.onset) * wide
    end = np.maximum(left + piece.seconds_at(piece.offset) * wide - 0.5, start + 1.2)
    y = bottom - (piece.pitch - low) * step
    loud = np.clip((piece.velocity - QUIET) / (LOUD - QUIET), 0, 1)
    # A note is a little taller than its row where rows are thin, or the roll looks empty.
    tall = max(step, 3.0)
    for voice_is_melody in (False, True):
        dim, strong = (np.array(end_) for end_ in (WARM if voice_is_melody else COOL))
        chosen = np.flatnonzero((piece.voice == MELODY) == voice_is_melody)
        for i in chosen.tolist():
            shade = tuple(int(c) for c in dim + (strong - dim) * loud[i])
            place = (start[i], y[i] - step / 2 - tall / 2, min(end[i], right), y[i] - step / 2)
            place = (place[0], place[1], place[2], place[1] + tall)
            if place[2] <= place[0]:
                continue
            outline = PAPER if frame and voice_is_melody else None
            corner = min(radius, (place[2] - place[0]) / 2, tall / 2) * SCALE
            draw.rounded_rectangle(
                scaled(place), corner, fill=shade, outline=outline, width=SCALE // 2 or 1
            )


def _chords(draw: ImageDraw.ImageDraw, box: Box, piece: Piece, total: float) -> None:
    """The name of every chord above the half bar in which it begins, where there is room for it."""
    left, top, right, _ = box
    edges = np.arange(0, piece.beats + 1e-6, piece.beats_per_bar / 2)
    at = left + (right - left) * piece.seconds_at(edges) / total
    free, before = left, ""
    for x, name in zip(at.tolist(), chord_names(piece, edges), strict=False):
        if not name or name == before:
            continue
        width = font_of(14).getlength(name) / SCALE
        if x < free or x + width > right:
            before = ""  # told again where there is room
            continue
        write(draw, (x + 4, top + 9), name, 14, INK, "lm")
        free, before = x + 4 + width + 8, name


def chord_names(piece: Piece, edges: ArrayLike) -> list[str]:
    """The chord between each two of `edges` (beats) as lead sheets write it, "" where none sounds.

    What is held decides, and the lowest note that begins there is taken for the bass.
    """
    at = np.asarray(edges, dtype=np.float64)
    bass = np.full(len(at) - 1, 128)
    # Played notes come a little early or late.
    cell = np.searchsorted(at, piece.onset + 0.05, side="right") - 1
    inside = (cell >= 0) & (cell < len(bass))
    np.minimum.at(bass, cell[inside], piece.pitch[inside])
    roots, kinds = chords_of(pitch_class_weights(piece, at), np.where(bass < 128, bass, -1))
    return [
        "" if root < 0 else NAMES[root] + SUFFIX[QUALITIES[kind]]
        for root, kind in zip(roots.tolist(), kinds.tolist(), strict=True)
    ]


def _pedal(draw: ImageDraw.ImageDraw, box: Box, piece: Piece, total: float) -> None:
    """Where the sustain pedal is down."""
    if not len(piece.pedal):
        return
    left, top, right, bottom = box
    write(draw, (left - 12, (top + bottom) / 2), "pedal", 12, SOFT, "rm")
    ends = left + (right - left) * np.clip(piece.seconds_at(piece.pedal) / total, 0, 1)
    for down, up in ends.tolist():
        if up > down + 0.5:
            draw.rectangle(scaled((down, top, max(up - 1.5, down + 0.5), bottom)), fill="#c9c5ba")


def _range(piece: Piece) -> tuple[int, int]:
    """Lowest pitch shown and the one above the highest, at least STEPS_SHOWN apart."""
    low, high = (int(piece.pitch.min()), int(piece.pitch.max()) + 1) if len(piece) else (48, 72)
    low, high = low - 2, high + 2
    spare = max(0, STEPS_SHOWN - (high - low))
    return low - spare // 2, high + spare - spare // 2


def _bar_seconds(piece: Piece) -> NDArray[np.float64]:
    """(bars + 1,) seconds of every bar line, the last one included."""
    return np.asarray(piece.seconds_at(np.arange(piece.bars + 1) * piece.beats_per_bar))


def _key(draw: ImageDraw.ImageDraw, right: float, y: float) -> None:
    """What the colours of the notes mean: two ramps from soft to loud with their names."""
    x = right
    for name, (dim, strong) in (("accompaniment", COOL), ("melody, soft to loud", WARM)):
        x -= font_of(15).getlength(name) / SCALE
        write(draw, (x, y), name, 15, SOFT, "lm")
        x -= 46
        for step in range(4):
            shade = tuple(round(a + (b - a) * step / 3) for a, b in zip(dim, strong, strict=True))
            draw.rectangle(scaled((x + 9 * step, y - 5, x + 9 * step + 8, y + 5)), fill=shade)
        x -= 22
