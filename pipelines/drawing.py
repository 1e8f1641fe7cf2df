"""Drawing with Pillow: what the pictures of takes have in common.

Coordinates are pixels of the finished picture; everything is drawn `SCALE` times as large and then
halved (`Image.reduce`), which is what smooths the lines. Text uses the font inside Pillow, so a
picture looks the same on every machine. `strip` draws one axis of emotion over time, as it was
asked for and as readers read it.

It deliberately knows neither music nor voices, no request and no file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import ImageDraw, ImageFont

from pipelines.curve import Curve

PAPER, INK, SOFT, LINE, BAND = "#fbfaf7", "#1d1f24", "#62656e", "#dad7ce", "#f1efe9"
ASKED, ASKED_FILL = "#b8860b", "#f3e3b8"
READ = ("#1d3f7a", "#b0381a")
"""The critic's line, the reader's (dashed)."""
SCALE = 2

# One colour per emotion, for both themes: each has a contrast of at least 3:1 against a card's
# two backgrounds on the contact page, the WCAG 2.2 figure for graphics (1.4.11).
COLOURS: dict[str, str] = {
    "neutral": "#868686",
    "happiness": "#b8860b",
    "excitement": "#dd6b20",
    "amusement": "#b7791f",
    "contentment": "#4c9a52",
    "love": "#d64583",
    "awe": "#4f7fe0",
    "surprise": "#1f93a8",
    "anger": "#d23f31",
    "disgust": "#7f8a1d",
    "fear": "#8a63d2",
    "sadness": "#5279b5",
    "boredom": "#857a6e",
}

Box = tuple[float, float, float, float]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


# Text and places ---------------------------------------------------------------------------------


def round_step(least: float, steps: Sequence[float]) -> float:
    """The smallest of `steps` that is not under `least`, or the largest there is."""
    return next((step for step in steps if step >= least), steps[-1])


def font_of(size: float) -> Font:
    """The font inside Pillow at `size` pixels of the finished picture."""
    return ImageFont.load_default(size * SCALE)


def write(
    draw: ImageDraw.ImageDraw,
    place: tuple[float, float],
    text: str,
    size: float,
    colour: str,
    anchor: str = "lm",
) -> None:
    """Write one line; `anchor` as in Pillow, "lm" starts in the middle of its height."""
    draw.text(placed(place), text, fill=colour, font=font_of(size), anchor=anchor)


def fitted(text: str, size: float, room: float) -> str:
    """`text` on one line, cut with an ellipsis to at most `room` pixels."""
    line, font = " ".join(text.split())[:300], font_of(size)
    if font.getlength(line) <= room * SCALE:
        return line
    while line and font.getlength(line + "…") > room * SCALE:
        line = line[:-1]
    return line.rstrip() + "…"


def placed(place: tuple[float, float]) -> tuple[float, float]:
    """A place as it is drawn: `SCALE` times as far."""
    return place[0] * SCALE, place[1] * SCALE


def scaled(box: Sequence[float]) -> tuple[float, float, float, float]:
    """A box as it is drawn: `SCALE` times as large."""
    left, top, right, bottom = (value * SCALE for value in box)
    return left, top, right, bottom


def inset(box: Box, x: float, y: float) -> Box:
    """`box` smaller by x on the left and right and y above and below."""
    return box[0] + x, box[1] + y, box[2] - x, box[3] - y


def mixed(one: str, other: str, share: float) -> str:
    """`share` of the second colour in the first, both #rrggbb."""
    pairs = zip(*(bytes.fromhex(colour.removeprefix("#")) for colour in (one, other)), strict=True)
    return "#" + bytes(round(a + (b - a) * share) for a, b in pairs).hex()


# Emotion over time -------------------------------------------------------------------------------


