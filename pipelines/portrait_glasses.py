"""Glasses: found by their bridge, taken off the skin, laid over it again.

A frame painted on the face bends with every brow. Where a dark bar crosses the nose between the
eyes, the dark pixels that hang together with it are the frame; the skin under them is filled from
beside, and the frame rides on the head alone. Thin metal and rimless glasses are not found and
move with the skin. Knows nothing about motion.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from pipelines.portrait_eyes import EYES, continued
from pipelines.portrait_field import Frame

__all__ = ["frame_of_glasses", "without"]

_DARK = 0.62  # of the skin's brightness: what is darker may be a frame
_SKIN = 0.92  # of the lightest nearby: darker is hair, a lash or a shadow of the frame
_ROUNDS = 400  # pixels the search may run along the frame


def frame_of_glasses(frame: Frame, picture: np.ndarray) -> np.ndarray | None:
    """(S, S) float32, 1 where a frame of glasses lies, or None.

    picture: (S, S, 3) float32 0..1.
    """
    size = frame.size
    grey = picture.mean(2)
    y, x = np.mgrid[0:size, 0:size] + 0.5
    middle = (frame.points[468] + frame.points[473]) / 2
    u, v = frame.local(x, y, middle)
    p = np.clip(frame.points.astype(int), 0, size - 1)
    skin = float(np.median([grey[p[i, 1], p[i, 0]] for i in (50, 280, 205, 425, 4, 195)]))
    dark = (grey < _DARK * skin) & (np.abs(u) < 1.25) & (v > -0.42) & (v < 0.62)
    for upper, lower, iris, _ in EYES.values():  # pupils and lashes are dark as well
        ring = frame.points[list({*upper, *lower})]
        centre = ring.mean(0)
        half = np.linalg.norm(ring - centre, axis=1).max()
        a, b = frame.local(x, y, centre)
        reach = half / frame.unit
        dark &= (a / (1.25 * reach)) ** 2 + (b / (0.78 * reach)) ** 2 > 1
        del iris
    bar = dark & (np.abs(u) < 0.10) & (v > -0.30) & (v < 0.35)
    # a bridge is dark over the whole width between the eyes at one height; folds are not
    rows = np.flatnonzero(bar.any(1))
    if len(rows) == 0 or len(np.unique(np.round(u[bar] * 20))) < 4:
        return None
    found = _connected(dark, bar)
    left, right = found & (u < -0.3) & (v > 0.12), found & (u > 0.3) & (v > 0.12)
    if min(left.sum(), right.sum()) < 0.004 * frame.unit**2 * 4:
        return None  # no rim under the eyes: a brow or a fold
    mask = torch.from_numpy(found.astype(np.float32))[None, None]
    reach = 2 * max(1, round(0.022 * frame.unit)) + 1
    return functional.max_pool2d(mask, reach, 1, reach // 2)[0, 0].numpy()


def without(
    frame: Frame, picture: np.ndarray, glasses: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The picture (S, S, 3) with the frame filled from beside; alpha (S, S) to lay it over again.

    The alpha is 1 wherever the picture was changed, so that both together are the picture.
    """
    rows, columns = (np.flatnonzero(glasses.any(axis)) for axis in (1, 0))
    far = round(0.15 * frame.unit) + 2
    part = np.s_[
        max(rows[0] - far, 0) : rows[-1] + far, max(columns[0] - far, 0) : columns[-1] + far
    ]
    bare = picture.copy()
    # only skin fills the gap: hairs of the brows beside the frame would leave blots that move
    around = picture[part]
    lightest = functional.max_pool2d(
        torch.from_numpy(around.mean(2))[None, None], 2 * (far // 2) + 1, 1, far // 2
    )[0, 0].numpy()
    skin = (glasses[part] == 0) & (around.mean(2) > _SKIN * lightest)
    filled = continued(around, skin.astype(np.float64), frame.unit, (0.02, 0.05, 0.1))
    bare[part] += glasses[part][..., None] * (filled - picture[part])
    wide = functional.max_pool2d(torch.from_numpy(glasses)[None, None], 3, 1, 1)
    alpha = functional.avg_pool2d(wide, 3, 1, 1)[0, 0].numpy()
    return np.asarray(bare, np.float32), np.where(glasses > 0, np.float32(1), alpha)


def _connected(allowed: np.ndarray, seed: np.ndarray) -> np.ndarray:
    """Pixels of `allowed` that hang together with `seed`."""
    rows, columns = (np.flatnonzero(allowed.any(axis)) for axis in (1, 0))
    part = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    out = np.zeros_like(allowed)
    allowed, seed = allowed[part], seed[part]
    inside = torch.from_numpy(allowed.astype(np.float32))[None, None]
    grown = torch.from_numpy((seed & allowed).astype(np.float32))[None, None]
    count = -1.0
    for _ in range(_ROUNDS):
        grown = functional.max_pool2d(grown, 3, 1, 1) * inside
        total = float(grown.sum())
        if total == count:
            break
        count = total
    out[part] = grown[0, 0].numpy() > 0
    return out
