"""The picture of a portrait that moves: its faces over time, the muscles, and what was asked for.

`draw` is what a person looks at to see what a face does without playing the film: the photo, then
the face at even times; valence and arousal as asked and as both readers read them; and four rows of
curves: brows, lids, mouth (over the loudness of the speech) and the head's turns. The columns of
all rows are the same seconds. `moments` says which frames the strip shows, so that a renderer can
keep those and let the others go.

It deliberately knows no request and no file. Drawn with Pillow alone (pipelines.drawing).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw

from adapters.face_motion import Motion
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
    draw_path,
    fitted,
    legend,
    mixed,
    placed,
    round_step,
    scaled,
    seconds_axis,
    strip,
    write,
)

Floats = NDArray[np.float64]

WIDTH, HEIGHT = 1600, 1000
FACES = 10
"""Faces in the strip, beside the photo."""
LEFT, RIGHT = 190.0, 1564.0
POINTS = 2000  # of a curve that are drawn: more than there are pixels
SHUT = 0.3  # of a blink, above which a face in the strip looks asleep
NARROWEST = 6.0  # degrees that the axis of the head shows at least, or stillness looks wild


@dataclass(frozen=True, slots=True)
class Line:
    """One curve of a row: a name, channels whose mean it is, which way it is drawn, its colour.

    filled: drawn as an area. peaks: where many frames share a column, the largest is shown and not
    the mean, for a blink lasts five frames.
    """

    name: str
    channels: tuple[str, ...]
    way: int
    colour: str
    filled: bool = False
    peaks: bool = False
    dash: tuple[float, float] | None = None


def _pair(name: str) -> tuple[str, str]:
    return f"{name}Left", f"{name}Right"


WARM, COLD, DARK, GREEN = "#b0381a", "#1d3f7a", "#3b3f48", "#0b7a70"
ROWS: tuple[tuple[str, tuple[Line, ...]], ...] = (
    (
        "brows",
        (
            Line("inner up", ("browInnerUp",), 1, COLD),
            Line("outer up", _pair("browOuterUp"), 1, GREEN, dash=(8, 5)),
            Line("lowered", _pair("browDown"), -1, WARM),
        ),
    ),
    (
        "lids",
        (
            Line("wide", _pair("eyeWide"), 1, COLD),
            Line("shut", _pair("eyeBlink"), -1, "#8b93a3", filled=True, peaks=True),
            Line("squint", _pair("eyeSquint"), -1, WARM, dash=(8, 5)),
        ),
    ),
    (
        "mouth",
        (
            Line("open", ("jawOpen",), 1, DARK),
            Line("smile", _pair("mouthSmile"), 1, GREEN, dash=(8, 5)),
            Line("frown", _pair("mouthFrown"), -1, WARM),
        ),
    ),
)
HEAD: tuple[tuple[str, str, str, tuple[float, float] | None], ...] = (
    ("yaw", "to its left", COLD, None),
    ("pitch", "up", WARM, (8, 5)),
    ("roll", "tilted left", GREEN, (2, 4)),
)
"""Axis of the pose, what + means, colour, dash."""
HEARD = "#e9dfc8"
"""The loudness of the speech behind the mouth."""


def moments(motion: Motion, count: int = FACES) -> list[int]:
    """Frames that stand for `count` even parts of a motion, ascending: open eyes near the middle.

    Fewer where the motion has fewer frames.
    """
    frames = len(motion)
    count = max(1, min(count, frames))
    shut = np.maximum(motion.channel("eyeBlinkLeft"), motion.channel("eyeBlinkRight"))
    found = []
    for part in range(count):
        first, last = part * frames // count, max((part + 1) * frames // count, 1)
        near = np.arange(first, max(last, first + 1))
        away = np.abs(near - (first + last - 1) / 2) / max(len(near), 1)
        # A face that keeps its eyes shut is shown so.
        found.append(int(near[np.argmin(away + (shut[near] > max(SHUT, shut[near].min())))]))
    return found


def draw(
    motion: Motion,
    faces: Sequence[Image.Image],
    photo: Image.Image | None = None,
    *,
    asked: Curve | None = None,
    read: Mapping[str, Curve] | None = None,
    speech: ArrayLike | None = None,
    title: str = "",
    subtitle: str = "",
) -> Image.Image:
    """Draw a motion, RGB 1600 x 1000.

    Args:
        motion: what the face does.
        faces: one square picture of the face for each of `moments(motion, len(faces))`.
        photo: the face as it was, square; None leaves its place empty.
        asked: the emotion over time that was asked for; read: name -> how that reader reads it, at
            most two.
        speech: loudness over the whole motion, any number of values >= 0; None where nobody speaks.
        title, subtitle: one line each.
    """
    total = max(motion.seconds, 1e-3)
    sheet = Image.new("RGB", (WIDTH * SCALE, HEIGHT * SCALE), PAPER)
    pen = ImageDraw.Draw(sheet)
    write(pen, (36, 30), fitted(title, 26, WIDTH - 72), 26, INK)
    write(pen, (36, 64), fitted(subtitle, 16, WIDTH - 480), 16, SOFT)
    curves = dict(list((read or {}).items())[: len(READ)])
    if asked is not None or curves:
        legend(pen, RIGHT, 64, asked is not None, list(curves))
    top = 92.0 + _faces(sheet, pen, 92.0, faces, photo, motion) + 12
    if asked is not None or curves:
        for name in ("valence", "arousal"):
            strip(pen, (LEFT, top, RIGHT, top + 74), name, total, asked, curves)
            top += 74 + 8
        top += 6
    foot = HEIGHT - 52.0
    gap = 9.0
    tall = (foot - top - len(ROWS) * gap) / (len(ROWS) + 1)
    for name, lines in ROWS:
        box = (LEFT, top, RIGHT, top + tall)
        _muscles(pen, box, name, lines, motion, speech if name == "mouth" else None)
        top += tall + gap
    _head(pen, (LEFT, top, RIGHT, top + tall), motion)
    seconds_axis(pen, (LEFT, foot + 6, RIGHT, HEIGHT - 10.0), total)
    return sheet.reduce(SCALE)


def close_up(picture: Image.Image, box: Sequence[float], air: float = 0.16) -> Image.Image:
    """The square of a picture around a face, for the strip and for contact sheets.

    box: left, top, right, bottom of the face (face_mesh.Face.box). air: share of the face's longer
    side that is added around it; what would lie outside the picture is left out.
    """
    left, top, right, bottom = box
    side = min(max(right - left, bottom - top) * (1 + 2 * air), *picture.size)
    x = min(max((left + right - side) / 2, 0.0), picture.width - side)
    y = min(max((top + bottom - side) / 2, 0.0), picture.height - side)
    return picture.crop((round(x), round(y), round(x + side), round(y + side)))


def loudness(waveform: ArrayLike, rate: int, *, points: int = POINTS) -> Floats:
    """(points or fewer,) how loud a sound is over time, 0..1 of its own loudest, for `draw`."""
    sound = np.atleast_2d(np.asarray(waveform, dtype=np.float64)).mean(axis=0)
    size = max(rate // 100, -(-sound.size // points), 1)
    whole = np.pad(sound, (0, -sound.size % size)).reshape(-1, size)
    level = np.sqrt((whole**2).mean(axis=1)) if whole.size else np.zeros(1)
    return np.asarray(level / max(float(level.max()), 1e-9))


def _faces(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    top: float,
    faces: Sequence[Image.Image],
    photo: Image.Image | None,
    motion: Motion,
) -> float:
    """The photo and the strip of faces; how tall they are."""
    slot = (RIGHT - LEFT) / max(len(faces), FACES)
    side = min(slot - 6, 142.0)
    if photo is not None:
        _paste(sheet, photo, (36.0, top, 36 + side, top + side))
        write(draw, (36 + side / 2, top + side + 11), "the photo", 13, SOFT, "mm")
    slot = (RIGHT - LEFT) / max(len(faces), 1)
    for index, (face, frame) in enumerate(zip(faces, moments(motion, len(faces)), strict=False)):
        x = LEFT + slot * (index + 0.5)
        _paste(sheet, face, (x - side / 2, top, x + side / 2, top + side))
        write(draw, (x, top + side + 11), f"{frame / motion.fps:.1f} s", 13, SOFT, "mm")
    return side + 20


def _paste(sheet: Image.Image, face: Image.Image, box: Box) -> None:
    left, top, right, bottom = (round(x) for x in scaled(box))
    small = face.convert("RGB").resize((right - left, bottom - top), Image.Resampling.LANCZOS)
    sheet.paste(small, (left, top))


def _muscles(
    draw: ImageDraw.ImageDraw,
    box: Box,
    name: str,
    lines: Sequence[Line],
    motion: Motion,
    speech: ArrayLike | None,
) -> None:
    """One row: what raises above the middle, what lowers below it, each 0..1."""
    left, top, right, bottom = box
    middle = (top + bottom) / 2
    draw.rectangle(scaled(box), fill="#ffffff", outline=LINE, width=SCALE)
    half = (bottom - top) / 2 - 6
    if speech is not None:
        _heard(draw, box, np.asarray(speech, dtype=np.float64), half)
    for share in (-0.5, 0.5):
        y = middle - share * half
        draw.line([placed((left + 1, y)), placed((right - 1, y))], fill=BAND, width=SCALE)
    draw.line([placed((left, middle)), placed((right, middle))], fill=LINE, width=SCALE)
    _names(draw, box, name, [(line.name, line.colour, line.dash) for line in lines])
    for line in sorted(lines, key=lambda one: not one.filled):
        values = np.mean([motion.channel(channel) for channel in line.channels], axis=0)
        x, shown = _points(values, motion, (left + 1, right - 1), peaks=line.peaks)
        path = list(zip(x.tolist(), (middle - line.way * half * shown).tolist(), strict=True))
        if line.filled:
            area = [(path[0][0], middle), *path, (path[-1][0], middle)]
            draw.polygon([placed(place) for place in area], fill=mixed(line.colour, "#ffffff", 0.5))
        draw_path(draw, path, line.colour, 2.2, dash=line.dash)


def _head(draw: ImageDraw.ImageDraw, box: Box, motion: Motion) -> None:
    """The head's turns in degrees."""
    left, top, right, bottom = box
    middle, half = (top + bottom) / 2, (bottom - top) / 2 - 6
    draw.rectangle(scaled(box), fill="#ffffff", outline=LINE, width=SCALE)
    most = round_step(max(NARROWEST, float(np.abs(motion.pose).max())), (6, 10, 15, 20, 30, 45, 90))
    draw.line([placed((left, middle)), placed((right, middle))], fill=LINE, width=SCALE)
    names = [(f"{name}, + {way}", colour, dash) for name, way, colour, dash in HEAD]
    _names(draw, box, "head", names)
    for sign in (1, -1):
        at = (right - 8, middle - sign * (half - 6))
        write(draw, at, f"{sign * most:+g}°", 12, SOFT, "rm")
    for name, _, colour, dash in HEAD:
        x, turned = _points(motion.channel(name), motion, (left + 1, right - 1))
        path = list(zip(x.tolist(), (middle - half * turned / most).tolist(), strict=True))
        draw_path(draw, path, colour, 2.2, dash=dash)


