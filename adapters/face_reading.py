"""From seven faces to a reading of thirteen: what readers of faces make of the basic expressions.

The literature gives prototypes for anger, disgust, fear, happiness, sadness, surprise and contempt.
Emotions without one (excitement, amusement, contentment, love, awe, boredom) take part of the
probability of those that lie near in valence, arousal and dominance (`MAYBE`): a face that looks
happy may be amused, the reading says so and does not decide. Contempt is none of the twelve; it is
told as the disgust and anger that the lexicon says it is.

It deliberately knows no point, no curve and no network. numpy only.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from adapters.emotion import CORE, VAD
from adapters.reading import Reading
from adapters.vad import SD

Floats = NDArray[np.float64]

EXPRESSIONS: tuple[str, ...] = (
    "anger", "disgust", "fear", "happiness", "sadness", "surprise", "contempt",
)  # fmt: skip
"""Expressions with a published prototype (EMFACS; Du, Tao & Martinez 2014; Ekman for contempt)."""
CLASSES: tuple[str, ...] = ("neutral", *EXPRESSIONS)
CONTEMPT: dict[str, float] = {"disgust": 0.55, "anger": 0.45}
"""What contempt is among the twelve: the shares that the lexicon mixes (assets/emotions/words)."""
CONTEMPT_VAD = (-0.235, 0.31, 0.195)
"""Means of contempt and contemptuous, Russell & Mehrabian 1977."""
MAYBE_SHARE = 0.5
"""Most of the probability that emotions without a prototype can take together."""
OPEN = 0.12
"""Deviation of valence, arousal and dominance that an expression itself leaves open."""
FAINT_DOUBT = 0.1
"""Probability of not being neutral at which intensities count half: noise is no faint emotion."""

_SEEN = [CORE.index(name) for name in EXPRESSIONS[:-1]]
_UNSEEN = [k for k in range(len(CORE)) if k not in _SEEN]
POINTS: Floats = np.concatenate([VAD[_SEEN], [CONTEMPT_VAD]])
"""(7, 3) valence, arousal and dominance of each expression."""


def _maybe() -> Floats:
    out = np.zeros((len(CLASSES), 1 + len(CORE)))
    out[0, 0] = 1.0
    for row, k in enumerate(_SEEN, start=1):
        near = np.exp(-0.5 * (((VAD[_UNSEEN] - VAD[k]) / SD) ** 2).sum(axis=1))
        share = MAYBE_SHARE * near / (1 + near.sum())
        out[row, [1 + j for j in _UNSEEN]] = share
        out[row, 1 + k] = 1 - share.sum()
    out[-1] = told(np.eye(len(CORE) + 2)[-1])
    return out


def told(shares: Floats) -> Floats:
    """(..., 14) neutral, CORE and contempt -> (..., 13) with contempt told as what it is mixed of.

    Rows that sum to 1 still do.
    """
    out = np.array(shares[..., :-1], dtype=np.float64)
    for name, part in CONTEMPT.items():
        out[..., 1 + CORE.index(name)] += part * shares[..., -1]
    return out


MAYBE: Floats = _maybe()
"""(8, 13) how the probability of a class is shared among neutral and the twelve; rows sum to 1."""


def readings(
    classes: Floats, strength: Floats, familiarity: Sequence[float] | Floats, reader: str
) -> list[Reading]:
    """Make readings of probabilities (m, 8) of `CLASSES`, strengths (m, 7) and familiarity (m,).

    strength: how strong each expression would be, 0 none to 1 a strong real one; clipped.
    probabilities of the reading: the expected soft label, so neutral is what strengths leave.
    """
    seen = np.clip(strength, 0.0, 1.0)
    points = seen[:, :, None] * POINTS
    share = classes[:, 1:, None]
    mean = (share * points).sum(axis=1)
    spread = (share * (points - mean[:, None]) ** 2).sum(axis=1) + classes[:, :1] * mean**2
    spread += OPEN**2
    kind = (classes @ MAYBE)[:, 1:]
    expected = (classes[:, 1:] * seen) @ MAYBE[1:, 1:]
    p = np.column_stack([1 - expected.sum(axis=1), expected]).clip(0, 1)
    level = expected / np.maximum(kind, 1e-12)
    other = 1 - classes[:, :1]
    found = level * kind / np.maximum(kind.max(axis=1, keepdims=True), 1e-9)
    found *= other / (other + FAINT_DOUBT)
    return [
        Reading(tuple(a), tuple(b), tuple(c), tuple(d), float(k), reader)
        for a, b, c, d, k in zip(
            p.tolist(), found.tolist(), mean.tolist(), spread.tolist(), familiarity, strict=True
        )
    ]
