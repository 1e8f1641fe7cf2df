"""The picture of a converted voice: what was said, before and after, and what was asked for.

`draw` is what a person looks at to see what was done to a recording: valence and arousal as asked
and as both readers hear them; the pitch curve before and after on a logarithmic axis, with gaps
where nothing is voiced; how loud it is, before above and after below; both spectrograms; and a
table of the cues that listeners go by, each with a triangle for the way the emotion should move it.
`small_pitch` is the pitch curve at the size of a stamp, for contact sheets. The time axis is
seconds, and each voice stands at its own, so that what was slowed down reaches further right.

It deliberately knows no request and no file. Drawn with Pillow alone (pipelines.drawing).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from adapters.voice_analysis import RATE, Analysis
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
    font_of,
    inset,
    legend,
    mixed,
    placed,
    reading_bars,
    scaled,
    seconds_axis,
    strip,
    write,
)

Floats = NDArray[np.float64]

WIDTH, HEIGHT = 1600, 1000
BEFORE, AFTER = "#8b93a3", "#0b7a70"
"""The voice as it was and as it is now; they differ in lightness, for those who see no green."""
MET, MISSED = "#2c7a3f", "#b0381a"
"""A cue that moved as the emotion should move it, and one that moved the other way."""
STEPS_SHOWN = 14.0  # semitones that the pitch axis shows at least, so that a monotone is no zigzag
FRAME = 128 / RATE  # s between the points of Analysis.contour
JUMP = 2.5  # semitones in 8 ms that no voice glides; two pieces of melody, or an error
POINTS = 4000  # of a pitch curve that are drawn
COLUMNS = 2000  # of a spectrogram that are drawn: a long one is 100 MB otherwise
LOUD_DB = 60.0  # range of the spectrograms
HERTZ = (40, 50, 60, 80, 100, 120, 150, 200, 250, 300, 400, 500, 600, 800, 1000)
STILL = 0.08  # share of a row's full bar under which a cue did not move


@dataclass(frozen=True, slots=True)
class Row:
    """How a cue is shown: name for people, unit, change that fills the bar, decimals."""

    cue: str
    name: str
    unit: str
    full: float
    places: int = 1


GROUPS: tuple[tuple[str, tuple[Row, ...]], ...] = (
    (
        "melody",
        (
            Row("pitch_mean", "pitch", "st", 8.0),
            Row("pitch_range", "range", "st", 8.0),
            Row("pitch_final", "phrase end", "st", 5.0),
            Row("pitch_movement", "liveliness", "st/s", 15.0),
        ),
    ),
    (
        "time",
        (
            Row("syllable_rate", "pace", "syl/s", 2.0),
            Row("pause_share", "pauses", "%", 30.0, 0),
        ),
    ),
    (
        "colour",
        (
            Row("alpha_ratio", "brightness", "dB", 10.0),
            Row("breath", "breath", "dB", 8.0),
            Row("hnr", "clarity", "dB", 8.0),
            Row("jitter", "roughness", "st", 0.3, 2),
        ),
    ),
    (
        "strength",
        (
            Row("level", "level", "dB", 8.0),
            Row("level_sd", "accents", "dB", 4.0),
        ),
    ),
)
"""The cues of the table: of adapters.voice_cues those that have a word of their own."""


def draw(
    before: Analysis,
    after: Analysis,
    *,
    asked: Curve | None = None,
    read: Mapping[str, Curve] | None = None,
    cues: Sequence[Mapping[str, object]] = (),
    similarity: float | None = None,
    title: str = "",
    subtitle: str = "",
) -> Image.Image:
    """Draw a conversion, RGB 1600 x 1000.

    asked: the emotion over time that was asked for, in seconds of the result; read: name -> how
    that reader hears it, at most two. cues: rows of adapters.voice_cues.cue_table, with "expected"
    (adapters.voice_expected) where a change was to be. similarity: of the speakers, -1..1.
    """
    total = max(before.seconds, after.seconds, 1e-3)
    sheet = Image.new("RGB", (WIDTH * SCALE, HEIGHT * SCALE), PAPER)
    pen = ImageDraw.Draw(sheet)
    left, right = 92.0, 1052.0
    end = WIDTH - 36.0
    write(pen, (left, 30), fitted(title, 26, end - left - 420), 26, INK)
    write(pen, (left, 66), fitted(subtitle, 16, end - left - 420), 16, SOFT)
    _key(pen, end, 66)
    curves = dict(list((read or {}).items())[: len(READ)])
    top = 104.0
    if asked is not None or curves:
        legend(pen, end, 34, asked is not None, list(curves))
        for name in ("valence", "arousal"):
            strip(pen, (left, top, right, top + 74), name, total, asked, curves)
            top += 74 + 12
        top += 10
    foot = HEIGHT - 52.0
    height = 92.0
    _spectrogram(sheet, pen, (left, foot - height, right, foot), "after", after, total, before)
    low = foot - height - 10
    _spectrogram(sheet, pen, (left, low - height, right, low), "before", before, total, after)
    low -= height + 12
    _levels(pen, (left, low - 84, right, low), before, after, total)
    _pitch(pen, (left, top, right, low - 84 - 14), before, after, total)
    seconds_axis(pen, (left, foot + 6, right, HEIGHT - 10.0), total)
    _table(pen, (right + 60, 104.0, end, HEIGHT - 150.0), cues)
    _similarity(pen, (right + 60, HEIGHT - 118.0, end, HEIGHT - 26.0), similarity)
    return sheet.reduce(SCALE)


def small_pitch(
    before: Analysis,
    after: Analysis,
    *,
    asked: float | None = None,
    read: Sequence[float] = (),
    colour: str = AFTER,
    size: tuple[int, int] = (224, 140),
    hertz: tuple[float, float] | None = None,
    seconds: float | None = None,
) -> Image.Image:
    """Draw a conversion as a stamp: both pitch curves, and a bar a reader with a tick at `asked`.

    asked: intensity 0..1, None for no tick. read: one intensity 0..1 a reader. colour: of the
    result. hertz, seconds: the axes, which stamps on one sheet should share.
    """
    width, height = size
    sheet = Image.new("RGB", (width * SCALE, height * SCALE), "#ffffff")
    pen = ImageDraw.Draw(sheet)
    foot = reading_bars(pen, size, asked=asked, read=read, colour=colour)
    low, high = hertz or pitch_range([before, after])
    total = max(seconds or 0.0, 1e-3) if seconds else max(before.seconds, after.seconds, 1e-3)
    box = inset((0.0, 0.0, float(width), height - foot), 5, 6)
    for hz in (line for line in HERTZ if low < line < high):
        y = _height(np.array([hz]), box, low, high)[0]
        pen.line([placed((box[0], y)), placed((box[2], y))], fill=BAND, width=SCALE)
    _melody(pen, box, before, (low, high), total, mixed(BEFORE, "#ffffff", 0.35), 1.6)
    _melody(pen, box, after, (low, high), total, colour, 2.2)
    pen.rectangle(scaled((0, 0, width - 0.5, height - 0.5)), outline="#d8d5cc", width=SCALE)
    return sheet.reduce(SCALE)


def pitch_range(voices: Sequence[Analysis]) -> tuple[float, float]:
    """Lowest and highest Hz of an axis for all of them, at least STEPS_SHOWN semitones apart."""
    found = [_spoken(voice) for voice in voices]
    known = [np.quantile(hz[hz > 0], (0.005, 0.995)) for hz in found if hz.any()]
    if not known:
        return 80.0, 320.0
    low = 12 * math.log2(min(pair[0] for pair in known)) - 1.5
    high = 12 * math.log2(max(pair[1] for pair in known)) + 1.5
    spare = max(0.0, STEPS_SHOWN - (high - low)) / 2
    return float(2 ** ((low - spare) / 12)), float(2 ** ((high + spare) / 12))


# Curves ------------------------------------------------------------------------------------------


def _pitch(
    draw: ImageDraw.ImageDraw, box: Box, before: Analysis, after: Analysis, total: float
) -> None:
    """The melody of both voices, with their medians and the way from one to the other."""
    left, top, right, bottom = box
    low, high = pitch_range([before, after])
    draw.rectangle(scaled(box), fill="#ffffff", outline=LINE, width=SCALE)
    write(draw, (left - 12, top + 9), "pitch, Hz", 14, INK, "rm")
    free = bottom + 99.0
    for hz in HERTZ:
        y = float(_height(np.array([hz]), box, low, high)[0])
        if not top + 24 < y < bottom - 4 or free - y < 26:
            continue
        free = y
        draw.line([placed((left, y)), placed((right, y))], fill=BAND, width=SCALE)
        write(draw, (left - 12, y), f"{hz}", 14, SOFT, "rm")
    pitched = 0
    for voice, colour in ((before, BEFORE), (after, AFTER)):
        contour = _spoken(voice)
        if not contour.any():
            continue
        middle = np.median(contour[contour > 0])
        y = float(_height(np.array([middle]), box, low, high)[0])
        pitched += 1
        draw_path(draw, [(left + 2, y), (right - 2, y)], mixed(colour, "#ffffff", 0.4), 1.0, (3, 5))
    fine = min(1.0, max(0.35, 20 / total))  # lines of a long recording would run together
    _melody(draw, box, before, (low, high), total, BEFORE, 2.6 * fine)
    _melody(draw, box, after, (low, high), total, AFTER, 3.2 * fine)
    # A measure of six semitones, for nobody reads intervals off a logarithmic axis.
    tall = (bottom - top) * 6 / (12 * math.log2(high / low))
    x = right + 12.0
    draw.line([placed((x, top)), placed((x, top + tall))], fill=SOFT, width=SCALE)
    for y in (top, top + tall):
        draw.line([placed((x - 4, y)), placed((x + 4, y))], fill=SOFT, width=SCALE)
    write(draw, (x + 8, top + tall / 2), "6 st", 13, SOFT, "lm")
    if pitched < 2:
        told = "no pitch" if not pitched else "a pitch in one of them only"
        write(draw, ((left + right) / 2, (top + bottom) / 2), told, 16, SOFT, "mm")


def _melody(
    draw: ImageDraw.ImageDraw,
    box: Box,
    voice: Analysis,
    hertz: tuple[float, float],
    total: float,
    colour: str,
    width: float,
) -> None:
    """The pitch curve of a voice in pieces, one for each run with a pitch."""
    contour = _spoken(voice)
    for run in _runs(contour):
        x = box[0] + (box[2] - box[0]) * run * FRAME / total
        y = _height(contour[run], box, *hertz)
        inside = (y > box[1] + 2) & (y < box[3] - 2)
        if inside.sum() > 1:  # a single frame is no melody
            draw_path(draw, list(zip(x[inside], y[inside], strict=True)), colour, width)


def _spoken(voice: Analysis) -> Floats:
    """The pitch curve where somebody speaks, 0 elsewhere: hums in a pause are no melody."""
    said = np.repeat(voice.speech, 2)[: len(voice.contour)]
    return np.asarray(np.where(said, voice.contour, 0.0), dtype=np.float64)


def _runs(contour: Floats) -> Iterator[NDArray[np.intp]]:
    """Places of the runs that have a pitch and do not jump, thinned where there are too many."""
    where = np.flatnonzero(contour > 0)
    if not len(where):
        return
    pitch = 12 * np.log2(contour[where])
    breaks = (np.diff(where) > 1) | (np.abs(np.diff(pitch)) > JUMP)
    step = max(1, len(contour) // POINTS)
    for run in np.split(where, np.flatnonzero(breaks) + 1):
        if len(run) > 1:
            yield run[::step]


def _height(hz: NDArray[np.floating], box: Box, low: float, high: float) -> Floats:
    """Where frequencies stand on the logarithmic axis of a box."""
    share = np.log2(np.asarray(hz, dtype=np.float64) / low) / math.log2(high / low)
    return np.asarray(box[3] - (box[3] - box[1]) * share)


def _levels(
    draw: ImageDraw.ImageDraw, box: Box, before: Analysis, after: Analysis, total: float
) -> None:
    """How loud both are, as waveforms look: before upwards, after downwards, on one scale."""
    left, top, right, bottom = box
    middle = (top + bottom) / 2
    draw.rectangle(scaled(box), fill="#ffffff", outline=LINE, width=SCALE)
    write(draw, (left - 12, middle), "loudness", 14, INK, "rm")
    peak = max(float(voice.energy.max()) for voice in (before, after))
    for voice, colour, way in ((before, BEFORE, -1), (after, AFTER, 1)):
        size = 10 ** ((voice.energy.astype(np.float64) - peak) / 20)
        step = max(1, len(size) // POINTS)
        x = left + (right - left) * voice.times[::step] / total
        y = middle + way * ((bottom - top) / 2 - 5) * size[::step]
        line = [(float(x[0]), middle), *zip(x.tolist(), y.tolist(), strict=True)]
        line.append((float(x[-1]), middle))
        draw.polygon([placed((min(a, right - 1), b)) for a, b in line], fill=colour)
    draw.line([placed((left, middle)), placed((right, middle))], fill=PAPER, width=SCALE)


def _spectrogram(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    box: Box,
    name: str,
    voice: Analysis,
    total: float,
    other: Analysis,
) -> None:
    """The mel bands of a voice, dark where there is sound; both on one scale."""
    left, top, right, bottom = box
    draw.rectangle(scaled(box), fill="#ffffff", outline=LINE, width=SCALE)
    peak = 20 * max(float(voice.mel.max()), float(other.mel.max()))
    step = max(1, len(voice) // COLUMNS)
    mel = voice.mel[: len(voice) // step * step].reshape(-1, step, voice.mel.shape[1]).max(axis=1)
    share = np.clip((20 * mel.T[::-1].astype(np.float64) - peak) / LOUD_DB + 1, 0, 1)
    dark = np.array(list(bytes.fromhex((AFTER if name == "after" else "#4a5160")[1:])))
    pixels = 255 + (dark * 0.72 - 255) * (share**1.4)[:, :, None]
    image = Image.fromarray(pixels.astype(np.uint8))
    wide = max(1, round((right - left) * min(voice.seconds / total, 1.0) * SCALE) - 2 * SCALE)
    size = (wide, round((bottom - top) * SCALE) - 2 * SCALE)
    place = (round(left * SCALE) + SCALE, round(top * SCALE) + SCALE)
    sheet.paste(image.resize(size, Image.Resampling.BILINEAR), place)
    write(draw, (left - 12, (top + bottom) / 2), name, 14, INK, "rm")
    write(draw, (left - 12, top + 8), "7.6 kHz", 11, SOFT, "rm")
    write(draw, (left - 12, bottom - 8), "80 Hz", 11, SOFT, "rm")


# Cues --------------------------------------------------------------------------------------------


def _table(draw: ImageDraw.ImageDraw, box: Box, cues: Sequence[Mapping[str, object]]) -> None:
    """Rows of cue, before, after, change, with a bar and what the emotion should do."""
    left, top, right, bottom = box
    found = {str(row.get("name")): row for row in cues}
    groups = [(name, [row for row in rows if row.cue in found]) for name, rows in GROUPS]
    groups = [(name, rows) for name, rows in groups if rows]
    lines = sum(len(rows) + 0.8 for _, rows in groups)
    if not lines:
        return
    tall = min((bottom - top - 70) / lines, 46.0)
    columns = (left + 166, left + 230, left + 322)
    for x, text in zip(columns, ("before", "after", "change"), strict=True):
        write(draw, (x, top + 8), text, 13, SOFT, "rm")
    y = top + 26.0
    for name, rows in groups:
        write(draw, (left, y + 0.4 * tall), name, 13, SOFT, "lm")
        edge = left + font_of(13).getlength(name) / SCALE + 10
        draw.line([placed((edge, y + 0.4 * tall)), placed((right, y + 0.4 * tall))], fill=LINE)
        y += 0.8 * tall
        for row in rows:
            _row(draw, (left, y, right, y + tall), row, found[row.cue], columns)
            y += tall
    if any(row.get("expected") for row in found.values()):
        _explain(draw, (left, y + 8))


def _row(
    draw: ImageDraw.ImageDraw,
    box: Box,
    row: Row,
    cue: Mapping[str, object],
    columns: tuple[float, float, float],
) -> None:
    left, top, right, bottom = box
    middle = (top + bottom) / 2
    times = 100.0 if row.unit == "%" else 1.0
    old, new, change = (times * _number(cue.get(key)) for key in ("before", "after", "change"))
    wanted = _number(cue.get("expected"))
    write(draw, (left, middle), row.name, 16, INK, "lm")
    for x, value in zip(columns, (old, new), strict=False):
        write(draw, (x, middle), _value(row, value), 14, SOFT, "rm")
    moved = math.isfinite(change) and abs(change) > STILL * row.full
    wants = math.isfinite(wanted) and wanted != 0
    colour = INK if not (moved and wants) else (MET if change * wanted > 0 else MISSED)
    told = f"{change:+.{row.places}f} {row.unit}" if math.isfinite(change) else "-"
    write(draw, (columns[2], middle), told, 15, colour, "rm")
    start, stop = columns[2] + 38, right
    centre, half = (start + stop) / 2, (stop - start) / 2
    draw.rectangle(scaled((start, middle - 5, stop, middle + 5)), fill="#edeae3")
    if math.isfinite(change):
        tip = centre + half * min(max(change / row.full, -1.0), 1.0)
        ends = sorted((centre, tip))
        fill = mixed(colour, "#ffffff", 0.25) if colour != INK else BEFORE
        draw.rectangle(scaled((ends[0], middle - 5, ends[1], middle + 5)), fill=fill)
    draw.line([placed((centre, middle - 8)), placed((centre, middle + 8))], fill=INK, width=SCALE)
    if wants:
        way = 1 if wanted > 0 else -1
        _triangle(draw, (columns[2] + 20, middle), way, INK)


def _value(row: Row, value: float) -> str:
    """A value for people: pitch in Hz, for semitones above 55 Hz mean nothing to anyone."""
    if not math.isfinite(value):
        return "-"
    if row.cue == "pitch_mean":
        return f"{55 * 2 ** (value / 12):.0f} Hz"
    return f"{value:.{row.places}f}"


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def _triangle(
    draw: ImageDraw.ImageDraw, centre: tuple[float, float], way: int, colour: str
) -> None:
    """A triangle that points up (1) or down (-1)."""
    x, y = centre
    points = [(x - 5.5, y + 4.5 * way), (x + 5.5, y + 4.5 * way), (x, y - 5.5 * way)]
    draw.polygon([placed(point) for point in points], fill=colour)


def _explain(draw: ImageDraw.ImageDraw, place: tuple[float, float]) -> None:
    """What triangle and colours say."""
    x, y = place
    _triangle(draw, (x + 6, y + 10), 1, INK)
    _triangle(draw, (x + 20, y + 10), -1, INK)
    write(draw, (x + 34, y + 10), "the way this emotion should move it", 13, SOFT, "lm")
    for at, colour, text in ((x, MET, "it did"), (x + 90, MISSED, "it went the other way")):
        draw.rectangle(scaled((at, y + 25, at + 24, y + 35)), fill=mixed(colour, "#ffffff", 0.25))
        write(draw, (at + 32, y + 30), text, 13, SOFT, "lm")


def _similarity(draw: ImageDraw.ImageDraw, box: Box, similarity: float | None) -> None:
    """A gauge of how alike the speakers are."""
    if similarity is None or not math.isfinite(similarity):
        return
    left, top, right, _ = box
    write(draw, (left, top + 8), "the same speaker?", 16, INK, "lm")
    write(draw, (right, top + 8), f"similarity {similarity:.2f}", 15, INK, "rm")
    line = (left, top + 26, right, top + 38)
    draw.rectangle(scaled(line), fill="#edeae3")
    reach = left + (right - left) * min(max(similarity, 0.0), 1.0)
    draw.rectangle(scaled((left, top + 26, reach, top + 38)), fill=mixed(AFTER, "#ffffff", 0.15))
    write(draw, (left, top + 52), "0: somebody else", 13, SOFT, "lm")
    write(draw, (right, top + 52), "1: the very same voice", 13, SOFT, "rm")


def _key(draw: ImageDraw.ImageDraw, right: float, y: float) -> None:
    """Which colour is which voice."""
    x = right
    for name, colour in (("after", AFTER), ("before", BEFORE)):
        x -= font_of(15).getlength(name) / SCALE
        write(draw, (x, y), name, 15, SOFT, "lm")
        draw.rectangle(scaled((x - 34, y - 2, x - 8, y + 2)), fill=colour)
        x -= 34 + 22
