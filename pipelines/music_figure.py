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
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFont

from adapters.piece import MELODY, Piece
from adapters.tonality import NAMES, QUALITIES, chords_of, pitch_class_weights

PAPER, INK, SOFT, LINE, BAND = "#fbfaf7", "#1d1f24", "#62656e", "#dad7ce", "#f1efe9"
# Quiet to loud. Chosen so that the quietest still stands out from the paper and the two voices
# differ in lightness as well as hue, for those who see no red.
WARM = ((250, 190, 120), (168, 40, 20))
COOL = ((176, 200, 230), (28, 58, 118))
ASKED, ASKED_FILL = "#b8860b", "#f3e3b8"
READ = ("#1d3f7a", "#b0381a")  # the critic's line, the reader's (dashed)
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
SCALE = 2
WIDTH, HEIGHT = 1600, 900
STEPS_SHOWN = 30  # semitones that the roll shows at least, so that a drone is no wall

Box = tuple[float, float, float, float]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True, slots=True)
class Curve:
    """Valence and arousal over time: times (n,) in seconds, the others (n,) in -1..1 or nan."""

    times: NDArray[np.float64]
    valence: NDArray[np.float64]
    arousal: NDArray[np.float64]

    @classmethod
    def of(cls, times: ArrayLike, valence: ArrayLike, arousal: ArrayLike) -> Curve:
        """Build one from anything that is like three arrays of one length."""
        return cls(
            *(np.asarray(values, dtype=np.float64).ravel() for values in (times, valence, arousal))
        )


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
    _text(draw, (left, 26), _fit(title, 26, right - left - 470), 26, INK)
    _text(draw, (left, 62), _fit(subtitle, 16, right - left - 400), 16, SOFT)
    _key(draw, right, 62)
    top = 100.0
    curves = dict(list((read or {}).items())[: len(READ)])
    if asked is not None or curves:
        _legend(draw, right, 34, asked is not None, list(curves))
        for name in ("valence", "arousal"):
            box = (left, top, right, top + 92)
            _strip(draw, box, name, total, asked, curves)
            top += 92 + 12
        top += 22
    bottom = HEIGHT - 66.0
    _roll(draw, (left, top, right, bottom), piece, total)
    _pedal(draw, (left, bottom + 6, right, bottom + 13), piece, total)
    _seconds(draw, (left, bottom + 16, right, HEIGHT - 10.0), total)
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
    sheet = Image.new("RGB", (width * SCALE, height * SCALE), PAPER)
    draw = ImageDraw.Draw(sheet)
    foot = (5.0 * len(read) + 9) if read else 0.0
    box = (0.0, 0.0, float(width), height - foot)
    draw.rectangle(_scaled(box), fill="#ffffff")
    _notes(draw, _inset(box, 4, 5), piece, max(piece.seconds, 1e-3), radius=0.6)
    if read:
        line = (5.0, height - foot + 4, width - 5.0, height - 5.0)
        draw.rectangle(_scaled(line), fill="#e7e4dc")
        for row, value in enumerate(read):
            y = line[1] + 5 * row
            end = line[0] + (line[2] - line[0]) * min(max(value, 0.0), 1.0)
            shade = colour if row == 0 else _mixed(colour, "#e7e4dc", 0.45)
            draw.rectangle(_scaled((line[0], y + 0.5, end, y + 4)), fill=shade)
        if asked is not None:
            x = line[0] + (line[2] - line[0]) * min(max(asked, 0.0), 1.0)
            draw.rectangle(_scaled((x - 1, line[1] - 2, x + 1, line[3] + 2)), fill=INK)
    draw.rectangle(_scaled((0, 0, width - 0.5, height - 0.5)), outline="#d8d5cc", width=SCALE)
    return sheet.reduce(SCALE)


# Curves ------------------------------------------------------------------------------------------


def _strip(
    draw: ImageDraw.ImageDraw,
    box: Box,
    name: str,
    total: float,
    asked: Curve | None,
    read: Mapping[str, Curve],
) -> None:
    """One axis of emotion over time, -1 to 1, zero in the middle."""
    left, top, right, bottom = box
    middle = (top + bottom) / 2
    draw.rectangle(_scaled(box), fill="#ffffff", outline=LINE, width=SCALE)
    _text(draw, (left - 12, middle), name, 16, INK, "rm")
    _text(draw, (left - 12, top + 9), "+1", 12, SOFT, "rm")
    _text(draw, (left - 12, bottom - 9), "-1", 12, SOFT, "rm")
    inner = (left + 1, top + 4, right - 1, bottom - 4)
    if asked is not None:
        line = _places(asked.times, getattr(asked, name), inner, total)
        if line:
            first, last = (inner[0], line[0][1]), (inner[2], line[-1][1])
            area = [(inner[0], middle), first, *line, last, (inner[2], middle)]
            draw.polygon([_at(place) for place in area], fill=ASKED_FILL)
            _path(draw, [first, *line, last], ASKED, 3)
    draw.line([_at((left, middle)), _at((right, middle))], fill=LINE, width=SCALE)
    for index, curve in enumerate(read.values()):
        line = _places(curve.times, getattr(curve, name), inner, total)
        _path(draw, line, READ[index], 2.2, dash=(9, 6) if index else None)


