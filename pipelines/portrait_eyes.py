"""Eyes of a portrait: lids that close, eyeballs that look.

A lid is no part of the smooth field: its edge is a curve over the eye, the skin above it is
stretched down as one piece (the strip with the lashes stays as it is), and what lies between the
two edges is the eyeball. Behind the lids lies more eye than the photo shows: the white is continued
outwards and the iris completed to a disc, so that a widened eye shows white and a moved iris is
whole. At rest every pixel is the photo's.

Knows one eye at a time, in pixels of the crop.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch.nn import functional

from pipelines.portrait_field import Frame

__all__ = ["EYES", "Eye", "Lids", "continued", "make_eye", "render_eye"]

EYES = {
    "Right": ((33, 246, 161, 160, 159, 158, 157, 173, 133),
              (33, 7, 163, 144, 145, 153, 154, 155, 133), (468, 469, 470, 471, 472), 105),
    "Left": ((362, 398, 384, 385, 386, 387, 388, 466, 263),
             (362, 382, 381, 380, 374, 373, 390, 249, 263), (473, 474, 475, 476, 477), 334),
}  # fmt: skip
"""The person's own side: upper edge, lower edge (image left to right), iris, middle of the brow."""

_SAMPLES = 96
_REACH = 1.3  # half widths to which the curves are tabulated
_LASH = 0.045  # eye distances above the lid's edge that move without stretching
_LOW = 0.14  # height of the stretched zone below, eye distances
_WIDE = 0.078  # rise of the upper lid at eyeWide 1; anatomy says 0.05, which photos hide
_LASHES = 0.72  # of the light of the white: what is darker between the lids is a lash or an outline
_SQUINT = 0.055
_MEET = 0.86  # of the opening the upper lid crosses in a blink; the lower one does the rest
_GAZE = 0.095  # eye distances the iris travels at eyeLook 1


@dataclass(frozen=True)
class Lids:
    """How lids and gaze stand, each (B,) float: closed, wide, squint 0..1; right, down -1..1."""

    closed: torch.Tensor
    wide: torch.Tensor
    squint: torch.Tensor
    right: torch.Tensor
    down: torch.Tensor

    @property
    def active(self) -> torch.Tensor:
        """(B,) 0 at rest, 1 from a small movement on."""
        sum_ = self.closed.abs() + self.wide + self.squint + self.right.abs() + self.down.abs()
        return (sum_ * 12).clamp(0, 1)


@dataclass(frozen=True)
class Eye:
    """One eye of one photo; pixels of the crop."""

    centre: np.ndarray
    across: np.ndarray
    down: np.ndarray
    half: float
    unit: float
    depth: float
    lid_height: float
    iris: np.ndarray
    radius: float
    openness: float
    white: float  # brightness of the lightest tenth of the opening
    curves: torch.Tensor  # (2, _SAMPLES): upper and lower edge over across, along `down`
    texture: torch.Tensor  # (1, 7, h, w): white RGB, iris RGB, opening
    corner: tuple[int, int]  # of the texture in the crop


