"""Figures of moving pictures: flicker, warping error, speed, and whether a loop closes.

Each is a few lines with its unit and with what to set beside it: no figure says anything without a
still (0 for all), a cross-fade and frames that have nothing to do with each other. Motion is found
by iterated Lucas-Kanade over a pyramid, written here because the networks for it that torchvision
has would need weights that are not shipped. It knows no model, no emotion and no file.

Frames are float (n, 3, h, w) in 0..1, or uint8 (n, h, w, 3) as decoders give them.

Sources: Lai et al. 2018 (arXiv 1808.00449) for the warping error, with the occlusions of Sundaram
et al. 2010 as there; Bouguet 2001 for the flow; Huang et al. 2024 (VBench, arXiv 2311.17982) for
the plain difference of frames.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "Warping",
    "flicker",
    "flow",
    "frame_difference",
    "loop_gap",
    "measure",
    "motion_speed",
    "warping",
    "warping_error",
]

# Long side that motion is looked for at: finer detail is aliasing to a window of 9 pixels.
FLOW_SIDE = 256
# Smallest side of the pyramid's top, warps at each level, and half the window.
TOP, WARPS, REACH = 12, 4, 4
# Added to the structure tensor, (1/255)^2: what compression leaves in a flat sky moves nothing.
FLAT = 1.5e-5
# Rec. 709 luma, as in the MP4 files that are measured.
LUMA = (0.2126, 0.7152, 0.0722)
# Flicker is looked for in cells of 1/16 of the width: smaller ones see what moves through them.
CELLS = 16
# Pairs of frames held at once; 32 at 256 pixels take about 200 MB.
BATCH = 32


class Warping(NamedTuple):
    """What motion cannot explain: error of what stays visible, and share of what does not stay."""

    error: float
    occluded: float


def flicker(frames: Tensor | NDArray[np.uint8]) -> float:
    """How much the light goes back and forth where nothing moved: share of full brightness.

    Mean |x[t] - (x[t-1] + x[t+1]) / 2| of luma in cells of 1/16 of the width, both neighbours
    carried along the motion first, so that pans and shaking cameras hardly count. 0 for a still and
    a cross-fade, under .01 for moving cameras, about .1 for unrelated frames. Lightning and candles
    flicker too: set it beside the same prompt without them. n >= 3.
    """
    return _measured(_small(_frames(frames, 3)))["flicker"]


def frame_difference(frames: Tensor | NDArray[np.uint8]) -> float:
    """Mean absolute difference of neighbouring frames, 0..1; motion and flicker alike (VBench)."""
    x = _frames(frames, 2)
    total = [(b.float() - a.float()).abs().mean() for a, b in pairwise(x)]
    return float(torch.stack(total).mean())


def warping(frames: Tensor | NDArray[np.uint8]) -> Warping:
    """Squared difference of frames once motion is taken out, where nothing was covered.

    error: mean over pixels of the squared RGB distance between a frame and the next one carried
    back along the flow (Lai et al. 2018), 0..3; about .001 for real film. occluded: share of pixels
    left out, where flow there and back disagrees; for unrelated frames most of the picture, so read
    both. Where more than 90 % of a pair are left out all its pixels count.
    """
    found = _measured(_small(_frames(frames, 2)))
    return Warping(found["warping"], found["occluded"])


def warping_error(frames: Tensor | NDArray[np.uint8]) -> float:
    """The error of `warping`, without the share that it leaves out."""
    return warping(frames).error


def motion_speed(frames: Tensor | NDArray[np.uint8], fps: float) -> float:
    """Mean speed of what is seen, in picture widths a second; 0 for a still.

    A pan across the whole picture in four seconds has .25. A texture that changes without moving
    (rain far off, noise) counts little: the flow has nowhere to go. Unrelated frames have a speed
    as well, which means nothing.
    """
    if not fps > 0:
        msg = f"fps: allowed above 0, received {fps:g}"
        raise ValueError(msg)
    x = _small(_frames(frames, 2))
    pairs = zip(x[:-1].split(BATCH), x[1:].split(BATCH), strict=True)
    lengths = torch.cat([_lengths(flow(a, b)) for a, b in pairs])
    return float(lengths.mean()) * fps / x.shape[3]


def loop_gap(frames: Tensor | NDArray[np.uint8]) -> float:
    """The step from the last frame to the first, in usual steps between neighbours.

    1: the loop closes without being seen; a walk that never comes back has many. A still has 1.
    Steps are root-mean-square differences, the usual one their median. n >= 3.
    """
    x = _frames(frames, 3).float()
    steps = [float(((b - a) ** 2).mean().sqrt()) for a, b in pairwise(x)]
    usual, last = float(np.median(steps)), float(((x[0] - x[-1]) ** 2).mean().sqrt())
    # A quarter of a level of eight bits: below it there is no step to compare with.
    least = 0.25 / 255
    return max(last, least) / max(usual, least)


def measure(frames: Tensor | NDArray[np.uint8], fps: float) -> dict[str, float]:
    """All figures of a clip by name, its motion looked for once: a third of the time of each alone.

    flicker, warping, occluded, difference, speed, loop_gap; n >= 3.
    """
    if not fps > 0:
        msg = f"fps: allowed above 0, received {fps:g}"
        raise ValueError(msg)
    x = _small(_frames(frames, 3))
    found = _measured(x)
    return {
        **found,
        "speed": found["speed"] * fps / x.shape[3],
        "difference": frame_difference(frames),
        "loop_gap": loop_gap(frames),
    }


def _measured(x: Tensor) -> dict[str, float]:
    """Flicker, warping, occluded, and speed in pixels a frame, of small frames (n, 3, h, w)."""
    errors, hidden, lengths, changes = [], [], [], []
    for start in range(0, len(x) - 1, BATCH):
        # One pair of the batch before comes again: its last frame has its neighbours in both.
        again = min(start, 1)
        part = x[start - again : min(start + BATCH, len(x) - 1) + 1]
        there, back = flow(part[:-1], part[1:]), flow(part[1:], part[:-1])
        error, unseen = _unexplained(part[again:-1], part[again + 1 :], there[again:], back[again:])
        errors.append(error)
        hidden.append(unseen)
        lengths.append(_lengths(there[again:]))
        if len(part) > 2:
            changes.append(_changes(part, there, back))
    return {
        "flicker": float(torch.cat(changes).mean()) if changes else 0.0,
        "warping": float(torch.cat(errors).mean()),
        "occluded": float(torch.cat(hidden).mean()),
        "speed": float(torch.cat(lengths).mean()),
    }


def _lengths(way: Tensor) -> Tensor:
    return way.norm(dim=1).mean(dim=(1, 2))


def _unexplained(a: Tensor, b: Tensor, there: Tensor, back: Tensor) -> tuple[Tensor, Tensor]:
    """Squared error of each pair (n,) where it may be judged, and the share where not (n,)."""
    seen = ~_occluded(there, _carry(back, there)) & _inside(there)
    few = seen.float().mean(dim=(1, 2), keepdim=True) < 0.1
    squared = ((a - _carry(b, there)) ** 2).sum(dim=1)
    used = (seen | few).float()
    error = (squared * used).sum(dim=(1, 2)) / used.sum(dim=(1, 2))
    return error, 1 - seen.float().mean(dim=(1, 2))


def _changes(x: Tensor, there: Tensor, back: Tensor) -> Tensor:
    """Mean change of light (n - 2,) of the frames inside, against both neighbours carried there."""
    before, after = back[:-1], there[1:]
    seen = (_inside(before) & _inside(after))[:, None].float()
    change = x[1:-1] - (_carry(x[:-2], before) + _carry(x[2:], after)) / 2
    weight = _cells(seen)
    cells = _cells(change * seen) / weight.clamp(min=1e-6)
    return (cells.abs() * weight).sum(dim=(1, 2)) / weight.sum(dim=(1, 2)).clamp(min=1e-6)


# Flow --------------------------------------------------------------------------------------------


def flow(a: Tensor, b: Tensor) -> Tensor:
    """Where each pixel of a went in b: (n, 3, h, w) twice -> (n, 2, h, w) pixels, right and down.

    Iterated Lucas-Kanade over a pyramid, all three channels in one structure tensor; windows of
    9 pixels. Motion of up to about a third of the picture is found where the top of the pyramid
    still shows what moved. Flat areas keep what the level above said.
    """
    if a.shape != b.shape or a.ndim != 4:
        msg = f"frames: expected two of (n, 3, h, w) alike, received {a.shape} and {b.shape}"
        raise ValueError(msg)
    levels = [(a.float(), b.float())]
    while min(levels[-1][0].shape[2:]) >= 2 * TOP:
        levels.append(tuple(_half(x) for x in levels[-1]))  # type: ignore[arg-type]
    found = torch.zeros(a.shape[0], 2, *levels[-1][0].shape[2:], dtype=torch.float32)
    for level, (first, second) in enumerate(reversed(levels)):
        if level:
            size = first.shape[2:]
            scale = torch.tensor([size[1] / found.shape[3], size[0] / found.shape[2]])
            found = F.interpolate(found, size=size, mode="bilinear", align_corners=False)
            found = found * scale[:, None, None]
        found = _refined(first, second, found)
    return found


def _refined(first: Tensor, second: Tensor, found: Tensor) -> Tensor:
    for _ in range(WARPS):
        carried = _carry(second, found)
        # Slopes of the mean of both: those of one alone fall short where the light differs.
        dx, dy = _slopes((first + carried) / 2)
        # The whole motion is solved for, not what is missing of it: neighbours then agree.
        dt = carried - first - dx * found[:, :1] - dy * found[:, 1:]
        seen = _inside(found)[:, None]
        xx, xy, yy, xt, yt = (
            _window((p * q).sum(dim=1, keepdim=True) * seen)
            for p, q in ((dx, dx), (dx, dy), (dy, dy), (dx, dt), (dy, dt))
        )
        xx, yy = xx + FLAT, yy + FLAT
        xt, yt = xt - FLAT * found[:, :1], yt - FLAT * found[:, 1:]
        low = xx * yy - xy * xy
        solved = torch.cat([xy * yt - yy * xt, xy * xt - xx * yt], dim=1) / low
        # One step may not leave the window that it was computed from.
        found = found + (solved - found).clamp(-REACH, REACH)
    # A window that straddles an edge speaks for neither side: the median drops the stray ones.
    return _median(found)


def _median(found: Tensor) -> Tensor:
    around = F.pad(found, (1, 1, 1, 1), mode="replicate").unfold(2, 3, 1).unfold(3, 3, 1)
    return around.flatten(4).median(dim=4).values


def _window(x: Tensor) -> Tensor:
    padded = F.pad(x, (REACH,) * 4, mode="replicate")
    return F.avg_pool2d(padded, 2 * REACH + 1, stride=1)


def _slopes(x: Tensor) -> tuple[Tensor, Tensor]:
    padded = F.pad(x, (1, 1, 1, 1), mode="replicate")
    return (
        (padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]) / 2,
        (padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]) / 2,
    )


def _half(x: Tensor) -> Tensor:
    size = [max(1, round(side / 2)) for side in x.shape[2:]]
    return F.interpolate(x, size=size, mode="bilinear", antialias=True, align_corners=False)


def _carry(x: Tensor, way: Tensor) -> Tensor:
    """x (n, c, h, w) looked up at each pixel plus way (n, 2, h, w); edges are repeated."""
    high, wide = x.shape[2:]
    across = torch.arange(wide, dtype=torch.float32) + way[:, 0]
    down = torch.arange(high, dtype=torch.float32)[:, None] + way[:, 1]
    grid = torch.stack([(2 * across + 1) / wide - 1, (2 * down + 1) / high - 1], dim=3)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _inside(way: Tensor) -> Tensor:
    """(n, h, w): whether a pixel is still in the picture after its way."""
    high, wide = way.shape[2:]
    across = torch.arange(wide) + way[:, 0]
    down = torch.arange(high)[:, None] + way[:, 1]
    edge = 0.05  # pixels; what stands still on the border is inside
    seen = (across >= -edge) & (across <= wide - 1 + edge)
    return seen & (down >= -edge) & (down <= high - 1 + edge)


def _occluded(there: Tensor, back: Tensor) -> Tensor:
    """(n, h, w): where going there and back ends elsewhere (Sundaram et al. 2010, eq. 5)."""
    gap = ((there + back) ** 2).sum(dim=1)
    return gap > 0.01 * ((there**2).sum(dim=1) + (back**2).sum(dim=1)) + 0.5


# Frames ------------------------------------------------------------------------------------------


def _frames(frames: Tensor | NDArray[np.uint8], least: int) -> Tensor:
    """(n, 3, h, w) float in 0..1, checked."""
    x = torch.from_numpy(np.ascontiguousarray(frames)) if isinstance(frames, np.ndarray) else frames
    if x.ndim == 4 and x.dtype == torch.uint8 and x.shape[3] == 3:
        x = x.permute(0, 3, 1, 2).float() / 255
    if x.ndim != 4 or x.shape[1] != 3 or not x.is_floating_point():
        kind = f"{tuple(x.shape)} {str(x.dtype).removeprefix('torch.')}"
        msg = f"frames: expected float (n, 3, h, w) or uint8 (n, h, w, 3), received {kind}"
        raise ValueError(msg)
    if x.shape[0] < least or min(x.shape[2:]) < CELLS:
        msg = (
            f"frames: at least {least} of {CELLS}x{CELLS} pixels needed, received "
            f"{x.shape[0]} of {x.shape[3]}x{x.shape[2]}; measure a longer clip"
        )
        raise ValueError(msg)
    return x.detach().cpu()


def _small(x: Tensor) -> Tensor:
    """No side above FLOW_SIDE."""
    scale = FLOW_SIDE / max(x.shape[2:])
    if scale >= 1:
        return x.float()
    size = [max(CELLS, round(side * scale)) for side in x.shape[2:]]
    parts = (
        F.interpolate(part.float(), size=size, mode="bilinear", antialias=True)
        for part in x.split(BATCH)
    )
    return torch.cat(list(parts))


def _cells(x: Tensor) -> Tensor:
    luma = x if x.shape[1] == 1 else (x * torch.tensor(LUMA)[:, None, None]).sum(1, keepdim=True)
    high = max(1, round(CELLS * x.shape[2] / x.shape[3]))
    return F.adaptive_avg_pool2d(luma, (high, CELLS))[:, 0]
