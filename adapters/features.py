"""Handmade picture statistics: colour, light, texture and layout, without any learned filter.

What the second image reader sees, so that it shares no feature with the convolutional critic. The
list follows Machajdik and Hanbury (2010), Hasler and Suesstrunk (2003, colourfulness), Ojala et al.
(2002, local binary patterns), Dalal and Triggs (2005, orientation histograms) and Redies et al.
(2020, global image properties). Knows nothing about emotion, and is not meant to be differentiated.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

SIDE = 96
"""Pictures are squashed to SIDE x SIDE first: layout features need one grid."""


def to_lab(x: Tensor) -> Tensor:
    """Return sRGB (n, 3, h, w) in 0..1 as CIELAB (D65), L / 100 and a, b / 100."""
    linear = torch.where(x <= 0.04045, x / 12.92, ((x.clamp_min(0) + 0.055) / 1.055) ** 2.4)
    matrix = x.new_tensor(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    ) / x.new_tensor([[0.95047], [1.0], [1.08883]])
    xyz = torch.einsum("ij,njhw->nihw", matrix, linear)
    f = torch.where(xyz > 0.008856, xyz.clamp_min(1e-6) ** (1 / 3), 7.787 * xyz + 16 / 116)
    lightness = 1.16 * f[:, 1] - 0.16
    return torch.stack([lightness, 5 * (f[:, 0] - f[:, 1]), 2 * (f[:, 1] - f[:, 2])], dim=1)


def _moments(x: Tensor) -> Tensor:
    """(n, c, h, w) -> (n, 8 c): mean, deviation, skew and five quantiles of each channel."""
    flat = x.flatten(2)
    mean, std = flat.mean(2, keepdim=True), flat.std(2, keepdim=True)
    skew = (((flat - mean) / (std + 1e-3)) ** 3).mean(2)
    cuts = torch.quantile(flat, flat.new_tensor([0.05, 0.25, 0.5, 0.75, 0.95]), dim=2)
    return torch.cat([mean[..., 0], std[..., 0], skew, *cuts], dim=1)


def _colour(x: Tensor, lab: Tensor) -> Tensor:
    """Hue histogram, light and grey shares, colourfulness, joint Lab histogram: (n, 82)."""
    light, a, b = lab[:, 0], lab[:, 1], lab[:, 2]
    chroma = (a**2 + b**2).sqrt()
    hue = torch.atan2(b, a)
    centres = torch.arange(12, device=x.device) * (2 * math.pi / 12)
    near = torch.exp(2.5 * (torch.cos(hue[:, None] - centres[:, None, None]) - 1))
    hues = (near * chroma[:, None]).mean((2, 3))
    rg, yb = x[:, 0] - x[:, 1], (x[:, 0] + x[:, 1]) / 2 - x[:, 2]
    spread = (rg.var((1, 2)) + yb.var((1, 2))).sqrt()
    shift = (rg.mean((1, 2)) ** 2 + yb.mean((1, 2)) ** 2).sqrt()
    shares = torch.stack(
        [
            (light < 0.25).float().mean((1, 2)),
            (light > 0.8).float().mean((1, 2)),
            (chroma < 0.08).float().mean((1, 2)),
            (chroma > 0.4).float().mean((1, 2)),
            spread + 0.3 * shift,
            (a * light).mean((1, 2)),
        ],
        dim=1,
    )
    level = (light * 4).long().clamp(0, 3)
    side_a = ((a + 0.4) * 5).long().clamp(0, 3)
    side_b = ((b + 0.4) * 5).long().clamp(0, 3)
    joint = F.one_hot(level * 16 + side_a * 4 + side_b, 64).float().mean((1, 2)).sqrt()
    return torch.cat([hues, shares, joint], dim=1)


def _gradients(light: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    dx = F.pad(light[:, :, 2:] - light[:, :, :-2], (1, 1))
    dy = F.pad(light[:, 2:] - light[:, :-2], (0, 0, 1, 1))
    return dx, dy, (dx**2 + dy**2 + 1e-8).sqrt()


def _orientation(light: Tensor) -> Tensor:
    """Orientation histograms on a 4 x 4 grid, edge shares and entropy: (n, 16 * 8 + 4)."""
    dx, dy, size = _gradients(light)
    angle = torch.atan2(dy, dx) * 2
    centres = torch.arange(8, device=light.device) * (2 * math.pi / 8)
    near = torch.exp(3.0 * (torch.cos(angle[:, None] - centres[:, None, None]) - 1))
    grid = F.adaptive_avg_pool2d(near * size[:, None], 4)
    whole = grid.mean((2, 3))
    p = whole / whole.sum(1, keepdim=True).clamp_min(1e-6)
    entropy = -(p * (p + 1e-9).log()).sum(1, keepdim=True)
    edges = torch.stack([(size > t).float().mean((1, 2)) for t in (0.05, 0.15, 0.4)], dim=1)
    return torch.cat([grid.flatten(1).sqrt(), edges, entropy], dim=1)


def _patterns(light: Tensor) -> Tensor:
    """Rotation-invariant uniform local binary patterns at radius 1, 2 and 4: (n, 30)."""
    steps = [(-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1)]
    out = []
    for r in (1, 2, 4):
        padded = F.pad(light[:, None], (r, r, r, r), mode="replicate")[:, 0]
        height, width = light.shape[1:]
        bits = torch.stack(
            [
                padded[:, r + r * i : r + r * i + height, r + r * j : r + r * j + width]
                > light + 0.01
                for i, j in steps
            ],
            dim=1,
        ).long()
        turns = (bits != bits.roll(1, dims=1)).sum(1)
        kind = torch.where(turns <= 2, bits.sum(1), torch.full_like(turns, 9))
        out.append(F.one_hot(kind, 10).float().mean((1, 2)).sqrt())
    return torch.cat(out, dim=1)


def _layout(lab: Tensor) -> Tensor:
    """Means of L, a, b, chroma and edges on a 3 x 3 grid, symmetry and balance: (n, 57)."""
    _, _, size = _gradients(lab[:, 0])
    chroma = (lab[:, 1] ** 2 + lab[:, 2] ** 2).sqrt()
    maps = torch.cat([lab, chroma[:, None], size[:, None]], dim=1)
    grid = F.adaptive_avg_pool2d(maps, 3).flatten(1)
    light = lab[:, 0]
    spread = (
        F.adaptive_avg_pool2d((light**2)[:, None], 3)
        - F.adaptive_avg_pool2d(light[:, None], 3).square()
    )
    mirror = (light - light.flip(2)).abs().mean((1, 2))
    upright = (light - light.flip(1)).abs().mean((1, 2))
    tilt = light[:, : SIDE // 2].mean((1, 2)) - light[:, SIDE // 2 :].mean((1, 2))
    extra = torch.stack([mirror, upright, tilt], dim=1)
    return torch.cat([grid, spread.flatten(1).clamp_min(0).sqrt(), extra], dim=1)


def _spectrum(light: Tensor) -> Tensor:
    """Log power in 10 radial and 6 angular bands, and lag correlations: (n, 24)."""
    window = torch.hann_window(SIDE, periodic=False, device=light.device)
    centred = (light - light.mean((1, 2), keepdim=True)) * window[:, None] * window
    power = torch.fft.rfft2(centred).abs() ** 2
    fy = torch.fft.fftfreq(SIDE, device=light.device)[:, None]
    fx = torch.fft.rfftfreq(SIDE, device=light.device)[None]
    radius, angle = (fx**2 + fy**2).sqrt(), torch.atan2(fy, fx)
    edges = torch.logspace(math.log10(1 / SIDE), math.log10(0.5), 11, device=light.device)
    bands = [(radius >= low) & (radius < high) for low, high in pairwise(edges)]
    turns = torch.linspace(-math.pi / 2, math.pi / 2 + 1e-3, 7, device=light.device)
    whole = (radius > 2 / SIDE) & (radius < 0.4)
    bands += [whole & (angle >= low) & (angle < high) for low, high in pairwise(turns)]
    out = [(power * m).sum((1, 2)).div(m.sum().clamp_min(1)).add(1e-6).log() for m in bands]
    variance = centred.square().mean((1, 2)) + 1e-6
    for lag in (1, 2, 4, 8):
        out.append((centred[:, :, lag:] * centred[:, :, :-lag]).mean((1, 2)) / variance)
        out.append((centred[:, lag:] * centred[:, :-lag]).mean((1, 2)) / variance)
    return torch.stack(out, dim=1)


@torch.no_grad()
def picture_features(images: Tensor) -> Tensor:
    """Return the statistics of sRGB pictures: (n, 3, h, w) in 0..1 -> (n, COUNT) float32."""
    x = F.interpolate(images.float(), (SIDE, SIDE), mode="bilinear", antialias=True).clamp(0, 1)
    lab = to_lab(x)
    chroma = (lab[:, 1] ** 2 + lab[:, 2] ** 2).sqrt()
    top, low = x.amax(1), x.amin(1)
    saturation = (top - low) / (top + 1e-3)
    channels = torch.cat([lab, chroma[:, None], saturation[:, None]], dim=1)
    light = lab[:, 0]
    parts = [
        _moments(channels),
        _colour(x, lab),
        _orientation(light),
        _patterns(light),
        _layout(lab),
        _spectrum(light),
    ]
    return torch.cat(parts, dim=1)


COUNT = 40 + 82 + 132 + 30 + 57 + 24
"""Length of the feature vector."""