def make_eye(
    frame: Frame, picture: np.ndarray, side: str, device: torch.device, *, flat: bool = False
) -> Eye:
    """Measure one eye of `picture` (S, S, 3) float32 0..1 and paint what its lids hide.

    flat: whether the picture is a drawing: the mesh misjudges large eyes, their white does not.
    """
    upper, lower, ring, brow = EYES[side]
    points = frame.points.astype(np.float64)
    left, right = points[upper[0]], points[upper[-1]]
    centre = (left + right) / 2
    half = max(float(np.linalg.norm(right - left)) / 2, 2.0)
    across = (right - left) / (2 * half)
    down = np.array([-across[1], across[0]])
    t = np.linspace(-_REACH, _REACH, _SAMPLES)
    edges = []
    for row in (upper, lower):
        u = (points[list(row)] - centre) @ across / half
        v = (points[list(row)] - centre) @ down
        inner = slice(1, -1)
        bend = 1 - u[inner] ** 2
        shape = np.stack([bend, bend * u[inner], bend * u[inner] ** 2], 1)
        fit = np.linalg.lstsq(shape, v[inner], rcond=None)[0]
        inside = np.clip(1 - t**2, 0, None)
        edges.append(np.stack([inside, inside * t, inside * t**2], 1) @ fit)
    edges[1] = np.maximum(edges[1], edges[0])
    iris = points[ring[0]]
    radius = float(np.linalg.norm(points[list(ring[1:])] - iris, axis=1).mean())
    if flat:
        drawn = _drawn(picture, frame, centre, across, down, half, t, iris, radius)
        if drawn is not None:
            centre, half, edges, iris, radius = drawn
    opening = float((edges[1] - edges[0]).max())
    lid_height = float(np.clip(-(points[brow] - centre) @ down + edges[0].min(), 0, None))
    unit = frame.unit
    lid_height = float(np.clip(0.72 * lid_height, 0.1 * unit, 0.26 * unit))
    texture, corner = _behind(picture, frame, centre, across, down, half, t, edges, iris, radius)
    return Eye(
        centre, across, down, half, unit, float(frame.depth[list(upper)].mean()), lid_height, iris,
        radius, opening / (2 * half), _lightest(picture, points, (*upper, *lower[::-1])),
        torch.tensor(np.stack(edges), dtype=torch.float32, device=device),
        torch.from_numpy(texture).to(device), corner,
    )  # fmt: skip


def _drawn(
    picture: np.ndarray, frame: Frame, centre: np.ndarray, across: np.ndarray, down: np.ndarray,
    half: float, t: np.ndarray, iris: np.ndarray, radius: float,
) -> tuple[np.ndarray, float, list[np.ndarray], np.ndarray, float] | None:  # fmt: skip
    """Centre, half width, edges, iris and radius of a drawn eye, told by its white; None: no white.

    The white is what is light and hardly coloured around the iris; its extent in each column gives
    the edges, the hole in it the iris.
    """
    reach = int(1.9 * half) + 2
    x0, y0 = (int(np.floor(c)) - reach for c in centre)
    y, x = np.mgrid[y0 : y0 + 2 * reach, x0 : x0 + 2 * reach]
    patch = picture[np.clip(y, 0, frame.size - 1), np.clip(x, 0, frame.size - 1)]
    soft = functional.avg_pool2d(torch.from_numpy(patch.transpose(2, 0, 1)[None]), 3, 1, 1)
    tone = soft[0].permute(1, 2, 0).numpy()
    dx, dy = x + 0.5 - centre[0], y + 0.5 - centre[1]
    u, v = (dx * across[0] + dy * across[1]) / half, (dx * down[0] + dy * down[1]) / half
    white = (tone.min(2) > 0.80) & (np.ptp(tone, axis=2) < 0.12) & (u**2 + (v / 0.9) ** 2 < 2.2)
    inside = torch.from_numpy(white.astype(np.float32))[None, None]
    grown = inside * torch.from_numpy((u**2 + v**2 < 0.5).astype(np.float32))[None, None]
    for _ in range(2 * reach):
        grown = functional.max_pool2d(grown, 3, 1, 1) * inside
    found = grown[0, 0].numpy() > 0
    if not 0.08 < found.sum() / half**2 < 3.2:
        return None
    near = np.hypot(x + 0.5 - iris[0], y + 0.5 - iris[1]) < 1.15 * radius
    eye = found | near  # an iris that touches the edges leaves no white there
    low_u, high_u = np.quantile(u[found], (0.01, 0.99))
    places, top, bottom = [], [], []
    for k in np.linspace(low_u, high_u, 15):
        column = eye & (np.abs(u - k) < (high_u - low_u) / 24)
        if column.any():
            places.append(k)
            top.append(np.quantile(v[column], 0.03))
            bottom.append(np.quantile(v[column], 0.97))
    if len(places) < 8:
        return None
    shift, wide = (low_u + high_u) / 2, (high_u - low_u) / 2 * 1.06
    new_half = float(wide * half)
    at = (np.array(places) - shift) / wide
    ends = (top[0] + bottom[0] + top[-1] + bottom[-1]) / 4
    edges = []
    for values in (top, bottom):
        bend = (1 - at**2).clip(0.02) ** 0.5
        shape = np.stack([bend, bend * at, bend * at**2], 1)
        fit = np.linalg.lstsq(shape, np.array(values) - ends, rcond=None)[0]
        inner = np.clip(1 - t**2, 0, None) ** 0.5
        edges.append(np.stack([inner, inner * t, inner * t**2], 1) @ fit * half)
    # pixels half covered by the outline are no white yet
    edges[0] -= 0.008 * frame.unit * inner
    edges[1] += 0.04 * frame.unit * inner
    edges[1] = np.maximum(edges[1], edges[0])
    new_centre = centre + half * (shift * across + ends * down)
    # the iris: what is not white between the edges, as wide as it is high at most
    a, b = (u - shift) / wide, (v - ends) * half
    up, low = (np.interp(a, t, edge) for edge in edges)
    hole = (b > up + 1) & (b < low - 1) & (np.abs(a) < 0.95) & ~found
    if hole.sum() < 8:
        return None
    middle = np.array([np.median(x[hole]), np.median(y[hole])]) + 0.5
    radius = float(np.quantile(np.abs(x[hole] + 0.5 - middle[0]), 0.95))
    if not 0.15 * new_half < radius < 0.9 * new_half:
        return new_centre, new_half, edges, iris, 0.45 * new_half
    return new_centre, new_half, edges, middle, radius


