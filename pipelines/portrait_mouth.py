"""The inside of a mouth: teeth, tongue and dark, painted where lips part.

In coordinates of the mouth (across, down, in eye distances): the upper row hangs from the skull,
the lower row and the tongue ride on the jaw, everything is shaded by depth and lit like the face.
Teeth are 8.5, 6.5 and 7.5 mm wide (Wheeler's Dental Anatomy) at 63 mm between the eyes. Where the
photo shows teeth of its own, these are used and only what they hide is painted.

Also where the lips part: the seam, found as the darkest line near the mesh's inner lips.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from pipelines.portrait_basis import LOWER_LIP, UPPER_LIP
from pipelines.portrait_eyes import continued
from pipelines.portrait_field import Frame
from pipelines.portrait_source import FROM_ABOVE

__all__ = ["Mouth", "corners", "make_mouth", "masks", "own_place", "paint_mouth"]

_EDGES = (0.0, 0.135, 0.24, 0.355, 0.46, 0.56)  # of the upper teeth from the midline
_LOW_EDGES = (0.0, 0.085, 0.18, 0.285, 0.395, 0.5)
_SHOWN = 0.045  # eye distances the upper teeth hang below the seam at rest, behind the lower lip
_SUNK = 0.05  # how far below the seam the lower teeth end at rest
_TIP = 0.13  # eye distances the tip of the tongue rises at tongueOut 1
_CORNER = 0.02  # eye distances around the corners of an open mouth that are dark with it
_CLOSED = 0.035  # eye distances between the inner lips below which a mouth is shut


@dataclass(frozen=True)
class Mouth:
    """One mouth; pixels of the crop unless said otherwise.

    origin: middle of the seam; across, down: unit vectors; half: half width of the seam.
    seams: (2, n) upper and lower inner edge along `down` at `places` (n,) along `across`.
    gap: of the lips in the photo, eye distances. light: RGB of white in this light.
    teeth: whether the photo shows them; flat: whether it is drawn in flat colours.
    """

    origin: np.ndarray
    across: np.ndarray
    down: np.ndarray
    half: float
    unit: float
    depth: float
    places: np.ndarray
    seams: np.ndarray
    gap: float
    light: tuple[float, float, float]
    teeth: bool
    flat: bool
    row: float  # biting edge of the upper teeth below `middle`, eye distances
    middle: float  # where the lips would meet at the midline, below the corners, eye distances


def make_mouth(frame: Frame, picture: np.ndarray, *, white: float, flat: bool) -> Mouth:
    """Measure the mouth in `picture` (S, S, 3) float32 0..1.

    white: brightness of the white of the eyes, which tells the light whatever the skin.
    """
    points = frame.points.astype(np.float64)
    left, right = points[78], points[308]
    origin = (left + right) / 2
    half = max(float(np.linalg.norm(right - left)) / 2, 2.0)
    across = (right - left) / (2 * half)
    down = np.array([-across[1], across[0]])
    places = np.linspace(-half, half, 41)
    edges = []
    for row in (UPPER_LIP[0], LOWER_LIP[0]):
        at = (points[list(row)] - origin) @ across
        v = (points[list(row)] - origin) @ down
        order = np.argsort(at)
        edges.append(_smoothed(np.interp(places, at[order], v[order])))
    upper, lower = edges[0], np.maximum(edges[1], edges[0])
    gap = float((lower - upper).max() / frame.unit)
    if gap < _CLOSED:
        seam = _darkest(frame, picture, origin, across, down, places, (edges[0] + edges[1]) / 2)
        upper = lower = seam
        gap = 0.0
    cheeks = [picture[_inside(points[i], frame.size)] for i in (50, 280, 205, 425)]
    bright = float(np.clip(white / 0.86, 0.6, 1.05))
    tint = np.mean(cheeks, axis=0)
    tint = 0.82 + 0.18 * tint / max(tint.max(), 1e-3)
    row, teeth = _SHOWN, False
    middle = float(upper[20] + FROM_ABOVE * gap * frame.unit) / frame.unit
    if gap:
        inside = [
            picture[_inside(origin + s * across + (a + f * (b - a)) * down, frame.size)]
            for s, a, b in list(zip(places, upper, lower, strict=True))[8:-8]
            for f in (0.25, 0.4, 0.55)
        ]
        tones = np.array(inside)
        # teeth are light and hardly coloured; tongues and gums are red, the throat dark
        teeth = bool(np.mean((tones.min(1) > 0.35) & (np.ptp(tones, axis=1) < 0.3)) > 0.4)
        if teeth:
            bright = float(np.quantile(tones.mean(1), 0.85)) / 0.9
            row = max(_SHOWN, gap * (0.93 - FROM_ABOVE))
    return Mouth(
        origin, across, down, half, frame.unit, float(frame.depth[[13, 14]].mean()), places,
        np.stack([upper, lower]), gap, tuple(float(c) for c in bright * tint), teeth, flat, row,
        middle,
    )  # fmt: skip


def masks(mouth: Mouth, size: int) -> tuple[np.ndarray, np.ndarray]:
    """(S, S) share of the upper and of the lower layer; the rest to 1 is inside the mouth."""
    y, x = np.mgrid[0:size, 0:size] + 0.5
    dx, dy = x - mouth.origin[0], y - mouth.origin[1]
    u = dx * mouth.across[0] + dy * mouth.across[1]
    v = dx * mouth.down[0] + dy * mouth.down[1]
    upper, lower = (np.interp(u, mouth.places, seam) for seam in mouth.seams)
    if mouth.gap:  # pixels of the lips' edge that are half tooth belong to neither lip
        rim = 0.013 * mouth.unit * np.clip(2.5 - 2.5 * np.abs(u) / mouth.half, 0, 1)
        upper, lower = upper - rim, lower + rim
    # past the corners the layers blend into each other over a widening band
    beyond = np.clip(np.abs(u) - mouth.half, 0, None)
    soft = 1.2 + 0.9 * beyond
    top = np.clip(0.5 + (upper - v) / soft, 0, 1)
    bottom = np.clip(0.5 + (v - lower) / soft, 0, 1)
    bottom = np.where((lower - upper) < 0.8, 1 - top, bottom)
    return top.astype(np.float32), bottom.astype(np.float32)


def corners(
    mouth: Mouth, frame: Frame, picture: np.ndarray, hole: np.ndarray
) -> torch.Tensor | None:
    """(1, 3, S, S) to add to a picture (S, S, 3) whose open lips are closed; None: they are shut.

    The corners of an open mouth are dark. Closed they would lie in the cheeks as a row of dots, so
    they take half the colour of the skin beside them: a line remains.

    hole: (S, S) share inside the mouth.
    """
    if not mouth.gap:
        return None
    far = 1.3 * mouth.half + 0.3 * mouth.unit
    low, high = (np.clip(mouth.origin + d, 0, frame.size).astype(int) for d in (-far, far))
    part = np.s_[low[1] : high[1], low[0] : high[0]]
    y, x = np.mgrid[part] + 0.5
    u = (x - mouth.origin[0]) * mouth.across[0] + (y - mouth.origin[1]) * mouth.across[1]
    reach = 2 * max(1, round(_CORNER * mouth.unit)) + 1
    wide = functional.max_pool2d(
        torch.from_numpy((hole[part] > 0.02).astype(np.float32))[None, None], reach, 1, reach // 2
    )
    soft = functional.avg_pool2d(wide, 3, 1, 1)[0, 0].numpy()
    share = 0.55 * soft * np.clip((np.abs(u) / mouth.half - 0.78) / 0.12, 0, 1)
    filled = continued(picture[part], (wide[0, 0].numpy() == 0).astype(float), mouth.unit)
    change = np.zeros((1, 3, frame.size, frame.size), np.float32)
    change[0][:, part[0], part[1]] = (share[..., None] * (filled - picture[part])).transpose(
        2, 0, 1
    )
    return torch.from_numpy(change)


def own_place(mouth: Mouth, place: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Where the photo's own teeth are taken from, and where they are shown.

    place: (B, 2, h, w) crop pixels in the skull's frame. What lay under the upper lip is the row
    above it, drawn out; below the biting edge nothing is known. Returns places like `place` and
    (B, 1, h, w) alpha.
    """
    dx, dy = place[:, 0] - float(mouth.origin[0]), place[:, 1] - float(mouth.origin[1])
    u = dx * float(mouth.across[0]) + dy * float(mouth.across[1])
    v = dx * float(mouth.down[0]) + dy * float(mouth.down[1])
    seams = torch.tensor(mouth.seams, dtype=torch.float32, device=place.device)
    count = seams.shape[1] - 1
    at = ((u / mouth.half + 1) / 2 * count).clamp(0, count - 1e-3)
    low = at.floor().long()
    upper, lower = seams[:, low] + (seams[:, low + 1] - seams[:, low]) * (at - low)
    margin = 0.018 * mouth.unit + 0.8
    # near the corners the opening is lower than two margins: nothing of its own is left there
    top, bottom = upper + margin, lower - margin
    inside = torch.maximum(v, torch.minimum(top, bottom))
    down = torch.tensor(mouth.down, dtype=torch.float32, device=place.device)
    moved = place + (inside - v)[:, None] * down[:, None, None]
    alpha = ((bottom - v) / 1.5 + 0.5).clamp(0, 1) * ((bottom - top) / 2).clamp(0, 1)
    alpha = alpha * ((0.97 * mouth.half - u.abs()) / 2 + 0.5).clamp(0, 1)
    return moved, alpha[:, None]