def _places(
    times: NDArray[np.float64], values: NDArray[np.float64], box: Box, total: float
) -> list[tuple[float, float]]:
    """Where the points of a curve are drawn; what is not finite is left out."""
    left, top, right, bottom = box
    known = np.isfinite(times) & np.isfinite(values) & (times >= 0) & (times <= total * 1.001)
    x = left + (right - left) * times[known] / total
    y = (top + bottom) / 2 - (bottom - top) / 2 * np.clip(values[known], -1, 1)
    return list(zip(x.tolist(), y.tolist(), strict=True))


def _path(
    draw: ImageDraw.ImageDraw,
    line: Sequence[tuple[float, float]],
    colour: str,
    width: float,
    dash: tuple[float, float] | None = None,
) -> None:
    """A line through points, whole or in dashes of (on, off) pixels."""
    if len(line) == 1:
        x, y = line[0]
        draw.ellipse(_scaled((x - 3, y - 3, x + 3, y + 3)), fill=colour)
    if len(line) < 2:
        return
    thick = round(width * SCALE)
    if dash is None:
        draw.line([_at(place) for place in line], fill=colour, width=thick, joint="curve")
        return
    points = np.asarray(line)
    along = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(points, axis=0).T))])
    for start in np.arange(0.0, along[-1], sum(dash)):
        at = np.unique(np.clip([start, start + dash[0]], 0, along[-1]))
        inside = along[(along > at[0]) & (along < at[-1])]
        stops = np.concatenate([at[:1], inside, at[1:]])
        x, y = (np.interp(stops, along, points[:, axis]) for axis in (0, 1))
        piece = [_at(place) for place in zip(x.tolist(), y.tolist(), strict=True)]
        draw.line(piece, fill=colour, width=thick, joint="curve")


def _legend(
    draw: ImageDraw.ImageDraw, right: float, y: float, asked: bool, names: Sequence[str]
) -> None:
    """Samples of the lines with their names, right-aligned on one row."""
    entries = [*(["asked"] if asked else []), *names]
    x = right - sum(_font(15).getlength(name) / SCALE + 34 + 22 for name in entries) + 22
    for index, name in enumerate(entries):
        row = index - int(asked)
        if row < 0:
            draw.rectangle(_scaled((x, y - 7, x + 26, y + 7)), fill=ASKED_FILL)
            _path(draw, [(x, y - 6), (x + 26, y - 6)], ASKED, 3)
        else:
            dash = (9.0, 6.0) if row else None
            _path(draw, [(x, y), (x + 26, y)], READ[row], 2.2, dash=dash)
        _text(draw, (x + 34, y), name, 15, SOFT, "lm")
        x += _font(15).getlength(name) / SCALE + 34 + 22


def _key(draw: ImageDraw.ImageDraw, right: float, y: float) -> None:
    """What the colours of the notes mean: two ramps from soft to loud with their names."""
    x = right
    for name, (dim, strong) in (("accompaniment", COOL), ("melody, soft to loud", WARM)):
        x -= _font(15).getlength(name) / SCALE
        _text(draw, (x, y), name, 15, SOFT, "lm")
        x -= 46
        for step in range(4):
            shade = tuple(round(a + (b - a) * step / 3) for a, b in zip(dim, strong, strict=True))
            draw.rectangle(_scaled((x + 9 * step, y - 5, x + 9 * step + 8, y + 5)), fill=shade)
        x -= 22


# Notes -------------------------------------------------------------------------------------------


