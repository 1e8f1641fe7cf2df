"""What a photo's own expression is, and how to take it back.

Motion is meant for a face at rest. A face that smiles already would smile under anger and a mouth
that stands open would never close on a p, so the smile and the gap of the lips are measured on the
mesh and subtracted again, as far as the wanted expression asks for it: a face at rest keeps what
the photo shows. Knows no pixels. numpy only.
"""

from __future__ import annotations

import numpy as np

from adapters.face_motion import ARKIT
from pipelines.face_mesh import template
from pipelines.portrait_basis import LOWER_LIP, UPPER_LIP, basis
from pipelines.portrait_field import Frame

__all__ = [
    "FROM_ABOVE", "LEVEL", "closing", "level_of", "lip_gap", "shares", "smile_of", "smoothed",
]  # fmt: skip

FROM_ABOVE = 0.2
"""Share of the gap between the lips that the upper one closes: jaws open mouths. With half of it
the upper lip of a photo that smiles grows long and hides the teeth when it opens again."""

LEVEL, _APART = 0.6, 0.1
"""Share of `smile_of` that leaves a level mouth where the photo's lips stand a tenth of an eye
distance apart. It is measured with them apart, and closing them lifts the lower one: with all of it
the corners hang. That suits anger and sadness, but who talks or raises a brow is not sad."""

_EDGE = 0.026  # eye distances

_AGAINST = {
    "browDown": 0.8, "mouthFrown": 1.6, "noseSneer": 0.8, "mouthPress": 0.8, "mouthStretch": 0.9,
    "eyeWide": 0.35,
}  # fmt: skip
_AGAINST_MIDDLE = {
    "browInnerUp": 0.7, "mouthShrugLower": 0.8, "mouthPucker": 0.8, "mouthFunnel": 0.5,
}  # fmt: skip
"""How strongly a channel asks for the smile of the photo to go; our choice. The second group, which
words have too, asks for a level mouth and no more."""
_SPEECH = (
    "jawOpen", "mouthClose", "mouthFunnel", "mouthPucker", "mouthLowerDown", "mouthRollLower",
    "mouthRollUpper", "mouthPress", "mouthUpperUp", "mouthShrugUpper", "mouthStretch",
)  # fmt: skip


def smile_of(frame: Frame) -> float:
    """0..1.3 how much the photo smiles: corners above the middle of the lips, in mouthSmile."""
    points = template()[:, 1]
    rest = (points[61] + points[291]) / 2 - (points[0] + points[17]) / 2
    p = frame.points
    corners, middle = (p[61] + p[291]) / 2, (p[0] + p[17]) / 2
    height = float((middle - corners) @ frame.down) / frame.unit
    moves = basis()[[ARKIT.index("mouthSmileLeft"), ARKIT.index("mouthSmileRight")], :, 1].sum(0)
    full = (moves[61] + moves[291]) / 2 - (moves[0] + moves[17]) / 2
    # what faces at rest differ by is no smile; a broad grin is more than mouthSmile 1
    return float(np.clip((height - rest) / full - 0.15, 0, 1.3))


def lip_gap(frame: Frame) -> float:
    """Distance of the inner lips in eye distances."""
    p = frame.points
    return float((p[14] - p[13]) @ frame.down) / frame.unit


def level_of(frame: Frame) -> float:
    """`LEVEL`..1, the share of the photo's smile that may go before its mouth hangs."""
    return 1 - (1 - LEVEL) * float(np.clip(lip_gap(frame) / _APART, 0, 1))


