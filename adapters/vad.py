"""Geometry of the emotion state: VAD points, the simplex, and the way between them.

A VAD point (valence, arousal, dominance, each -1..1) is read as a mixture of at most three anchors
by non-negative matching pursuit in units of the raters' standard deviation. Plain non-negative
least squares was rejected: it reaches the point but with mixtures nobody can read ("depressed"
became .73 boredom + .27 fear). This file knows neither the core emotions nor any text form.

Source: Russell & Mehrabian 1977 for the scale; the pursuit and its stop rules are this project's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

# Medians and means of the published per-term standard deviations (V, A, D).
SD: Array = np.array([0.25, 0.33, 0.33])
# A residual shorter than this many SD is below what two raters disagree by: stop.
CLOSE_ENOUGH = 0.35
# An anchor that removes less than this share of the residual makes the mixture longer, not better.
LEAST_GAIN = 0.40
MOST_ANCHORS = 3


def solve(vad: ArrayLike, anchors: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Mixture of at most three anchors that comes near a VAD point.

    vad: 3 numbers, -1..1. anchors: name -> its VAD point. Returns name -> weight, weights > 0, sum
    <= 1, in the order of choice; empty for a point near the origin. What stays unexplained is
    ``vad - sum(weight * anchor)`` and is the caller's to keep.
    """
    point = np.asarray(vad, dtype=np.float64)
    if point.shape != (3,) or not np.isfinite(point).all():
        msg = f"vad: expected three finite numbers (valence, arousal, dominance), received {vad!r}"
        raise ValueError(msg)
    names = list(anchors)
    table = (np.array([anchors[name] for name in names], dtype=np.float64).reshape(-1, 3) / SD).T
    goal = point / SD
    chosen: list[int] = []
    weights: Array = np.zeros(0)
    left = float(np.linalg.norm(goal))
    while len(chosen) < min(MOST_ANCHORS, len(names)) and left >= CLOSE_ENOUGH:
        trials = [
            (*_fit(table[:, [*chosen, j]], goal), j) for j in range(len(names)) if j not in chosen
        ]
        next_left, next_weights, j = min(trials, key=lambda trial: trial[0])
        if next_left > left * (1.0 - LEAST_GAIN):
            break
        chosen.append(j)
        weights, left = next_weights, next_left
    return {names[j]: float(w) for j, w in zip(chosen, weights, strict=True) if w > 1e-9}


def _fit(columns: Array, goal: Array) -> tuple[float, Array]:
    """Least squares with weights >= 0 and sum <= 1, exact: every active set of <= 3 is tried."""
    k = columns.shape[1]
    best, best_weights = float(np.linalg.norm(goal)), np.zeros(k)
    subsets = (s for n in range(1, k + 1) for s in combinations(range(k), n))
    for subset in subsets:
        part = columns[:, list(subset)]
        n = len(subset)
        free = np.linalg.lstsq(part, goal, rcond=None)[0]
        if free.sum() > 1.0:  # the sum constraint is active: solve with its Lagrange multiplier
            system = np.ones((n + 1, n + 1))
            system[:n, :n] = part.T @ part
            system[n, n] = 0.0
            free = np.linalg.lstsq(system, np.append(part.T @ goal, 1.0), rcond=None)[0][:n]
        if (free < 0.0).any():
            continue
        left = float(np.linalg.norm(part @ free - goal))
        if left < best - 1e-12:
            best, best_weights = left, np.zeros(k)
            best_weights[list(subset)] = free
    return best, best_weights


def project(a: ArrayLike, cap: float = 1.0) -> Array:
    """Nearest point of {a >= 0, sum(a) <= cap}, row by row.

    a: (..., K) intensities. cap: largest sum, > 0. Returns float64 of the same shape; rows already
    inside come back unchanged. Source: Duchi et al. 2008, projection onto the simplex.
    """
    rows = np.asarray(a, dtype=np.float64)
    out: Array = np.maximum(rows, 0.0)
    flat = out.reshape(-1, out.shape[-1])
    source = rows.reshape(flat.shape)
    for i in np.flatnonzero(flat.sum(axis=1) > cap):
        falling = np.sort(source[i])[::-1]
        excess = (np.cumsum(falling) - cap) / np.arange(1, falling.size + 1)
        theta = excess[np.flatnonzero(falling > excess)[-1]]
        flat[i] = np.maximum(source[i] - theta, 0.0)
    return flat.reshape(out.shape)
