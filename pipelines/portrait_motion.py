"""stub, grown below"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from adapters import facs

Floats = NDArray[np.float64]


def intended(contractions: ArrayLike, track: ArrayLike, speaking: ArrayLike) -> Floats:
    """(T, 55) what muscles (T, U) and the posture of a track (T, 12) would draw by themselves.

    speaking: (T,) 0..1; where somebody speaks the mouth makes way for words.
    """
    curves, pose = facs.expression(contractions)
    return np.concatenate([facs.spoken(curves, speaking), pose + facs.posture(track)], axis=1)
