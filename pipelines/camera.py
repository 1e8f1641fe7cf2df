"""A still picture that moves: camera, light, water, sky, wind, rain; its tempo is arousal.

`move` yields the frames of one picture under one or several kinds of motion. Every motion is a sum
of sines of a clock that runs faster where arousal is high, so it is smooth between pixels and
between frames, the tempo may change at any frame without a jump, and a loop closes exactly: its
frequencies are rounded to whole turns. Films use it for stills, `training.video` for its clips.

It deliberately does not know what is in the picture: water is taken to lie below, sky above. It
knows no emotion (the caller gives arousal a frame), no files and no model.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch.nn import functional

RATE = 3.0  # the clock runs RATE ** arousal times as fast: a third at -1, threefold at 1
WILD = 1.6  # amplitudes grow less than tempo: what is fast and wide is not seen, only blurred
MARGIN = 1.12  # least zoom, so that moves find picture at the edges
REACH = 0.075  # share of the shorter side that a pan or tilt goes each way


class CameraError(ValueError):
    """A picture, kind or tempo that cannot be moved; its one line says what can."""


class _Clock:
    """Times of frames on the clock of the motion, and functions of them.

    tempo, wild: (frames,) arousal and the amplitude around 1 that goes with it. seconds: (frames,)
    of film. times: (frames,) of the motion's own clock, total: its length.
    """

    def __init__(self, tempo: NDArray[np.float64], fps: float, loop: bool, draw: _Draw) -> None:
        self.tempo, self.wild, self.loop, self.draw = tempo, WILD**tempo, loop, draw
        self.step = 1 / fps
        self.seconds = np.arange(len(tempo)) / fps
        pace = RATE**tempo / fps
        ends = np.cumsum((pace + np.append(pace[1:], pace[0] if loop else pace[-1])) / 2)
        self.times, self.total = np.append(0.0, ends[:-1]), float(ends[-1])

    def turns(self, hertz: float) -> NDArray[np.float64]:
        """Angles (frames,) of something that turns `hertz` times a second at arousal 0."""
        if self.loop:
            hertz = max(1, round(hertz * self.total)) / self.total
        return 2 * math.pi * hertz * self.times

    def wander(self, low: float, high: float, parts: int = 3) -> NDArray[np.float64]:
        """A smooth wandering (frames,) about 0 of deviation 0.7, between two frequencies in Hz."""
        bands = np.linspace(low, high, parts + 1)
        total = np.zeros_like(self.times)
        for lower, upper in pairwise(bands):
            total += np.sin(self.turns(self.draw(lower, upper)) + self.draw(0, 2 * math.pi))
        return total / math.sqrt(parts)


class _Draw:
    """Uniform numbers from the caller's generator."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def __call__(self, low: float, high: float) -> float:
        device = self.generator.device
        return low + (high - low) * float(torch.rand((), generator=self.generator, device=device))

    def sign(self) -> float:
        return 1.0 if self(0, 1) < 0.5 else -1.0


@dataclass
class _View:
    """What one frame is seen through. Lengths are shares of the shorter side, y runs down.

    x, y: (H, W) place of every pixel from the centre. right, down: (H, W) or a number, where a
    pixel is taken from, further right or down. gain: multiplies, (H, W), (3, H, W) or a number;
    veil: (H, W) or a number, added white.
    """

    x: torch.Tensor
    y: torch.Tensor
    height: torch.Tensor
    zoom: float = MARGIN
    roll: float = 0.0
    right: torch.Tensor | float = 0.0
    down: torch.Tensor | float = 0.0
    gain: torch.Tensor | float = 1.0
    veil: torch.Tensor | float = 0.0


_Motion = Callable[[_View, int], None]