def _lightest(picture: np.ndarray, points: np.ndarray, ring: tuple[int, ...]) -> float:
    """Brightness of the lightest tenth of the pixels inside a ring of points."""
    mask = Image.new("L", picture.shape[1::-1])
    ImageDraw.Draw(mask).polygon([tuple(points[i]) for i in ring], fill=1)
    inside = picture[np.asarray(mask, bool)]
    return float(np.quantile(inside.mean(1), 0.9)) if len(inside) else 0.8


def _behind(
    picture: np.ndarray, frame: Frame, centre: np.ndarray, across: np.ndarray, down: np.ndarray,
    half: float, t: np.ndarray, edges: list[np.ndarray], iris: np.ndarray, radius: float,
) -> tuple[np.ndarray, tuple[int, int]]:  # fmt: skip
    """White continued outwards, iris completed, and the opening: (1, 7, h, w), and the corner."""
    reach = int(np.ceil(1.45 * half)) + 4
    x0, y0 = (int(np.floor(c)) - reach for c in centre)
    size = 2 * reach
    y, x = np.mgrid[y0 : y0 + size, x0 : x0 + size] + 0.5
    patch = picture[
        np.clip(y.astype(int), 0, frame.size - 1), np.clip(x.astype(int), 0, frame.size - 1)
    ]
    dx, dy = x - centre[0], y - centre[1]
    u, v = (dx * across[0] + dy * across[1]) / half, dx * down[0] + dy * down[1]
    up, low = (np.interp(u, t, edge) for edge in edges)
    inside = np.minimum(v - up, low - v) * (np.abs(u) < 1)
    away = np.hypot(x - iris[0], y - iris[1]) / radius
    margin = max(0.016 * frame.unit, 0.7)
    clear = inside > margin
    if not clear.any():
        clear = inside >= inside.max() - 0.5
    ball = clear & (away > 1.22)
    if ball.any():
        light = patch.mean(2)
        ball &= light > _LASHES * np.quantile(light[ball], 0.75)
        white = continued(patch, ball.astype(np.float64), frame.unit)
    else:
        white = np.full_like(patch, np.quantile(patch[clear], 0.9))
    # the iris hidden by lids takes the mean colour of its visible part at the same radius
    bins = np.linspace(0, 1.3, 14)
    seen = clear & (away < 1.3)
    place = np.digitize(away, bins) - 1
    tone = np.full((len(bins), 3), np.nan)
    for k in range(len(bins)):
        here = seen & (place == k)
        if here.sum() >= 3:
            tone[k] = np.median(patch[here], axis=0)
    known = np.flatnonzero(~np.isnan(tone[:, 0]))
    if len(known) == 0:
        tone[:], known = patch[clear].mean(0), np.arange(len(bins))
    tone = np.stack([np.interp(np.arange(len(bins)), known, tone[known, c]) for c in range(3)], 1)
    where = (np.clip(away, 0, 1.3) / 0.1)[..., None]
    lowest = np.clip(np.floor(where).astype(int), 0, len(bins) - 2)[..., 0]
    share = np.clip(where - lowest[..., None], 0, 1)
    round_ = tone[lowest] * (1 - share) + tone[lowest + 1] * share
    # a lid that lies lower than the mesh says shows skin where the iris should be
    strange = np.abs(patch - round_).max(2) > 0.16
    near = inside < 0.3 * radius
    trust = (np.clip(inside / margin, 0, 1) * ~(strange & near))[..., None]
    disc = trust * patch + (1 - trust) * round_
    texture = np.concatenate([white, disc, inside[..., None]], 2).transpose(2, 0, 1)[None]
    return np.ascontiguousarray(texture, dtype=np.float32), (x0, y0)


