"""Light and dark of a moving skin: folds that a warp alone cannot make.

A smile without the fold beside the nose, or anger without the furrows between the brows, looks
like a bent photograph. Each fold is a soft dark line with a lighter ridge, drawn once over the
face; a frame multiplies the skin by their weighted sum. Only skin is shaded: hair and glasses are
told by their colour. Strengths are a matter of taste, settled on contact sheets.
"""

from __future__ import annotations

import numpy as np

from adapters.face_motion import ARKIT
from pipelines.portrait_field import Frame

__all__ = ["SHADE_GRID", "fold_maps", "fold_weights", "skin_map"]

SHADE_GRID = 256

# fold -> the channels that deepen it
_CAUSES = {
    "nasolabial": {"mouthSmile": 1.0, "noseSneer": 0.55, "mouthUpperUp": 0.4, "cheekSquint": 0.25},
    "glabella": {"browDown": 1.0, "noseSneer": 0.3},
    "sockets": {"browDown": 0.9, "eyeSquint": 0.25},
    "bridge": {"noseSneer": 1.0},
    "crow": {"cheekSquint": 0.9, "eyeSquint": 0.4, "mouthSmile": 0.25},
    "bag": {"cheekSquint": 0.8, "eyeSquint": 0.5},
    "cheek": {"mouthSmile": 0.8, "cheekSquint": 0.5},
    "marionette": {"mouthFrown": 1.0},
    "dimple": {"mouthDimple": 1.0},
}
_MIDDLE = {
    "forehead": {"browInnerUp": 0.7, "browOuterUpLeft": 0.4, "browOuterUpRight": 0.4},
    "inner_forehead": {"browInnerUp": 0.6},
    "chin": {"mouthShrugLower": 1.0, "mouthPressLeft": 0.3, "mouthPressRight": 0.3},
    "under_lip": {"mouthShrugLower": 0.6, "mouthPucker": 0.5, "mouthRollLower": 0.5},
}
_SIDES = ("Left", "Right")
_NAMES = [*(f"{name}{side}" for name in _CAUSES for side in _SIDES), *_MIDDLE]


def fold_weights() -> np.ndarray:
    """(52, M) what each channel adds to each fold."""
    out = np.zeros((len(ARKIT), len(_NAMES)), np.float32)
    for name, causes in _CAUSES.items():
        for side in _SIDES:
            for channel, share in causes.items():
                out[ARKIT.index(channel + side), _NAMES.index(name + side)] = share
    for name, causes in _MIDDLE.items():
        for channel, share in causes.items():
            out[ARKIT.index(channel), _NAMES.index(name)] = share
    return out