def closing(frame: Frame) -> np.ndarray:
    """(478, 2) pixels that bring the inner lips together, `FROM_ABOVE` by the upper one."""
    p = frame.points.astype(np.float64)
    out = np.zeros((len(p), 2))
    if lip_gap(frame) < 0.03:
        return out
    places, moves = [], []
    upper, lower = UPPER_LIP[0], LOWER_LIP[0]
    for a, b in zip(upper[1:-1], lower[1:-1], strict=True):
        gap = max(float((p[b] - p[a]) @ frame.down), 0.0)
        # the edges of lips that stand apart are cut off the layers (portrait_mouth.masks)
        gap = (gap + min(_EDGE * frame.unit, 0.5 * gap)) * frame.down
        for index, share in ((a, FROM_ABOVE), (b, FROM_ABOVE - 1)):
            places.append(index)
            moves.append(share * gap)
    rings = {0: UPPER_LIP[1], 1: LOWER_LIP[1]}
    anchors, values = p[places], np.array(moves)
    above = np.arange(len(places)) % 2 == 0
    middle = (p[list(upper[1:-1])].mean(0) + p[list(lower[1:-1])].mean(0)) / 2
    for i in range(468):
        high = (p[i] - middle) @ frame.down < 0
        if i in (*upper, *rings[0]):
            high = True
        if i in (*lower[1:-1], *rings[1][1:-1]):
            high = False
        mine = anchors[above == high]
        distance = np.linalg.norm(mine - p[i], axis=1)
        weight = np.exp(-((distance / (0.12 * frame.unit)) ** 2)) + 1e-9
        fade = np.exp(-((distance.min() / (0.42 * frame.unit)) ** 2))
        out[i] = fade * (weight[:, None] * values[above == high]).sum(0) / weight.sum()
    out[list(upper[::10])] = 0
    out[places] = moves
    return out


def shares(curves: np.ndarray, level: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """(T,) how much of the photo's smile, and of its open lips, curves (T, 52) ask to take back.

    level: of the smile, what words alone may take.
    """

    def of(name: str) -> np.ndarray:
        if name in ARKIT:
            return np.asarray(curves[:, ARKIT.index(name)])
        both = curves[:, [ARKIT.index(name + "Left"), ARKIT.index(name + "Right")]]
        return np.asarray(both.max(1))

    against = sum(w * of(name) for name, w in _AGAINST.items())
    middle = sum(w * of(name) for name, w in _AGAINST_MIDDLE.items())
    # brows that rise alone are an accent of speech; with the lids it is fright or surprise
    against = against + 3.0 * np.minimum(of("browInnerUp"), of("eyeWide"))
    smiling = of("mouthSmile")
    # one-sided smiles (contempt) are no smiles: the lower side counts
    even = curves[:, [ARKIT.index("mouthSmileLeft"), ARKIT.index("mouthSmileRight")]].min(1)
    contempt = (smiling - even) + of("mouthDimple")
    asked = (against + 1.5 * contempt) / 0.55 + np.minimum(middle / 0.55, level)
    smile = np.clip(asked, 0, 1) * (1 - np.clip(even / 0.5, 0, 1))
    speech = np.clip(sum(of(name) for name in _SPEECH) / 0.18, 0, 1)
    keep = np.clip(even / 0.5, 0, 1) * (1 - np.clip(of("jawOpen") / 0.05, 0, 1))
    gap = np.maximum(speech, smile) * (1 - keep)
    return np.asarray(smile, np.float32), np.asarray(gap, np.float32)


def smoothed(share: np.ndarray, fps: float, most: float = 1.0) -> np.ndarray:
    """The share (T,) held half a second around each need, eased: lips rest shut between words.

    most: how much of it is held; beyond that it is only eased.
    """
    reach = max(1, round(0.5 * fps))
    padded = np.pad(share, reach, mode="edge")
    held = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1).max(-1)
    ease = np.hanning(reach + 2)[1:-1] if reach > 1 else np.ones(1)
    ease /= ease.sum()

    def eased(row: np.ndarray) -> np.ndarray:
        wide = np.pad(row, (len(ease) // 2, len(ease) - 1 - len(ease) // 2), mode="edge")
        return np.asarray(np.convolve(wide, ease, "valid"))

    return np.maximum(eased(np.minimum(held, most)), eased(share)).astype(np.float32)