def strip(
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
    draw.rectangle(scaled(box), fill="#ffffff", outline=LINE, width=SCALE)
    write(draw, (left - 12, middle), name, 16, INK, "rm")
    write(draw, (left - 12, top + 9), "+1", 12, SOFT, "rm")
    write(draw, (left - 12, bottom - 9), "-1", 12, SOFT, "rm")
    inner = (left + 1, top + 4, right - 1, bottom - 4)
    if asked is not None:
        line = curve_places(asked.times, getattr(asked, name), inner, total)
        if line:
            first, last = (inner[0], line[0][1]), (inner[2], line[-1][1])
            area = [(inner[0], middle), first, *line, last, (inner[2], middle)]
            draw.polygon([placed(place) for place in area], fill=ASKED_FILL)
            draw_path(draw, [first, *line, last], ASKED, 3)
    draw.line([placed((left, middle)), placed((right, middle))], fill=LINE, width=SCALE)
    for index, curve in enumerate(read.values()):
        line = curve_places(curve.times, getattr(curve, name), inner, total)
        draw_path(draw, line, READ[index], 2.2, dash=(9, 6) if index else None)


def curve_places(
    times: NDArray[np.float64], values: NDArray[np.float64], box: Box, total: float
) -> list[tuple[float, float]]:
    """Where the points of a curve are drawn; what is not finite is left out."""
    left, top, right, bottom = box
    known = np.isfinite(times) & np.isfinite(values) & (times >= 0) & (times <= total * 1.001)
    x = left + (right - left) * times[known] / total
    y = (top + bottom) / 2 - (bottom - top) / 2 * np.clip(values[known], -1, 1)
    return list(zip(x.tolist(), y.tolist(), strict=True))


def draw_path(
    draw: ImageDraw.ImageDraw,
    line: Sequence[tuple[float, float]],
    colour: str,
    width: float,
    dash: tuple[float, float] | None = None,
) -> None:
    """A line through points, whole or in dashes of (on, off) pixels."""
    if len(line) == 1:
        x, y = line[0]
        draw.ellipse(scaled((x - 3, y - 3, x + 3, y + 3)), fill=colour)
    if len(line) < 2:
        return
    thick = round(width * SCALE)
    if dash is None:
        draw.line([placed(place) for place in line], fill=colour, width=thick, joint="curve")
        return
    points = np.asarray(line)
    along = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(points, axis=0).T))])
    for start in np.arange(0.0, along[-1], sum(dash)):
        at = np.unique(np.clip([start, start + dash[0]], 0, along[-1]))
        inside = along[(along > at[0]) & (along < at[-1])]
        stops = np.concatenate([at[:1], inside, at[1:]])
        x, y = (np.interp(stops, along, points[:, axis]) for axis in (0, 1))
        piece = [placed(place) for place in zip(x.tolist(), y.tolist(), strict=True)]
        draw.line(piece, fill=colour, width=thick, joint="curve")


def legend(
    draw: ImageDraw.ImageDraw, right: float, y: float, asked: bool, names: Sequence[str]
) -> None:
    """Samples of the lines with their names, right-aligned on one row."""
    entries = [*(["asked"] if asked else []), *names]
    x = right - sum(font_of(15).getlength(name) / SCALE + 34 + 22 for name in entries) + 22
    for index, name in enumerate(entries):
        row = index - int(asked)
        if row < 0:
            draw.rectangle(scaled((x, y - 7, x + 26, y + 7)), fill=ASKED_FILL)
            draw_path(draw, [(x, y - 6), (x + 26, y - 6)], ASKED, 3)
        else:
            dash = (9.0, 6.0) if row else None
            draw_path(draw, [(x, y), (x + 26, y)], READ[row], 2.2, dash=dash)
        write(draw, (x + 34, y), name, 15, SOFT, "lm")
        x += font_of(15).getlength(name) / SCALE + 34 + 22


def seconds_axis(draw: ImageDraw.ImageDraw, box: Box, total: float) -> None:
    """Ticks of the time axis."""
    left, top, right, _ = box
    every = round_step(total / 14, (0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600))
    for second in np.arange(0, total + 1e-6, every).tolist():
        x = left + (right - left) * second / total
        draw.line([placed((x, top)), placed((x, top + 6))], fill=SOFT, width=SCALE)
        text = f"{second:g} s" if total < 120 else f"{int(second) // 60}:{int(second) % 60:02d}"
        write(draw, (min(x, right - 14), top + 19), text, 14, SOFT, "mm")


def reading_bars(
    draw: ImageDraw.ImageDraw,
    size: tuple[int, int],
    *,
    asked: float | None,
    read: Sequence[float],
    colour: str,
) -> float:
    """At the foot of a stamp, a thin bar a reader and a tick at what was asked; returns its height.

    size: of the stamp. asked: intensity 0..1, None for no tick. read: one intensity 0..1 a reader,
    none for no foot at all.
    """
    if not read:
        return 0.0
    width, height = size
    foot = 5.0 * len(read) + 9
    draw.rectangle(scaled((0, height - foot, width, height)), fill=PAPER)
    line = (5.0, height - foot + 4, width - 5.0, height - 5.0)
    draw.rectangle(scaled(line), fill="#e7e4dc")
    for row, value in enumerate(read):
        y = line[1] + 5 * row
        end = line[0] + (line[2] - line[0]) * min(max(value, 0.0), 1.0)
        shade = colour if row == 0 else mixed(colour, "#e7e4dc", 0.45)
        draw.rectangle(scaled((line[0], y + 0.5, end, y + 4)), fill=shade)
    if asked is not None:
        x = line[0] + (line[2] - line[0]) * min(max(asked, 0.0), 1.0)
        draw.rectangle(scaled((x - 1, line[1] - 2, x + 1, line[3] + 2)), fill=INK)
    return foot