def paint_mouth(
    mouth: Mouth,
    skull: torch.Tensor,
    jaw: torch.Tensor,
    roof: torch.Tensor,
    tongue: torch.Tensor | None = None,
) -> torch.Tensor:
    """(B, 3, h, w) what is behind the lips.

    Args:
        mouth: the mouth.
        skull: (B, 2, h, w) eye distances across and down from `Mouth.middle`, carried by the skull.
        jaw: the same in the jaw's frame.
        roof: (B, h, w) how far below the upper lip's edge, eye distances.
        tongue: (B,) 0..1 how far its tip comes between the teeth; never past the lips. None: 0.
    """
    x, y = skull[:, 0], skull[:, 1]
    jx, jy = jaw[:, 0], jaw[:, 1]
    wide = mouth.half / mouth.unit
    white = torch.tensor(mouth.light, device=x.device)[None, :, None, None]
    span = (x / (wide * 1.08)).abs()
    # dark red that grows darker inwards
    deep = (0.15 - 0.10 * (y / 0.5).clamp(0, 1)) if not mouth.flat else torch.full_like(x, 0.2)
    base = torch.stack([deep * 1.9, deep * 0.72, deep * 0.68], 1) * white

    tip = torch.zeros_like(x[:, :1, :1]) if tongue is None else tongue[:, None, None]
    # its tip rises in front of the lower teeth and grows narrower
    tongue_at = jy + 0.05 + _TIP * tip - (0.16 + 0.2 * tip) * (jx / wide) ** 2
    shape = _edge(tongue_at, 0.05) * _edge(wide * 0.72 - jx.abs(), 0.1)
    groove = 1 - 0.22 * torch.exp(-((jx / 0.03) ** 2)) * (0 if mouth.flat else 1)
    lit = (0.42 + 0.22 * torch.exp(-(((tongue_at - 0.10) / 0.10) ** 2))) * groove
    flesh = torch.stack([lit * 1.28, lit * 0.62, lit * 0.60], 1) * white
    base = base + shape[:, None] * 0.9 * (flesh - base)

    pixel = 1 / mouth.unit
    lower = _row(
        jx, jy - max(_SUNK, mouth.row + 0.01), _LOW_EDGES, pixel, rising=True, flat=mouth.flat
    )
    upper = _row(x, mouth.row - y, _EDGES, pixel, rising=False, flat=mouth.flat)
    rows = [(lower, 0.80, 0.55)]
    if not mouth.teeth:  # the photo's own upper teeth are better
        rows.append((upper, 0.95, 0.42))
    for index, ((alpha, shade, gum), tone, depth) in enumerate(rows):
        fall = 1 - depth * (span.clamp(0, 1.1) ** 2.2) * (0.3 if mouth.flat else 1)
        enamel = torch.stack([shade, shade * 0.965, shade * 0.895], 1) * white * tone
        flesh_of_gums = torch.stack([shade * 0.66, shade * 0.36, shade * 0.36], 1) * white
        enamel = enamel + gum[:, None] * (flesh_of_gums - enamel)
        base = base + alpha[:, None] * (enamel * fall[:, None] - base)
        if index == 0 and tongue is not None:  # over the lower teeth, behind the upper ones
            over = shape * tip.clamp(0, 1)
            base = base + over[:, None] * (flesh - base)
    # the upper lip shades what is right below it; corners lie in the dark
    under = 1 - (0.5 if not mouth.flat else 0.15) * torch.exp(-(roof.clamp_min(0) / 0.035))
    ends = 1 - 0.6 * _smooth((span - 0.72) / 0.36)
    return (base * (under * ends)[:, None]).clamp(0, 1)