def fold_maps(frame: Frame, skin: np.ndarray) -> np.ndarray:
    """(M, SHADE_GRID ** 2) float32 darkening (negative) and lightening of each fold at 1.

    skin: (SHADE_GRID, SHADE_GRID) 0..1, where the photo shows skin.
    """
    cells = (np.arange(SHADE_GRID) + 0.5) * frame.size / SHADE_GRID
    x, y = np.meshgrid(cells, cells)
    p = frame.points.astype(np.float64)
    unit = frame.unit
    maps = {name: np.zeros_like(x) for name in _NAMES}

    def line(path: list[np.ndarray], width: float, ridge: np.ndarray | None = None) -> np.ndarray:
        """Dark along the path, lighter to the side that `ridge` points to; widths in units."""
        d, signed, along = _distance(x, y, np.array(path), ridge)
        taper = np.sin(np.pi * np.clip(along, 0.02, 0.98)) ** 0.5
        dark = np.exp(-((d / (width * unit)) ** 2)) * taper
        if ridge is None:
            return -dark
        light = np.exp(-(((signed / (width * unit)) - 2.0) ** 2) / 1.5) * taper
        return -dark + 0.25 * light * np.exp(-((d / (4 * width * unit)) ** 2))

    def blob(at: np.ndarray, wide: float, high: float) -> np.ndarray:
        u, v = frame.local(x, y, at)
        return np.exp(-((u / wide) ** 2) - (v / high) ** 2)

    for side, sign in (("Left", 1), ("Right", -1)):
        nose, fold = (
            (p[358], [p[423], p[426], p[436]]) if sign > 0 else (p[129], [p[203], p[206], p[216]])
        )
        outer, inner = (p[263], p[285]) if sign > 0 else (p[33], p[55])
        cheek, corner = (p[425], p[291]) if sign > 0 else (p[205], p[61])
        away = sign * frame.across
        maps["nasolabial" + side] = 0.24 * line([nose, *fold], 0.05, away)
        maps["glabella" + side] = 0.27 * line(
            [frame.at(sign * 0.085, h) for h in (0.20, 0.32, 0.44)], 0.032, away
        )
        maps["sockets" + side] = -0.20 * blob((inner + p[386 if sign > 0 else 159]) / 2, 0.24, 0.12)
        maps["bridge" + side] = sum(
            0.26 * line([frame.at(sign * 0.03, h), frame.at(sign * 0.13, h + 0.05)], 0.024,
                        -frame.down)
            for h in (-0.02, -0.12)
        )  # fmt: skip
        for lift in (0.09, 0.0, -0.09):
            end = outer + unit * (sign * 0.26 * frame.across - lift * frame.down)
            start = outer + unit * (sign * 0.09 * frame.across - 0.3 * lift * frame.down)
            maps["crow" + side] += 0.16 * line([start, end], 0.018)
        under = [p[i] + 0.05 * unit * frame.down for i in
                 ((453, 451, 449, 446) if sign > 0 else (233, 231, 229, 226))]  # fmt: skip
        maps["bag" + side] = 0.17 * line(under, 0.03, frame.down)
        maps["cheek" + side] = 0.13 * blob(cheek + 0.12 * unit * (away - frame.down), 0.24, 0.17)
        low = corner + unit * (0.05 * away + 0.05 * frame.down)
        end = low + unit * (0.06 * away + 0.2 * frame.down)
        maps["marionette" + side] = 0.24 * line([low, end],
                                                0.035, away)  # fmt: skip
        maps["dimple" + side] = -0.26 * blob(corner + 0.09 * unit * away, 0.035, 0.11)
    for height in (0.60, 0.71, 0.83):
        path = [frame.at(r, height - 0.06 * r**2) for r in (-0.62, -0.35, 0.0, 0.35, 0.62)]
        maps["forehead"] += 0.20 * line(path, 0.026, frame.down)
        path = [frame.at(r, height - 0.02 - 0.35 * r**2) for r in (-0.32, -0.16, 0.0, 0.16, 0.32)]
        maps["inner_forehead"] += 0.14 * line(path, 0.026, frame.down)
    chin = p[200]
    maps["chin"] = -0.16 * blob(chin, 0.20, 0.035) + 0.08 * blob(p[199], 0.16, 0.08)
    maps["under_lip"] = -0.20 * blob((p[18] + p[17]) / 2, 0.26, 0.05)
    stack = np.stack([maps[name] * skin for name in _NAMES])
    return np.ascontiguousarray(stack.reshape(len(_NAMES), -1), dtype=np.float32)


def skin_map(frame: Frame, picture: np.ndarray) -> np.ndarray:
    """(SHADE_GRID, SHADE_GRID) 0..1: how much each place has the colour of the cheeks and brow."""
    step = np.clip(((np.arange(SHADE_GRID) + 0.5) * frame.size / SHADE_GRID).astype(int), 0,
                   frame.size - 1)  # fmt: skip
    small = picture[np.ix_(step, step)]
    p = np.clip(frame.points.astype(int), 0, frame.size - 1)
    tones = np.array([picture[p[i, 1], p[i, 0]] for i in (50, 280, 205, 425, 151, 4, 118, 347)])
    middle = np.median(tones, axis=0)
    chroma = small / small.sum(-1, keepdims=True).clip(0.05)
    of_skin = middle / max(middle.sum(), 0.05)
    far = np.linalg.norm(chroma - of_skin, axis=-1) / 0.07
    dim = np.log(small.sum(-1).clip(0.03) / max(middle.sum(), 0.03)) / 0.75
    return np.asarray(np.exp(-(far**2) - dim**2).clip(0, 1) ** 0.7)


def _distance(
    x: np.ndarray, y: np.ndarray, path: np.ndarray, side: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distance to a polyline, the same signed towards `side`, and how far along it (0..1)."""
    best = np.full(x.shape, np.inf)
    signed, along = np.zeros_like(x), np.zeros_like(x)
    lengths = np.linalg.norm(np.diff(path, axis=0), axis=1)
    total, done = lengths.sum(), 0.0
    for a, b, length in zip(path[:-1], path[1:], lengths, strict=True):
        e = (b - a) / max(length, 1e-6)
        t = np.clip((x - a[0]) * e[0] + (y - a[1]) * e[1], 0, length)
        dx, dy = x - a[0] - t * e[0], y - a[1] - t * e[1]
        d = np.hypot(dx, dy)
        closer = d < best
        best = np.where(closer, d, best)
        along = np.where(closer, (done + t) / total, along)
        if side is not None:
            signed = np.where(closer, dx * side[0] + dy * side[1], signed)
        done += length
    return best, signed, along
