"""The picture of a film: its frames over time, and the emotion that was asked for and is read.

`draw` is what a person looks at to see what a film does without playing it: frames at even times;
valence and arousal as asked and as both readers read them; and a row for each emotion that is asked
for or clearly read. The columns of all rows are the same seconds.

It deliberately knows no request and no file. Drawn with Pillow alone (pipelines.drawing).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from adapters.reading import LABELS
from pipelines.curve import Curve
from pipelines.drawing import (
    ASKED,
    ASKED_FILL,
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
    placed,
    scaled,
    seconds_axis,
    strip,
    write,
)

Frames = NDArray[np.uint8]
Floats = NDArray[np.float64]

WIDTH = 1600
LEFT, RIGHT = 130.0, 1564.0
SHOWN = 12
"""Frames in the strip."""
EMOTIONS = 4
"""Rows of single emotions at most: those asked for most, then those read most."""
TOP, STRIP, ROW, FOOT = 92.0, 96.0, 92.0, 52.0
"""px: where pictures begin, how tall a row of valence or arousal is, one emotion's, the axis."""
TALLEST = 260.0  # px of a frame in the strip
FAINT = 0.02  # what is asked for or read below this on average has no row of its own


def draw(
    frames: Frames,
    fps: float,
    *,
    asked: Curve | None,
    times: Floats,
    rows: Mapping[str, Floats],
    read: Mapping[str, Curve],
    title: str = "",
    subtitle: str = "",
) -> Image.Image:
    """Draw a film, RGB, 1600 wide and as tall as it needs.

    Args:
        frames: (n, H, W, 3); fps: of them.
        asked: valence and arousal that were asked for, None where nothing was; read: name -> how
            that reader reads them, at most two.
        times: (m,) seconds of the readings. rows: name -> (m, 13) intensities, neutral first:
            "asked" and the names in `read`.
        title, subtitle: one line each.
    """
    total = max(len(frames) / fps, 1e-3)
    names = emotions_of(rows)
    wide, tall = _size(frames)
    height = round(TOP + tall + 32 + 2 * (STRIP + 8) + 4 + len(names) * ROW + FOOT)
    sheet = Image.new("RGB", (WIDTH * SCALE, height * SCALE), PAPER)
    pen = ImageDraw.Draw(sheet)
    write(pen, (36, 30), fitted(title, 26, WIDTH - 72), 26, INK)
    shown = dict(list(read.items())[: len(READ)])
    write(pen, (36, 64), fitted(subtitle, 16, WIDTH - 540), 16, SOFT)
    legend(pen, RIGHT, 64, asked is not None, list(shown))
    _pictures(sheet, pen, frames, fps, (wide, tall))
    top = TOP + tall + 32
    for name in ("valence", "arousal"):
        strip(pen, (LEFT, top, RIGHT, top + STRIP), name, total, asked, shown)
        top += STRIP + 8
    top += 4
    for name in names:
        box = (LEFT, top, RIGHT, top + ROW - 8)
        _emotion(pen, box, name, times, rows, list(shown), total)
        top += ROW
    seconds_axis(pen, (LEFT, top + 2, RIGHT, height - 10.0), total)
    return sheet.reduce(SCALE)


def emotions_of(rows: Mapping[str, Floats]) -> list[str]:
    """Emotions with a row of their own: asked for, strongest first, then those read most."""
    found: list[str] = []
    for name in ("asked", *(key for key in rows if key != "asked")):
        if name not in rows or not len(rows[name]):
            continue
        mean = np.nanmean(rows[name], axis=0)[1:]
        order = [int(k) for k in np.argsort(-mean) if mean[k] >= FAINT]
        found += [LABELS[k + 1] for k in order if LABELS[k + 1] not in found]
    return found[:EMOTIONS]


def _size(frames: Frames) -> tuple[float, float]:
    """Width and height of a frame in the strip, px."""
    slot = (RIGHT - LEFT) / min(SHOWN, len(frames))
    height, width = frames.shape[1:3]
    wide = min(slot - 4, TALLEST * width / height)
    return wide, wide * height / width


def _pictures(
    sheet: Image.Image,
    pen: ImageDraw.ImageDraw,
    frames: Frames,
    fps: float,
    size: tuple[float, float],
) -> None:
    """The strip of frames at even times, each over the middle of the time that it is shown for."""
    count = min(SHOWN, len(frames))
    slot = (RIGHT - LEFT) / count
    wide, tall = size
    for index in range(count):
        at = min(len(frames) - 1, int((index + 0.5) * len(frames) / count))
        middle = LEFT + slot * (index + 0.5)
        place = scaled((middle - wide / 2, TOP, middle + wide / 2, TOP + tall))
        x0, y0, x1, y1 = (round(x) for x in place)
        picture = Image.fromarray(frames[at])
        sheet.paste(picture.resize((x1 - x0, y1 - y0), Image.Resampling.LANCZOS), (x0, y0))
        write(pen, (middle, TOP + tall + 11), f"{at / fps:.1f} s", 13, SOFT, "mm")


def _emotion(
    pen: ImageDraw.ImageDraw,
    box: Box,
    name: str,
    times: Floats,
    rows: Mapping[str, Floats],
    judges: list[str],
    total: float,
) -> None:
    """One emotion over time: how much of it was asked for, and how strongly each judge reads it."""
    left, top, right, bottom = box
    column = LABELS.index(name)
    pen.rectangle(scaled(box), fill="#ffffff", outline=LINE, width=SCALE)
    write(pen, (left - 12, (top + bottom) / 2), name, 15, INK, "rm")
    half = (top + bottom) / 2
    pen.line([placed((left + 1, half)), placed((right - 1, half))], fill=BAND, width=SCALE)
    write(pen, (right - 6, top + 10), "1", 12, SOFT, "rm")

    def places(values: Floats) -> list[tuple[float, float]]:
        x = left + 1 + (right - left - 2) * np.clip(times / total, 0, 1)
        y = bottom - 2 - (bottom - top - 4) * np.clip(values, 0, 1)
        return [(a, b) for a, b in zip(x.tolist(), y.tolist(), strict=True) if np.isfinite(b)]

    line = places(rows["asked"][:, column]) if "asked" in rows else []
    if line:
        line = [*line, (right - 1, line[-1][1])]
        area = [(line[0][0], bottom - 2), *line, (line[-1][0], bottom - 2)]
        pen.polygon([placed(place) for place in area], fill=ASKED_FILL)
        draw_path(pen, line, ASKED, 2.6)
    for index, judge in enumerate(judges):
        path = places(rows[judge][:, column])
        draw_path(pen, path, READ[index], 2.2, dash=(9, 6) if index else None)