def _row(
    x: torch.Tensor,
    rise: torch.Tensor,
    edges: tuple[float, ...],
    pixel: float,
    *,
    rising: bool,
    flat: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Alpha, shading and share of gum in a row of teeth; `rise` counts inwards from its edge."""
    away = x.abs()
    arch = 0.16 * away**2  # biting edges climb towards the cheeks
    inside = rise - arch if not rising else rise + 0.0 - 0.10 * away**2
    limits = torch.tensor(edges, device=x.device)
    if flat:
        alpha = _edge(inside, 0.006) * _edge(limits[-1] * 0.75 - away, 0.05)
        return alpha, torch.ones_like(x), torch.zeros_like(x)
    index = torch.bucketize(away.contiguous(), limits[1:-1])
    low, high = limits[index], limits[index + 1]
    middle, half = (low + high) / 2, (high - low) / 2
    across = ((away - middle) / half).abs().clamp(0, 1.5)
    inside = inside - 0.02 * across**4  # rounded corners
    root = 0.17 if not rising else 0.13
    alpha = _edge(inside, max(0.010, 1.2 * pixel)) * _edge(limits[-1] - away, 0.03)
    # a gap between teeth is a fraction of a pixel in small faces: fainter there
    shade = 1 - min(0.26, 0.006 / pixel * 0.26 / 0.06) * across**6
    shade = shade * (1 - 0.10 * (inside / root).clamp(0, 1))
    gum = _edge(inside - root + 0.02 * across**2, 0.02)
    if rising:  # those of the lower row lie in the dark behind it
        return alpha * (1 - gum * 0.9), shade, torch.zeros_like(x)
    return alpha, shade, gum


def _edge(x: torch.Tensor, width: float) -> torch.Tensor:
    return (x / width + 0.5).clamp(0, 1)


def _smooth(t: torch.Tensor) -> torch.Tensor:
    t = t.clamp(0, 1)
    return t * t * (3 - 2 * t)


def _inside(place: np.ndarray, size: int) -> tuple[int, int]:
    x, y = np.clip(place.astype(int), 0, size - 1)
    return int(y), int(x)


def _smoothed(values: np.ndarray) -> np.ndarray:
    padded = np.pad(values, 2, mode="edge")
    out = np.convolve(padded, [0.1, 0.2, 0.4, 0.2, 0.1], "valid")
    out[0], out[-1] = values[0], values[-1]
    return out


def _darkest(
    frame: Frame, picture: np.ndarray, origin: np.ndarray, across: np.ndarray, down: np.ndarray,
    places: np.ndarray, guess: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """Where shut lips meet: a path of least light near the guess, smooth along the mouth."""
    reach = np.linspace(-0.055, 0.055, 31) * frame.unit
    cost = np.empty((len(places), len(reach)))
    for k, (s, v) in enumerate(zip(places, guess, strict=True)):
        p = origin + s * across + (v + reach)[:, None] * down
        x, y = (np.clip(p[:, i].astype(int), 0, frame.size - 1) for i in (0, 1))
        cost[k] = picture[y, x].mean(1)
    spread = cost.max() - cost.min()
    near = (reach / reach[-1]) ** 2
    ends = np.clip(np.abs(places) / places[-1] * 4 - 3, 0, 1)[:, None]
    cost = cost / max(spread, 1e-3) + (0.12 + 3 * ends) * near
    step = np.abs(np.arange(31)[:, None] - np.arange(31)) / 31
    best, back = cost[0].copy(), []
    for row in cost[1:]:
        total = best[:, None] + 6 * step**2
        back.append(total.argmin(0))
        best = total.min(0) + row
    path = [int(best.argmin())]
    for choice in reversed(back):
        path.append(int(choice[path[-1]]))
    return _smoothed(guess + reach[np.array(path[::-1])])