def _heard(draw: ImageDraw.ImageDraw, box: Box, level: Floats, half: float) -> None:
    """The speech, as loud as it is, from the middle upwards."""
    if not level.size or not level.max() > 0:
        return
    left, top, right, bottom = box
    middle = (top + bottom) / 2
    x = np.linspace(left + 1, right - 1, level.size)
    y = middle - half * level / level.max()
    area = [(left + 1, middle), *zip(x.tolist(), y.tolist(), strict=True), (right - 1, middle)]
    draw.polygon([placed(place) for place in area], fill=HEARD)


def _points(
    values: NDArray[np.floating], motion: Motion, span: tuple[float, float], *, peaks: bool = False
) -> tuple[Floats, Floats]:
    """x in pixels and values of at most POINTS points; a frame stands in the middle of its time."""
    rows = np.asarray(values, dtype=np.float64)
    step = max(1, math.ceil(len(rows) / POINTS))
    padded = np.pad(rows, (0, -len(rows) % step), mode="edge").reshape(-1, step)
    shown = padded.max(axis=1) if peaks else padded.mean(axis=1)
    place = np.minimum((np.arange(len(shown)) + 0.5) * step, len(rows) - 0.5) / len(rows)
    return np.asarray(span[0] + (span[1] - span[0]) * place), shown


def _names(
    draw: ImageDraw.ImageDraw,
    box: Box,
    name: str,
    lines: Sequence[tuple[str, str, tuple[float, float] | None]],
) -> None:
    """Name of a row and, under it, of its lines with a sample each, right-aligned beside it."""
    left, top, _, bottom = box
    tall = min((bottom - top) / (len(lines) + 1), 22.0)
    y = (top + bottom) / 2 - tall * len(lines) / 2
    write(draw, (left - 12, y), name, 16, INK, "rm")
    for text, colour, dash in lines:
        y += tall
        write(draw, (left - 44, y), text, 13, SOFT, "rm")
        draw_path(draw, [(left - 38, y), (left - 12, y)], colour, 2.4, dash=dash)