def continued(
    patch: np.ndarray, valid: np.ndarray, unit: float,
    widths: tuple[float, ...] = (0.02, 0.05, 0.1, 0.25),
) -> np.ndarray:  # fmt: skip
    """(h, w, 3): fill where `valid` is 0 from around, near first, by blurs of `widths` units."""
    out = torch.from_numpy(patch.transpose(2, 0, 1)[None].astype(np.float32))
    weight = torch.from_numpy(valid[None, None].astype(np.float32))
    result = torch.zeros_like(out)
    filled = torch.zeros_like(weight)
    for radius in widths:
        k = 2 * max(int(radius * unit), 1) + 1
        total = functional.avg_pool2d(weight, k, 1, k // 2)
        mean = functional.avg_pool2d(out * weight, k, 1, k // 2) / total.clamp_min(1e-6)
        take = (1 - filled) * (total > 0.04).float()
        result += take * mean
        filled += take
    average = (out * weight).sum((2, 3), keepdim=True) / weight.sum().clamp_min(1e-6)
    result += (1 - filled) * average
    smooth = functional.avg_pool2d(result, 3, 1, 1, count_include_pad=False)
    result = weight * result + (1 - weight) * smooth
    return result[0].permute(1, 2, 0).numpy()


def render_eye(
    eye: Eye, lids: Lids, place: torch.Tensor, carried: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """One eye in one window of the crop.

    Args:
        eye: the eye.
        lids: how lids and gaze stand, B of them.
        place: (B, 2, h, w) crop pixels that the skin of the window comes from.
        carried: (B, 2, h, w) crop pixels that the eyeball of the window comes from.

    Returns:
        (2, B, 2, h, w) `place` as the upper and as the lower lid moves it; (B, 1, h, w) share of
        the upper one; (B, 3, h, w) eyeball colour, valid where the alpha is above 0;
        (B, 1, h, w) alpha of the opening.
    """
    u, v = _local(eye, place)
    up, low = _edges(eye, u)
    gap = low - up
    shape = (1 - u * u).clamp_min(0)
    arch = (1 - u.square().square()).clamp_min(0)  # a lid that is pulled up goes up as a whole

    def each(value: torch.Tensor) -> torch.Tensor:
        return value[:, None, None]

    looks_down = lids.down.clamp_min(0)
    closed = (lids.closed + 0.34 * looks_down * (1 - lids.closed)).clamp(0, 1)
    rise = each(lids.wide + 0.3 * (-lids.down).clamp_min(0)) * _WIDE * eye.unit * arch
    lift = torch.minimum(each(lids.squint) * _SQUINT * eye.unit * shape, 0.32 * gap)
    low_now = low - lift - (1 - _MEET) * each(closed) * gap + each(looks_down) * 0.08 * gap
    up_now = up + each(closed) * (low_now - up)
    low_now = torch.maximum(low_now, up_now)
    # upper zone: nothing moves at its top, the lash strip as one piece, stretched between
    top = up - eye.lid_height
    lash = _LASH * eye.unit
    whole = (up_now - lash - top).clamp_min(1.0)
    raised = _raised(eye, rise * (1 - each(closed)), up - v, carried)
    above = raised + ((v + raised - top) / whole).clamp(0, 1) * (up - up_now)
    below = (1 - (v - low_now) / (_LOW * eye.unit)).clamp(0, 1) * (low - low_now)
    share = ((up_now + low_now) / 2 - v + 0.5).clamp(0, 1)[:, None]
    down = torch.tensor(eye.down, dtype=torch.float32, device=u.device)
    moved = place + torch.stack([above, below])[:, :, None] * down[:, None, None]
    open_now = low_now - up_now
    hidden = up_now - v - raised  # how far under the upper lid
    edge = torch.minimum((0.5 - hidden).clamp(0, 1), (low_now - v + 0.5).clamp(0, 1))
    alpha = edge * (open_now / 1.5).clamp(0, 1) * (u.abs() < 1)

    gaze = torch.stack([lids.right, lids.down * 0.8], 1) * _GAZE * eye.unit
    across = torch.tensor(eye.across, dtype=torch.float32, device=u.device)
    gaze = gaze[:, :1] * across + gaze[:, 1:] * down
    ball = _look(eye, carried)
    iris_from = carried - gaze[:, :, None, None]
    pupil = _look(eye, iris_from)
    centre = torch.tensor(eye.iris, dtype=torch.float32, device=u.device)[None, :, None, None]
    away = (iris_from - centre).square().sum(1).sqrt() / eye.radius
    disc = ((1.16 - away) * eye.radius / 1.5).clamp(0, 1)[:, None]
    colour = ball[:, :3] + disc * (pupil[:, 3:6] - ball[:, :3])
    # the lid throws a soft shadow on the ball, also when it has moved
    shadow = 1 - 0.30 * torch.exp((hidden / (0.05 * eye.unit)).clamp_max(0))
    before = 1 - 0.30 * torch.exp(-((v - up) / (0.05 * eye.unit)).clamp_min(0))
    colour = colour * (shadow / before).clamp(0.6, 1.15)[:, None]
    return moved, share, colour.clamp(0, 1), alpha[:, None]


def _raised(
    eye: Eye, rise: torch.Tensor, height: torch.Tensor, carried: torch.Tensor
) -> torch.Tensor:
    """(B, h, w) pixels down by which the skin above an eye is taken from its lid instead.

    Brows that rise draw the skin out: a lid that rose in the skin's own measure would bulge below
    the brow that rises most, and its lashes would grow. So lid and lashes rise as one piece in the
    measure of the picture, and the skin above them gives way.

    rise: (B, h, w) pixels. height: (B, h, w) above the lid in the photo's skin. carried: (B, 2, h,
    w) crop pixels that the eyeball of the window comes from.
    """
    u, v = _local(eye, carried)
    seen = _edges(eye, u)[0] - v
    first = rise + _LASH * eye.unit
    over = ((seen - first) / (eye.lid_height - _LASH * eye.unit)).clamp(0, 1)
    # only what is drawn out is taken back, or a brow that is lowered would not press on the lid;
    # and not at all while the lid does not rise, so that faces at rest stay as they are
    engaged = (rise / (0.2 * _WIDE * eye.unit)).clamp(0, 1)
    return (1 - over) * (rise + engaged * (height - seen).clamp_max(0))


def _local(eye: Eye, place: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    dx, dy = place[:, 0] - float(eye.centre[0]), place[:, 1] - float(eye.centre[1])
    u = (dx * float(eye.across[0]) + dy * float(eye.across[1])) / eye.half
    return u, dx * float(eye.down[0]) + dy * float(eye.down[1])


def _edges(eye: Eye, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Upper and lower edge at u, by straight lines between the tabulated places."""
    at = ((u / _REACH + 1) / 2 * (_SAMPLES - 1)).clamp(0, _SAMPLES - 1.001)
    low = at.floor().long()
    share = at - low
    a, b = eye.curves[:, low], eye.curves[:, low + 1]
    mixed = a + (b - a) * share
    return mixed[0], mixed[1]


def _look(eye: Eye, place: torch.Tensor) -> torch.Tensor:
    """(B, 7, h, w) of the eye's texture at crop pixels (B, 2, h, w)."""
    height, width = eye.texture.shape[-2:]
    x = (place[:, 0] - eye.corner[0]) * 2 / width - 1
    y = (place[:, 1] - eye.corner[1]) * 2 / height - 1
    return functional.grid_sample(
        eye.texture.expand(len(place), -1, -1, -1), torch.stack([x, y], -1),
        padding_mode="border", align_corners=False,
    )  # fmt: skip