def _step(value: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """0 below `low`, 1 above `high`, smooth between."""
    share = ((value - low) / (high - low)).clamp(0, 1)
    return share * share * (3 - 2 * share)


def _pan(clock: _Clock) -> _Motion:
    path = -REACH * clock.draw.sign() * np.cos(clock.turns(0.08))

    def at(view: _View, i: int) -> None:
        view.zoom *= 1.08
        view.right += path[i]

    return at


def _tilt(clock: _Clock) -> _Motion:
    path = -REACH * clock.draw.sign() * np.cos(clock.turns(0.07))

    def at(view: _View, i: int) -> None:
        view.zoom *= 1.08
        view.down += path[i]

    return at


def _push(clock: _Clock) -> _Motion:
    size = np.exp(0.17 * (1 - np.cos(clock.turns(0.06))))
    off = clock.draw(-0.06, 0.06), clock.draw(-0.04, 0.06)

    def at(view: _View, i: int) -> None:
        view.zoom *= size[i]
        view.right += off[0] * (size[i] - 1)
        view.down += off[1] * (size[i] - 1)

    return at


def _pull(clock: _Clock) -> _Motion:
    size = np.exp(0.17 * (1 + np.cos(clock.turns(0.06))))

    def at(view: _View, i: int) -> None:
        view.zoom *= size[i]

    return at


def _sway(clock: _Clock) -> _Motion:
    right, down, roll = (clock.wander(0.15, 0.5) for _ in range(3))

    def at(view: _View, i: int) -> None:
        view.right += 0.022 * clock.wild[i] * right[i]
        view.down += 0.013 * clock.wild[i] * down[i]
        view.roll += 0.014 * clock.wild[i] * roll[i]

    return at


def _shake(clock: _Clock) -> _Motion:
    right, down, roll = (clock.wander(0.6, 1.2) for _ in range(3))

    def at(view: _View, i: int) -> None:
        strength = clock.wild[i] ** 2
        view.right += 0.004 * strength * right[i]
        view.down += 0.004 * strength * down[i]
        view.roll += 0.003 * strength * roll[i]

    return at


def _breathe(clock: _Clock) -> _Motion:
    # People breathe 12 to 20 times a minute at rest: a quarter of a hertz.
    size = np.exp(0.022 * clock.wild * np.sin(clock.turns(0.25)))

    def at(view: _View, i: int) -> None:
        view.zoom *= size[i]

    return at


def _waves(clock: _Clock) -> _Motion:
    """Swell that runs towards the viewer below the horizon, narrower in the distance."""
    horizon = clock.draw(0.42, 0.55)
    parts = [
        (clock.draw(1.0, 2.2), clock.draw(-6, 6), clock.draw(0, 6.3), clock.turns(hertz))
        for hertz in (clock.draw(0.3, 0.45), clock.draw(0.45, 0.65), clock.draw(0.6, 0.85))
    ]

    def at(view: _View, i: int) -> None:
        below = (view.height - horizon).clamp(min=0)
        depth = torch.log(below + 0.08)
        near = (below / (1 - horizon)).clamp(max=1)
        mask = _step(below, 0.0, 0.12) * (0.35 + 0.65 * near)
        for along, across, phase, angle in parts:
            swell = along * 6.3 * depth + across * view.x + phase - angle[i]
            view.down = view.down + mask * (0.014 * clock.wild[i]) * torch.sin(swell)
            view.right = view.right + mask * (0.007 * clock.wild[i]) * torch.cos(swell)
            # Crests that rise towards the light are brighter than their backs.
            view.gain = view.gain * (1 + mask * (0.035 * clock.wild[i]) * torch.cos(swell + 0.8))

    return at


def _clouds(clock: _Clock) -> _Motion:
    """Slow travel of everything above, faster the higher, with a billow of its own."""
    edge, side = clock.draw(0.45, 0.6), clock.draw.sign()
    travel = 0.10 * np.sin(clock.turns(0.07) + clock.draw(-0.8, 0.8))
    billows = [
        (clock.draw(4, 9), clock.draw(3, 8), clock.draw(0, 6.3), clock.turns(clock.draw(0.08, 0.2)))
        for _ in range(3)
    ]

    def at(view: _View, i: int) -> None:
        above = 1 - _step(view.height, edge - 0.35, edge)
        view.right = view.right + above * float(side * travel[i])
        for across, up, phase, angle in billows:
            wave = across * view.x * side + up * view.y + phase + angle[i]
            view.right = view.right + above * (0.010 * clock.wild[i]) * torch.sin(wave)
            view.down = view.down + above * (0.008 * clock.wild[i]) * torch.cos(wave)

    return at


def _wind(clock: _Clock) -> _Motion:
    """Gusts that bend what stands: waves of sideways movement, weakest at the ground."""
    side = clock.draw.sign()
    gust = 1 + 0.5 * clock.wander(0.1, 0.25)
    parts = [
        (clock.draw(5, 14), clock.draw(3, 9), clock.draw(0, 6.3), clock.turns(clock.draw(0.3, 0.8)))
        for _ in range(3)
    ]

    def at(view: _View, i: int) -> None:
        stands = (1.1 - view.height).clamp(0, 1)
        for across, up, phase, angle in parts:
            wave = across * view.x * side + up * view.y + phase - angle[i]
            bend = (0.010 * clock.wild[i] * float(gust[i])) * stands
            view.right = view.right + bend * torch.sin(wave)
            view.down = view.down + 0.4 * bend * torch.cos(wave)

    return at


def _light(clock: _Clock) -> _Motion:
    """Sun and shadow that pass over: a wide soft band, warm where it is bright."""
    angle = clock.draw(0, 2 * math.pi)
    across, up = 3.5 * math.cos(angle), 3.5 * math.sin(angle)
    turn, slow = clock.turns(0.14), 0.10 * clock.wander(0.04, 0.12)
    warm = torch.tensor([1.15, 1.0, 0.75]).view(3, 1, 1)

    def at(view: _View, i: int) -> None:
        band = torch.sin(across * view.x + up * view.y - turn[i])
        light = 0.18 * band + float(slow[i])
        view.gain = view.gain * torch.exp(light * warm.to(light.device))

    return at


def _flicker(clock: _Clock) -> _Motion:
    """Candle light: the whole brightness wanders, more so when wild. Never a hard flash."""
    glow = clock.wander(0.5, 1.3)

    def at(view: _View, i: int) -> None:
        view.gain = view.gain * math.exp(0.07 * clock.wild[i] * glow[i])

    return at


def _lightning(clock: _Clock) -> _Motion:
    """Dim sky, lit up now and then where arousal is above 0.

    At most one flash in .8 s of film time: WCAG 2.3.1 allows three in a second.
    """
    spent, glow = -10.0, np.zeros(len(clock.times))
    for i, now in enumerate(clock.seconds):
        chance = 0.5 * max(0.0, float(clock.tempo[i])) * clock.step
        inside = not clock.loop or 0.4 < now < clock.seconds[-1] - 0.8
        if clock.draw(0, 1) < chance and now - spent > 0.8 and inside:
            spent = now
            after = clock.seconds - now
            glow += np.where(after >= 0, np.exp(-after / 0.14), np.exp(after / 0.05))

    def at(view: _View, i: int) -> None:
        sky = 1.2 - 0.7 * view.height
        view.gain = view.gain * (0.85 + 0.75 * float(min(glow[i], 1.0)) * sky)

    return at


def _fall(clock: _Clock, *, speed: float, slant: float, streak: int, share: float) -> _Motion:
    """What falls: two sheets of soft grains on a torus, the nearer coarser and faster."""
    generator = clock.draw.generator
    sheets = []
    for side, pace in ((96, 1.0), (56, 1.6)):
        dots = torch.rand(1, 1, side, side, generator=generator, device=generator.device).cpu()
        shape = torch.hann_window(2 * streak + 3, periodic=False)[1:-1].view(1, 1, -1, 1)
        shape = shape * torch.tensor([0.35, 1.0, 0.35])
        # On a torus, so that the sheet has no seam.
        dots = functional.pad((dots < share).float(), (1, 1, streak, streak), mode="circular")
        sheet = functional.conv2d(dots, shape).clamp(max=1)
        fallen = clock.turns(speed * pace) / (2 * math.pi)
        sheets.append((functional.pad(sheet, (0, 1, 0, 1), mode="circular"), fallen))
    drift = 0.04 * clock.wander(0.1, 0.4)

    def at(view: _View, i: int) -> None:
        view.gain = view.gain * 0.94
        across = torch.remainder(view.x + 0.5 + slant * view.y + float(drift[i]), 1.0)
        for sheet, fallen in sheets:
            down = torch.remainder(view.y + 0.5 - float(fallen[i]), 1.0)
            grid = torch.stack([across, down], dim=-1)[None] * 2 - 1
            layer = functional.grid_sample(sheet.to(grid), grid, align_corners=True)[0, 0]
            view.veil = view.veil + 0.28 * min(1.3, float(clock.wild[i])) * layer

    return at


def _rain(clock: _Clock) -> _Motion:
    return _fall(clock, speed=1.1, slant=clock.draw(-0.25, 0.25), streak=5, share=0.006)


def _snow(clock: _Clock) -> _Motion:
    return _fall(clock, speed=0.22, slant=clock.draw(-0.2, 0.2), streak=1, share=0.012)


_MOTIONS: dict[str, Callable[[_Clock], _Motion]] = {
    "still": lambda _: lambda view, i: None,
    "pan": _pan, "tilt": _tilt, "push": _push, "pull": _pull, "sway": _sway, "shake": _shake,
    "breathe": _breathe, "waves": _waves, "clouds": _clouds, "wind": _wind, "light": _light,
    "flicker": _flicker, "lightning": _lightning, "rain": _rain, "snow": _snow,
}  # fmt: skip

KINDS = tuple(_MOTIONS)
"""Kinds of motion. Several at once are joined by "+": "push+waves"."""

_SCENES = (
    (r"rain\w*|drizzle|downpour", "rain"),
    (r"snow(?:ing|fall|storm)|snowflakes?|blizzard", "snow"),
    (r"lightning|thunder\w*", "lightning"),
    (r"candle\w*|fire\w*|flames?|lamp\w*|lantern\w*|torch\w*|hearth", "flicker"),
    (
        r"seas?|waves?|water\w*|lakes?|ponds?|rivers?|ships?|boats?|coasts?|ocean|beach|shore"
        r"|harbour|harbor|stream|fountain",
        "waves",
    ),
    (
        r"flowers?|roses?|tulips?|dais(?:y|ies)|sunflowers?|dandelions?|gardens?|trees?|forests?"
        r"|woods?|grass|meadows?|fields?|leaves|park|cypress",
        "wind",
    ),
    (r"sky|skies|clouds?|cloudy|storms?|stormy|mist\w*|fog\w*|plains?|landscapes?|mountains?"
     r"|hills?|valleys?|sunsets?|evening", "clouds"),
)  # fmt: skip


def kind_for(prompt: str) -> str:
    """The motion that suits what a prompt names: a hand-held camera and what moves in the scene.

    Words decide (water, plants, weather, fire, sky); without any of them, light passes over.
    """
    words = prompt.lower()
    found = [kind for pattern, kind in _SCENES if re.search(rf"\b(?:{pattern})\b", words)]
    return "+".join(["sway", "shake", *(found or ["light"])])


def move(
    picture: torch.Tensor,
    seconds: float,
    fps: float,
    *,
    kind: str,
    tempo: ArrayLike,
    generator: torch.Generator,
    loop: bool = False,
) -> Iterator[torch.Tensor]:
    """Yield the frames of a moving picture, each (3, H, W) in 0..1 like the picture.

    Args:
        picture: (3, H, W) float, 0..1, at least 8 pixels a side; or a film (frames, 3, H, W),
            whose own frames are then seen so.
        seconds, fps: above 0; there are round(seconds * fps) frames, at least one.
        kind: one of KINDS, or several joined by "+".
        tempo: (frames,) arousal -1 (slow, small) .. 1 (fast, wide), or one number for all.
        generator: what is random (directions, phases) comes from here, before the first frame.
        loop: the frame after the last would be the first again. Motions that travel one way then
            go there and back; a tempo that does not end as it began is eased at the seam.

    Raises:
        CameraError: for anything else, in one line.
    """
    if picture.ndim not in (3, 4) or picture.shape[-3] != 3 or min(picture.shape[-2:]) < 8:
        msg = f"picture: expected (3, H, W) from 8 pixels a side, received {tuple(picture.shape)}"
        raise CameraError(msg)
    motions, frames = _prepared(seconds, fps, kind, tempo, generator, loop)
    if picture.ndim == 4 and len(picture) != frames:
        msg = (
            f"picture: {seconds:g} s at {fps:g} frames a second are {frames} frames, "
            f"received a film of {len(picture)}"
        )
        raise CameraError(msg)
    film = picture if picture.ndim == 4 else picture.expand(frames, -1, -1, -1)
    return _frames(film.clamp(0, 1), motions)


def _prepared(
    seconds: float,
    fps: float,
    kind: str,
    tempo: ArrayLike,
    generator: torch.Generator,
    loop: bool,
) -> tuple[list[_Motion], int]:
    """Check what was asked and draw what is random: the motions, and how many frames."""
    if not (seconds > 0 and fps > 0 and math.isfinite(seconds * fps)):
        msg = f"seconds, fps: allowed above 0, received {seconds} and {fps}"
        raise CameraError(msg)
    names = kind.split("+")
    for name in names:
        if name not in _MOTIONS:
            msg = f'kind: {name!r} is no motion; use {", ".join(KINDS)}, or several joined by "+"'
            raise CameraError(msg)
    frames = max(1, round(seconds * fps))
    pace = np.asarray(tempo, dtype=np.float64)
    if pace.shape not in ((), (frames,)) or not (np.abs(pace) <= 1).all():
        msg = (
            f"tempo: expected {frames} numbers -1..1, one a frame, or a single one; "
            f"received shape {pace.shape}, {pace.min(initial=0):g} to {pace.max(initial=0):g}"
        )
        raise CameraError(msg)
    pace = np.broadcast_to(pace, frames)
    if loop:
        pace = _eased(pace, fps)
    clock = _Clock(pace, fps, loop, _Draw(generator))
    return [_MOTIONS[name](clock) for name in names], frames


def _frames(film: torch.Tensor, motions: list[_Motion]) -> Iterator[torch.Tensor]:
    height, width = film.shape[2:]
    side = min(height, width)
    rows = (torch.arange(height, device=film.device) + 0.5 - height / 2) / side
    columns = (torch.arange(width, device=film.device) + 0.5 - width / 2) / side
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    share = y * side / height + 0.5
    for i, picture in enumerate(film):
        view = _View(x, y, share)
        for motion in motions:
            motion(view, i)
        sine, cosine = math.sin(view.roll), math.cos(view.roll)
        right = (cosine * x + sine * y) / view.zoom + view.right
        down = (cosine * y - sine * x) / view.zoom + view.down
        # What little lies outside is mirrored: no move shows a border.
        grid = torch.stack([right * (2 * side / width), down * (2 * side / height)], dim=-1)
        frame = functional.grid_sample(
            picture[None], grid[None].to(picture), mode="bicubic", padding_mode="reflection",
            align_corners=False,
        )[0]  # fmt: skip
        if not isinstance(view.gain, float) or view.gain != 1.0:
            frame = frame * view.gain
        if not isinstance(view.veil, float):
            frame = frame + view.veil * (1 - frame.clamp(0, 1))
        yield frame.clamp(0, 1).to(picture)


def _eased(tempo: NDArray[np.float64], fps: float) -> NDArray[np.float64]:
    """A circular mean over a quarter of a second each way, so that a loop has no jump of tempo."""
    reach = max(1, round(fps / 4))
    shifts = [np.roll(tempo, shift) for shift in range(-reach, reach + 1)]
    return np.mean(shifts, axis=0)
