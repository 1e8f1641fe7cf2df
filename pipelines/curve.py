"""Valence and arousal over time: what was asked for, or what a reader read.

It deliberately knows neither who read nor how a curve is drawn (pipelines.drawing). numpy only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, slots=True)
class Curve:
    """Valence and arousal over time: times (n,) in seconds, the others (n,) in -1..1 or nan."""

    times: NDArray[np.float64]
    valence: NDArray[np.float64]
    arousal: NDArray[np.float64]

    @classmethod
    def of(cls, times: ArrayLike, valence: ArrayLike, arousal: ArrayLike) -> Curve:
        """Build one from anything that is like three arrays of one length."""
        return cls(
            *(np.asarray(values, dtype=np.float64).ravel() for values in (times, valence, arousal))
        )
