"""A reading: what a critic reports about one picture, clip or piece, as plain numbers.

Knows no model and no torch: pages, ledgers and reports can hold readings without either. A reading
says how a critic reads a work, never what a person feels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapters.emotion import CORE, VAD

LABELS: tuple[str, ...] = ("neutral", *CORE)
ABSTAIN = 0.01
"""Below this `in_domain`, fewer than 1 % of ordinary pictures are as unusual: do not trust it."""

FAINT = 0.25
"""Below this intensity an emotion is not named: a quarter of a strong real example."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How one critic reads one picture.

    probabilities: (13,), neutral then CORE, sum 1, temperature-scaled. intensities: (12,), 0..1,
    where 0 is a picture without the emotion and 1 a strong real example. vad_mean, vad_variance:
    (3,) on the scale of the Russell and Mehrabian means. in_domain: share of ordinary pictures at
    least as unusual, 0..1. reader: the critic's name.
    """

    probabilities: tuple[float, ...]
    intensities: tuple[float, ...]
    vad_mean: tuple[float, ...]
    vad_variance: tuple[float, ...]
    in_domain: float
    reader: str

    @property
    def dominant(self) -> str:
        """The strongest intensity's emotion; "neutral" when none reaches `FAINT`.

        Not the most probable one: probabilities keep the training pictures' base rates (half of
        every label is neutral, contentment and awe are common), intensities are scaled to them.
        """
        k = int(np.argmax(self.intensities))
        return CORE[k] if self.intensities[k] >= FAINT else "neutral"

    @property
    def abstains(self) -> bool:
        """True when the picture is unlike anything the critic was trained on."""
        return self.in_domain < ABSTAIN

    def to_json(self) -> dict[str, Any]:
        """Return plain numbers by name, rounded to four digits."""
        data = asdict(self)
        return {
            "reader": self.reader,
            "dominant": self.dominant,
            "probabilities": _named(LABELS, data["probabilities"]),
            "intensities": _named(CORE, data["intensities"]),
            "vad": _named(("valence", "arousal", "dominance"), data["vad_mean"]),
            "vad_variance": _named(("valence", "arousal", "dominance"), data["vad_variance"]),
            "in_domain": round(self.in_domain, 4),
        }


def soft_score(
    reading: Any,
    target: Sequence[float] | NDArray[np.floating[Any]],
    *,
    vad_weight: float = 0.05,
    intensity_weight: float = 0.25,
    doubt_weight: float = 0.1,
) -> Any:
    """R(x; a): how well a reading fits a soft label (13,), higher is better.

    For a Reading: -KL(q || p) - vad_weight |(v(a) - v) / s|^2 - intensity_weight |s - a|_1
    - doubt_weight * mean variance, with v(a) = M a. For a tensor of log probabilities (n, 13), as
    used in guidance: (n,) of sum_k q_k log p_k, which has the same maximum and keeps the gradient.
    Raises ValueError when target is not a distribution over 13.
    """
    q = np.asarray(target, dtype=float)
    if q.shape != (13,) or abs(q.sum() - 1) > 1e-3 or q.min() < -1e-6:
        msg = f"target must be 13 weights >= 0 that sum to 1, got {q.shape} with sum {q.sum():.3f}"
        raise ValueError(msg)
    if not isinstance(reading, Reading):
        return reading @ reading.new_tensor(q)
    p = np.maximum(np.array(reading.probabilities), 1e-6)
    divergence = float((q * np.log(np.maximum(q, 1e-12) / p)).sum())
    mean, variance = np.array(reading.vad_mean), np.array(reading.vad_variance)
    miss = float((((q[1:] @ VAD) - mean) ** 2 / (variance + 0.02)).sum())
    off = float(np.abs(np.array(reading.intensities) - q[1:]).sum())
    doubt = float(variance.mean())
    return -divergence - vad_weight * miss - intensity_weight * off - doubt_weight * doubt


def _named(names: Sequence[str], values: Sequence[float]) -> dict[str, float]:
    return {name: round(float(v), 4) for name, v in zip(names, values, strict=True)}
