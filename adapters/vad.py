"""Geometry of the emotion state: VAD points, the simplex, and the way between them.

A VAD point (valence, arousal, dominance, each -1..1) is read as a mixture of at most three anchors
by non-negative matching pursuit in units of the raters' standard deviation. Plain non-negative
least squares was rejected: it reaches the point but with mixtures nobody can read ("depressed"
became .73 boredom + .27 fear). This file knows neither the core emotions nor any text form.

Source: Russell & Mehrabian 1977 for the scale; the pursuit and its stop rules are this project's.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
    fits = _fits(tuple(tuple(map(float, anchors[name])) for name in names))
    goal = point / SD
    empty = float(np.sqrt(goal @ goal))
    left_of, weights_of = fits.of(goal)
    chosen: list[int] = []
    best, left = -1, empty
    while len(chosen) < min(MOST_ANCHORS, len(names)) and left >= CLOSE_ENOUGH:
        next_left, next_best, next_j = np.inf, -1, -1
        for j in range(len(names)):
            if j in chosen:
                continue
            trial, subset = empty, -1
            for s in fits.within[frozenset((*chosen, j))]:
                if left_of[s] < trial - 1e-12:
                    trial, subset = left_of[s], s
            if trial < next_left - 1e-12:  # of equals the first, whatever the last bit says
                next_left, next_best, next_j = trial, subset, j
        if next_left > left * (1.0 - LEAST_GAIN):
            break
        chosen.append(next_j)
        best, left = next_best, next_left
    if best < 0:
        return {}
    weights = dict(zip(fits.subsets[best], weights_of[best], strict=False))
    return {names[j]: float(weights[j]) for j in chosen if weights.get(j, 0.0) > 1e-9}


@dataclass(frozen=True, slots=True)
class _Fits:
    """Least squares of every one to three anchors, with weights >= 0 and sum <= 1, prepared.

    A batch solves a point a line, so what does not depend on the point is worked out once.
    subsets: the S sets of anchors. within: of a set of anchors the numbers of its subsets, small
    ones first. maps: (4 * S * 3, 4), what (goal, 1) is multiplied with for the weights without and
    with an active sum, and for what each of the two leaves of the goal; in one matrix, since a
    product of many small ones takes five times as long.
    """

    subsets: tuple[tuple[int, ...], ...]
    within: dict[frozenset[int], tuple[int, ...]]
    maps: Array

    def of(self, goal: Array) -> tuple[list[float], Array]:
        """Distance left and weights (S, 3) of every subset; inf where a weight is negative."""
        free, bound, short, bound_short = (self.maps @ np.append(goal, 1.0)).reshape(4, -1, 3)
        over = free.sum(axis=1) > 1.0
        free[over], short[over] = bound[over], bound_short[over]
        left = np.sqrt((short * short).sum(axis=1))
        left[free.min(axis=1, initial=0.0) < 0.0] = np.inf
        found: list[float] = left.tolist()
        return found, free


@functools.lru_cache(maxsize=8)
def _fits(anchors: tuple[tuple[float, ...], ...]) -> _Fits:
    table = (np.array(anchors, dtype=np.float64).reshape(-1, 3) / SD).T
    most = range(1, MOST_ANCHORS + 1)
    subsets = tuple(s for n in most for s in combinations(range(len(anchors)), n))
    maps = np.zeros((4, len(subsets), 3, 4))
    for s, subset in enumerate(subsets):
        n = len(subset)
        part = table[:, list(subset)]
        maps[0, s, :n, :3] = np.linalg.pinv(part)
        # The sum constraint is active: the system with its Lagrange multiplier.
        system = np.ones((n + 1, n + 1))
        system[:n, :n] = part.T @ part
        system[n, n] = 0.0
        solved = np.linalg.pinv(system)
        maps[1, s, :n, :3], maps[1, s, :n, 3] = solved[:n, :n] @ part.T, solved[:n, n]
        for way in (0, 1):
            maps[2 + way, s] = part @ maps[way, s, :n] - np.eye(3, 4)
    within = {
        frozenset(outer): tuple(s for s, inner in enumerate(subsets) if set(inner) <= set(outer))
        for outer in subsets
    }
    return _Fits(subsets, within, maps.reshape(-1, 4))


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
