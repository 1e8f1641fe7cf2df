"""What a face does, measured on its 478 points: heights, widths and gaps that muscles change.

Each measure stands for an action unit or two: brows that rise (1, 2) or knit (4), lids that open
(5) or tighten (7), cheeks (6), wings of the nose (9), the upper lip (10), corners of the mouth out
and up (12), down (15) or stretched (20), lips that thin (23, 24) or part (25, 26), the chin (17),
and how unlike the two sides are (14). The turn of the head is taken out first, by the affine map
that lays points of the skull over those of the same face at rest.

It deliberately knows no curves, no table of emotions and no renderer: only points of pictures.
numpy only. Units are distances between the eyes of the face at rest.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

POINTS = 478
STILL: tuple[int, ...] = (
    33, 133, 362, 263, 168, 6, 197, 195, 127, 356, 234, 454, 10, 109, 338, 54, 284,
)  # fmt: skip
"""Corners of the eyes, bridge of the nose, temples, top of the forehead: faces hardly move them."""
EYES = ((33, 133), (362, 263))  # corners; the picture's left eye first

# (left of the picture, right of the picture), each a mean of points
_BROW_INNER = ((55, 107), (285, 336))
_BROW_MIDDLE = ((52, 105), (282, 334))
_BROW_OUTER = ((46, 70), (276, 300))
_LID_ABOVE = ((158, 159, 160), (385, 386, 387))
_LID_BELOW = ((144, 145, 153), (373, 374, 380))
_CHEEK = ((118, 50), (347, 280))
_WING = ((129, 98), (358, 327))
_LIP_SIDE = ((37, 39), (267, 269))
_CORNER = ((61,), (291,))
_BOTH = {
    "brow_inner": _BROW_INNER, "brow_middle": _BROW_MIDDLE, "brow_outer": _BROW_OUTER,
    "lid_above": _LID_ABOVE, "lid_below": _LID_BELOW, "cheek": _CHEEK, "wing": _WING,
    "lip_side": _LIP_SIDE, "corner": _CORNER,
}  # fmt: skip
_NOSE = (2, 94)  # the foot of the nose: heads that nod carry it along with the mouth
_BELOW = ("wing", "lip_side", "corner")
_UP, _ACROSS = 1, 0

MEASURES: tuple[str, ...] = (
    *_BOTH, "brow_width", "brow_tilt", "wing_width", "corner_width", "curve", "gap", "upper_lip",
    "upper_red", "lower_red", "lower_lip", "chin_boss", "chin", "aperture",
)  # fmt: skip
"""Names of the columns of `measures`: heights are upwards, from the eyes, and from the foot of the
nose for what lies at it or below."""
UNEVEN: tuple[str, ...] = ("brow_outer", "lid_below", "lip_side", "corner", "corner_width")
"""What is told of the two sides apart."""
TELLING: tuple[str, ...] = ("curve", "gap", "corner_width")
"""Measures of the face at rest that tell whether it smiles there."""
FEATURES: tuple[str, ...] = (
    *MEASURES, *(f"uneven_{name}" for name in UNEVEN), *(f"rest_{name}" for name in TELLING),
)  # fmt: skip
"""Names of the columns of `features`."""


class GeometryError(ValueError):
    """Points that cannot be measured; one line that says what would do."""


@dataclass(frozen=True)
class Landmarks:
    """A face over time, as a mesh saw it in pictures.

    frames: (T, 478, 2) pixels, x right and y down. rest: (478, 2) pixels of the same person's face
    in the source. Points are MediaPipe's, in its order.
    """

    frames: Floats
    rest: Floats

    def __post_init__(self) -> None:
        """Check shapes and make them float64."""
        frames = np.asarray(self.frames, dtype=np.float64)
        rest = np.asarray(self.rest, dtype=np.float64)
        if frames.ndim == 2:
            frames = frames[None]
        wanted = frames.ndim == 3 and frames.shape[1:] == (POINTS, 2) and len(frames) > 0
        if not wanted or rest.shape != (POINTS, 2):
            msg = (
                f"landmarks: frames (T, {POINTS}, 2) and rest ({POINTS}, 2) are needed, received "
                f"{np.shape(self.frames)} and {np.shape(self.rest)}; leave out what has no face"
            )
            raise GeometryError(msg)
        if not (np.isfinite(frames).all() and np.isfinite(rest).all()):
            msg = "landmarks: hold values that are no finite numbers; measure the frames again"
            raise GeometryError(msg)
        left, right = (rest[list(eye)].mean(axis=0) for eye in EYES)
        if np.hypot(*(right - left)) < 1.0:
            msg = "landmarks: the eyes at rest are less than a pixel apart; use a larger face"
            raise GeometryError(msg)
        object.__setattr__(self, "frames", frames)
        object.__setattr__(self, "rest", rest)

    def __len__(self) -> int:
        return len(self.frames)


def upright(rest: ArrayLike) -> Floats:
    """Points (..., 478, 2) in pixels -> in eye distances: eyes level at y = 0, y UP."""
    p = np.asarray(rest, dtype=np.float64)
    left, right = (p[..., list(eye), :].mean(axis=-2) for eye in EYES)
    across = right - left
    size = np.hypot(across[..., 0], across[..., 1])[..., None]
    across = across / size
    moved = (p - ((left + right) / 2)[..., None, :]) / size[..., None]
    x = (moved * across[..., None, :]).sum(axis=-1)
    y = moved[..., 0] * across[..., None, 1] - moved[..., 1] * across[..., None, 0]
    return np.stack([x, y], axis=-1)


def aligned(frames: ArrayLike, rest: ArrayLike) -> tuple[Floats, Floats]:
    """Frames (..., 478, 2) laid over the upright rest (..., 478, 2) by the points of the skull.

    Returns both in eye distances, y up. Leading sizes broadcast.
    """
    base = upright(rest)
    moved = upright(frames)
    where = list(STILL)
    base = np.broadcast_to(base, moved.shape)
    known = np.concatenate([moved[..., where, :], np.ones((*moved.shape[:-2], len(where), 1))], -1)
    weight = np.swapaxes(known, -1, -2)
    solved = np.linalg.solve(weight @ known + 1e-9 * np.eye(3), weight @ base[..., where, :])
    return moved @ solved[..., :2, :] + solved[..., 2:, :], base


def _mean(points: Floats, at: tuple[int, ...], axis: int) -> Floats:
    return np.asarray(points[..., list(at), axis].mean(axis=-1))


def _sides(points: Floats, name: str, axis: int = _UP) -> tuple[Floats, Floats]:
    left, right = _BOTH[name]
    return _mean(points, left, axis), _mean(points, right, axis)


def measures(points: ArrayLike) -> Floats:
    """Upright points (..., 478, 2) -> (..., len(MEASURES)), both sides together."""
    p = np.asarray(points, dtype=np.float64)
    foot = _mean(p, _NOSE, _UP)
    found = {name: sum(_sides(p, name)) / 2 - foot * (name in _BELOW) for name in _BOTH}
    for name, source in (("brow", "brow_inner"), ("wing", "wing"), ("corner", "corner")):
        left, right = _sides(p, source, _ACROSS)
        found[f"{name}_width"] = right - left
    y = p[..., _UP]
    found["brow_tilt"] = found["brow_inner"] - found["brow_outer"]
    found["curve"] = found["corner"] + foot - (y[..., 0] + y[..., 17]) / 2
    found["gap"] = y[..., 13] - y[..., 14]
    found["upper_lip"] = y[..., 0] - foot
    found["upper_red"] = y[..., 0] - y[..., 13]
    found["lower_red"] = y[..., 14] - y[..., 17]
    found["lower_lip"] = y[..., 17] - foot
    found["chin_boss"] = y[..., 199] - y[..., 17]
    found["chin"] = y[..., 152] - foot
    found["aperture"] = found["lid_above"] - found["lid_below"]
    return np.stack([found[name] for name in MEASURES], axis=-1)


def _uneven(points: Floats) -> Floats:
    """(..., len(UNEVEN)) left less right of what `UNEVEN` names."""
    rows = []
    for name in UNEVEN:
        if name == "corner_width":
            left, right = _sides(points, "corner", _ACROSS)
            rows.append(2 * _mean(points, _NOSE, _ACROSS) - left - right)  # how far out each lies
        else:
            left, right = _sides(points, name)
            rows.append(left - right)
    return np.stack(rows, axis=-1)


def features(frames: ArrayLike, rest: ArrayLike) -> Floats:
    """Frames (..., 478, 2) and the rest (..., 478, 2), pixels -> (..., len(FEATURES)).

    First what changed against the face at rest, then how unevenly the sides changed (which side is
    no matter), then what the face at rest is like.
    """
    now, base = aligned(frames, rest)
    at_rest = measures(base)
    moved = measures(now) - at_rest
    uneven = np.abs(_uneven(now) - _uneven(base))
    telling = at_rest[..., [MEASURES.index(name) for name in TELLING]]
    return np.concatenate([moved, uneven, telling], axis=-1)


def blinking(frames: ArrayLike, rest: ArrayLike) -> NDArray[np.bool_]:
    """(T,) True where the lids are less than half as far apart as at rest."""
    now, base = aligned(frames, rest)
    place = MEASURES.index("aperture")
    return np.asarray(measures(now)[..., place] < 0.5 * measures(base)[..., place])


def drift(landmarks: Landmarks) -> Floats:
    """(T,) how far the skull's own points lie from those at rest once the head's turn is out.

    Root mean square in eye distances: 0 is the same head at rest. A mesh moves its skull with the
    face, by some .02; two of our drawn people differ by .01 to .05. Large is wrong, small proves
    little.
    """
    now, base = aligned(landmarks.frames, landmarks.rest)
    away = now[:, list(STILL)] - base[:, list(STILL)]
    return np.asarray(np.sqrt((away**2).sum(axis=-1).mean(axis=-1)))
