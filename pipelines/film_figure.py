"""The picture of a film: its frames, the one emotion that was asked, and what each track tells.

At the top frames over time under the names of the shots, then the emotions that were asked as
areas, then for every modality valence and arousal as they were asked (filled), read by its critic
(solid) and by its independent reader (dashed), the sound with the music's stepping back, and the
numbers of how the modalities agree. It deliberately does not know what made them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from adapters.emotion import CORE, VAD, EmotionTimeline
from pipelines.curve import Curve
from pipelines.drawing import (
    ASKED,
    BAND,
    COLOURS,
    INK,
    LINE,
    PAPER,
    READ,
    SCALE,
    SOFT,
    Box,
    curve_places,
    draw_path,
    fitted,
    legend,
    mixed,
    placed,
    scaled,
    seconds_axis,
    strip,
    write,
)
from pipelines.film_tracks import Told, Track

Floats = NDArray[np.float64]

WIDTH, LEFT, RIGHT = 1600, 170.0, 1564.0
FRAMES = 12
"""Pictures in the strip at the top."""
POINTS = 400


@dataclass(frozen=True, slots=True)
class Drawn:
    """What a figure is drawn from, besides the tracks.

    stills: (seconds, frame). shots: (start, end, name). level: (n,) loudness 0..1 over the film.
    gain: (m,) dB of the music over the film, empty without music. notes: lines at the foot.
    """

    title: str
    subtitle: str
    seconds: float
    emotion: EmotionTimeline
    stills: Sequence[tuple[float, Image.Image]]
    shots: Sequence[tuple[float, float, str]]
    level: Floats
    gain: Floats


def moments(seconds: float, count: int = FRAMES) -> Floats:
    """Seconds at which the strip shows the film: the middles of equal parts."""
    return (np.arange(count) + 0.5) * seconds / count


def draw(film: Drawn, told: Told) -> Image.Image:
    """Draw a film; 1600 pixels wide, as tall as it has tracks."""
    words = _words(told)
    half = (len(words) + 1) // 2
    slot = (RIGHT - LEFT) / max(1, len(film.stills))
    first = film.stills[0][1] if film.stills else Image.new("RGB", (16, 9))
    tall = min((slot - 4) * first.height / first.width, 130.0)
    height = round(96 + tall + 52 + 128 + len(told.tracks) * 154 + 76 + 44 + half * 20 + 30)
    sheet = Image.new("RGB", (WIDTH * SCALE, height * SCALE), PAPER)
    pen = ImageDraw.Draw(sheet)
    write(pen, (36, 30), fitted(film.title, 26, WIDTH - 72), 26, INK)
    write(pen, (36, 64), fitted(film.subtitle, 16, WIDTH - 560), 16, SOFT)
    legend(pen, RIGHT, 64, True, ["critic", "independent reader"])
    top = 92.0
    _stills(sheet, film, top, tall)
    top += tall + 8
    _shots(pen, (LEFT, top, RIGHT, top + 24), film)
    top += 36
    _areas(pen, (LEFT, top, RIGHT, top + 112), film)
    top += 124
    times = np.linspace(0.0, film.seconds, POINTS)
    vad = film.emotion.sample(times) @ VAD + film.emotion.residuals(times)
    asked = Curve.of(times, vad[:, 0], vad[:, 1])
    for track in told.tracks:
        _track(pen, top, track, film, asked)
        top += 154
    _sound(pen, (LEFT, top, RIGHT, top + 64), film)
    top += 68
    seconds_axis(pen, (LEFT, top, RIGHT, top + 30), film.seconds)
    top += 48
    for i, line in enumerate(words):
        column, row = divmod(i, half)
        place = (36 + column * (WIDTH - 72) / 2, top + row * 20)
        write(pen, place, fitted(line, 14, (WIDTH - 100) / 2), 14, SOFT)
    return sheet.reduce(SCALE)


def _stills(sheet: Image.Image, film: Drawn, top: float, tall: float) -> None:
    for at, still in film.stills:
        x = LEFT + (RIGHT - LEFT) * at / film.seconds
        wide = tall * still.width / still.height
        left, upper, right, lower = (
            round(v) for v in scaled((x - wide / 2, top, x + wide / 2, top + tall))
        )
        small = still.convert("RGB").resize((right - left, lower - upper), Image.Resampling.LANCZOS)
        sheet.paste(small, (left, upper))


def _shots(pen: ImageDraw.ImageDraw, box: Box, film: Drawn) -> None:
    """One box a shot, with what it shows."""
    left, top, right, bottom = box
    write(pen, (left - 12, (top + bottom) / 2), "shots", 16, INK, "rm")
    for start, end, name in film.shots:
        a, b = (left + (right - left) * t / film.seconds for t in (start, end))
        pen.rectangle(scaled((a + 1, top, b - 1, bottom)), fill=BAND, outline=LINE, width=SCALE)
        write(pen, ((a + b) / 2, (top + bottom) / 2), fitted(name, 14, b - a - 12), 14, INK, "mm")


def _areas(pen: ImageDraw.ImageDraw, box: Box, film: Drawn) -> None:
    """What was asked: emotions over time, stacked from the bottom, full intensity at the top."""
    left, top, right, bottom = box
    pen.rectangle(scaled(box), fill="#ffffff", outline=LINE, width=SCALE)
    write(pen, (left - 12, (top + bottom) / 2), "asked", 16, INK, "rm")
    write(pen, (left - 12, top + 9), "1", 12, SOFT, "rm")
    write(pen, (left - 12, bottom - 9), "0", 12, SOFT, "rm")
    times = np.linspace(0.0, film.seconds, POINTS)
    states = film.emotion.sample(times).astype(np.float64)
    most = max(1.0, float(states.sum(axis=1).max()))
    x = left + 1 + (right - left - 2) * times / film.seconds
    under = np.zeros(POINTS)
    labels = []
    for k, name in enumerate(CORE):
        if states[:, k].max() < 0.02:
            continue
        over = under + states[:, k]
        low, high = (bottom - 1 - (bottom - top - 6) * part / most for part in (under, over))
        area = [*zip(x.tolist(), high.tolist(), strict=True)]
        area += [*zip(x[::-1].tolist(), low[::-1].tolist(), strict=True)]
        pen.polygon([placed(place) for place in area], fill=mixed(COLOURS[name], "#ffffff", 0.35))
        at = int(states[:, k].argmax())
        labels.append((x[at], float(low[at] + high[at]) / 2, name, float(states[at, k])))
        under = over
    for across, y, name, value in labels:
        text = f"{name} {value:.1f}".replace("0.", ".")
        room = 9.0 * len(text) / 2
        write(pen, (min(max(across, left + room), right - room), y), text, 15, INK, "mm")


def _track(pen: ImageDraw.ImageDraw, top: float, track: Track, film: Drawn, asked: Curve) -> None:
    """Valence and arousal of one modality under each other."""
    for i, axis in enumerate(("valence", "arousal")):
        box = (LEFT, top + 72 * i, RIGHT, top + 72 * i + 68)
        strip(pen, box, axis, film.seconds, asked, {})
        inner = (box[0] + 1, box[1] + 4, box[2] - 1, box[3] - 4)
        for index, curve in enumerate(list(track.curves.values())[: len(READ)]):
            for part in _unbroken(curve):
                line = curve_places(part.times, getattr(part, axis), inner, film.seconds)
                draw_path(pen, line, READ[index], 2.2, dash=(9, 6) if index else None)
    write(pen, (36, top + 70), track.name, 18, INK)


def _unbroken(curve: Curve) -> list[Curve]:
    """The pieces of a curve in which it says something."""
    known = np.isfinite(curve.valence) & np.isfinite(curve.arousal)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], known, [False]]).astype(int)))
    return [
        Curve(curve.times[a:b], curve.valence[a:b], curve.arousal[a:b])
        for a, b in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)
    ]


def _sound(pen: ImageDraw.ImageDraw, box: Box, film: Drawn) -> None:
    """The sound, as loud as it is, and the music's level over it."""
    left, top, right, bottom = box
    pen.rectangle(scaled(box), fill="#ffffff", outline=LINE, width=SCALE)
    middle = (top + bottom) / 2
    write(pen, (left - 12, middle), "sound", 16, INK, "rm")
    if film.level.size > 1 and film.level.max() > 0:
        x = np.linspace(left + 1, right - 1, film.level.size)
        y = (bottom - top - 8) / 2 * film.level / film.level.max()
        area = [*zip(x.tolist(), (middle - y).tolist(), strict=True)]
        area += [*zip(x[::-1].tolist(), (middle + y[::-1]).tolist(), strict=True)]
        pen.polygon([placed(place) for place in area], fill="#c9ccd3")
    if film.gain.size > 1 and film.gain.min() < -0.1:
        step = max(1, film.gain.size // POINTS)
        gain = film.gain[::step]
        x = np.linspace(left + 1, right - 1, len(gain))
        y = top + 6 + (bottom - top - 12) * gain / min(-12.0, float(film.gain.min()))
        draw_path(pen, list(zip(x.tolist(), y.tolist(), strict=True)), ASKED, 2)
        write(pen, (left + 10, bottom - 12), f"music: {film.gain.min():.0f} dB", 13, SOFT)


def _words(told: Told) -> list[str]:
    """The numbers as lines."""
    lines = [f"{name} follows what was asked: {found.text}" for name, found in told.follows.items()]
    if told.agreement is not None:
        lines += told.agreement.lines
    return lines