def _roll(draw: ImageDraw.ImageDraw, box: Box, piece: Piece, total: float) -> None:
    """Octaves, black keys, bar lines with numbers and chords, then the notes."""
    left, top, right, bottom = box
    low, high = _range(piece)
    step = (bottom - top) / (high - low)
    draw.rectangle(_scaled(box), fill="#ffffff", outline=LINE, width=SCALE)
    for pitch in range(low, high):
        y = bottom - (pitch - low) * step
        if pitch % 12 in (1, 3, 6, 8, 10):
            draw.rectangle(_scaled((left + 1, y - step, right - 1, y)), fill=BAND)
        if pitch % 12 == 0:
            draw.line([_at((left, y)), _at((right, y))], fill=LINE, width=SCALE)
            _text(draw, (left - 12, y - step / 2), f"C{pitch // 12 - 1}", 14, SOFT, "rm")
    lines = left + (right - left) * _bar_seconds(piece) / total
    every = _round_step(len(lines) * 46 / (right - left), (1, 2, 4, 8, 16, 32, 64))
    for bar, x in enumerate(lines.tolist()):
        if x > right + 0.5:
            break
        strong = bar % every == 0
        if strong or len(lines) < 240:
            colour = "#bdb9ae" if strong else LINE
            draw.line([_at((x, top)), _at((x, bottom))], fill=colour, width=SCALE)
        if strong and x < right - 12:
            _text(draw, (x + 4, top + 10), f"{bar + 1}", 12, SOFT, "lm")
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
                _scaled(place), corner, fill=shade, outline=outline, width=SCALE // 2 or 1
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
        width = _font(14).getlength(name) / SCALE
        if x < free or x + width > right:
            before = ""  # told again where there is room
            continue
        _text(draw, (x + 4, top + 9), name, 14, INK, "lm")
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
    _text(draw, (left - 12, (top + bottom) / 2), "pedal", 12, SOFT, "rm")
    ends = left + (right - left) * np.clip(piece.seconds_at(piece.pedal) / total, 0, 1)
    for down, up in ends.tolist():
        if up > down + 0.5:
            draw.rectangle(_scaled((down, top, max(up - 1.5, down + 0.5), bottom)), fill="#c9c5ba")


def _seconds(draw: ImageDraw.ImageDraw, box: Box, total: float) -> None:
    """Ticks of the time axis."""
    left, top, right, _ = box
    every = _round_step(total / 14, (0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600))
    for second in np.arange(0, total + 1e-6, every).tolist():
        x = left + (right - left) * second / total
        draw.line([_at((x, top)), _at((x, top + 6))], fill=SOFT, width=SCALE)
        text = f"{second:g} s" if total < 120 else f"{int(second) // 60}:{int(second) % 60:02d}"
        _text(draw, (min(x, right - 14), top + 19), text, 14, SOFT, "mm")


def _range(piece: Piece) -> tuple[int, int]:
    """Lowest pitch shown and the one above the highest, at least STEPS_SHOWN apart."""
    low, high = (int(piece.pitch.min()), int(piece.pitch.max()) + 1) if len(piece) else (48, 72)
    low, high = low - 2, high + 2
    spare = max(0, STEPS_SHOWN - (high - low))
    return low - spare // 2, high + spare - spare // 2


def _bar_seconds(piece: Piece) -> NDArray[np.float64]:
    """(bars + 1,) seconds of every bar line, the last one included."""
    return np.asarray(piece.seconds_at(np.arange(piece.bars + 1) * piece.beats_per_bar))


# Drawing -----------------------------------------------------------------------------------------


def _round_step(least: float, steps: Sequence[float]) -> float:
    """The smallest of `steps` that is not under `least`, or the largest there is."""
    return next((step for step in steps if step >= least), steps[-1])


def _font(size: float) -> Font:
    return ImageFont.load_default(size * SCALE)


def _text(
    draw: ImageDraw.ImageDraw,
    place: tuple[float, float],
    text: str,
    size: float,
    colour: str,
    anchor: str = "lm",
) -> None:
    draw.text(_at(place), text, fill=colour, font=_font(size), anchor=anchor)


def _fit(text: str, size: float, room: float) -> str:
    """`text` on one line, cut with an ellipsis to at most `room` pixels."""
    line, font = " ".join(text.split())[:300], _font(size)
    if font.getlength(line) <= room * SCALE:
        return line
    while line and font.getlength(line + "…") > room * SCALE:
        line = line[:-1]
    return line.rstrip() + "…"


def _at(place: tuple[float, float]) -> tuple[float, float]:
    return place[0] * SCALE, place[1] * SCALE


def _scaled(box: Sequence[float]) -> tuple[float, float, float, float]:
    left, top, right, bottom = (value * SCALE for value in box)
    return left, top, right, bottom


def _inset(box: Box, x: float, y: float) -> Box:
    return box[0] + x, box[1] + y, box[2] - x, box[3] - y


def _mixed(one: str, other: str, share: float) -> str:
    """`share` of the second colour in the first, both #rrggbb."""
    pairs = zip(*(bytes.fromhex(colour.removeprefix("#")) for colour in (one, other)), strict=True)
    return "#" + bytes(round(a + (b - a) * share) for a, b in pairs).hex()
