"""Two takes of one sentence laid along each other: dynamic time warping drawn to phone labels.

Mel-cepstra are compared (Sakoe & Chiba 1978); where both takes have phone labels, the path is drawn
to the moments at which both end the same phone. It deliberately does not know what is read along
the path (training/voice_data.py), nor any emotion.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from adapters.voice_analysis import HOP, RATE

Floats = NDArray[np.float64]
Phones = Sequence[tuple[float, str]]

ANCHOR_SECONDS = 0.06  # off the phone labels costs as much as the mean distance of two frames
GAP = 0.8  # cost of a phone that one take does not have; another kind of phone costs 1.2


def anchors(source: Phones, target: Phones) -> list[tuple[float, float]]:
    """Moments (seconds, seconds) at which both takes end the same phone, in order.

    The labels are narrow and differ between takes, so the phones are aligned by edit distance.
    """
    a, b = _merged(source), _merged(target)
    if not a or not b:
        return []
    cost = np.zeros((len(a) + 1, len(b) + 1))
    cost[:, 0], cost[0] = GAP * np.arange(len(a) + 1), GAP * np.arange(len(b) + 1)
    for i, (_, x) in enumerate(a):
        for j, (_, y) in enumerate(b):
            here = (cost[i, j] + _unlike(x, y), cost[i, j + 1] + GAP, cost[i + 1, j] + GAP)
            cost[i + 1, j + 1] = min(here)
    found = []
    i, j = len(a), len(b)
    while i and j:
        unlike = _unlike(a[i - 1][1], b[j - 1][1])
        if abs(cost[i, j] - cost[i - 1, j - 1] - unlike) < 1e-9:
            if unlike < 0.5:
                found.append((a[i - 1][0], b[j - 1][0]))
            i, j = i - 1, j - 1
        elif abs(cost[i, j] - cost[i - 1, j] - GAP) < 1e-9:
            i -= 1
        else:
            j -= 1
    return found[::-1]


def _merged(phones: Phones) -> list[tuple[float, str]]:
    """(end, phone) without diacritics (+x, -x); closure, burst and aspiration are one phone."""
    out: list[tuple[float, str]] = []
    for end, label in phones:
        phone = label.lstrip("_!").removesuffix("asp").rstrip("0123456789") or label
        if label[0] in "+-" and len(label) > 1:
            phone = out[-1][1] if out else "."
        if out and out[-1][1] == phone:
            out[-1] = (end, phone)
        else:
            out.append((end, phone))
    return out


_VOWELS = set("aeiouyAEIOUY@296&Q")
_TWINS = ({"t", "d"}, {"p", "b"}, {"k", "g"}, {"s", "z"}, {"S", "Z"}, {"f", "v"}, {"C", "x"})


def _unlike(x: str, y: str) -> float:
    """0 the same phone .. 1.2 another kind."""
    if x == y:
        return 0.0
    if {x, y} in _TWINS:
        return 0.2
    if x[:1] in _VOWELS and y[:1] in _VOWELS:
        return 0.4 if x[:1].lower() == y[:1].lower() else 0.6
    return 1.2


def align(source: Floats, target: Floats, marks: Sequence[tuple[float, float]] = ()) -> Floats:
    """Frame of the target, with fraction, for each frame of the source: float64 (S,), rising.

    source, target: (S, k) and (T, k) of `comparable`. marks: of `anchors`.
    """
    cost = _distances(source, target)
    if marks:
        hop = HOP / RATE
        ends = ((len(source) - 1) * hop, (len(target) - 1) * hop)
        knots = [(0.0, 0.0), *(m for m in marks if m[0] < ends[0] and m[1] < ends[1]), ends]
        x, y = np.array(knots).T
        expected = np.interp(np.arange(len(source)) * hop, x, y)
        off = np.abs(np.arange(len(target)) * hop - expected[:, None]) / ANCHOR_SECONDS
        cost = cost + cost.mean() * np.minimum(off, 4.0)
    path = _warp(cost)
    at = np.bincount(path[:, 0], weights=path[:, 1]) / np.bincount(path[:, 0])
    return np.maximum.accumulate(at)


def comparable(cepstra: NDArray[np.float32], speech: NDArray[np.bool_]) -> Floats:
    """Cepstra (T, k) standardised over speech; level, the first, counts half, since it is free."""
    rows = cepstra.astype(np.float64)
    said = rows[speech] if speech.any() else rows
    out = (rows - said.mean(axis=0)) / np.maximum(said.std(axis=0), 1e-3)
    out[:, 0] *= 0.5
    return np.asarray(out)


def _distances(a: Floats, b: Floats) -> Floats:
    squares = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T
    return np.asarray(np.sqrt(np.maximum(squares, 0.0)))


def _warp(cost: Floats) -> NDArray[np.intp]:
    """Cheapest monotone path (n, 2) through cost (S, T), steps of one; diagonal steps cost twice.

    Computed along anti-diagonals, so that one pair takes some ten milliseconds.
    """
    rows, columns = cost.shape
    total = np.full((rows + 1, columns + 1), np.inf)
    total[0, 0] = 0.0
    for d in range(rows + columns - 1):
        i = np.arange(max(0, d - columns + 1), min(rows, d + 1))
        j = d - i
        before = np.minimum(total[i, j] + cost[i, j], np.minimum(total[i, j + 1], total[i + 1, j]))
        total[i + 1, j + 1] = before + cost[i, j]
    i, j = rows, columns
    path = []
    while i and j:
        path.append((i - 1, j - 1))
        here = cost[i - 1, j - 1]
        steps = (total[i - 1, j - 1] + here, total[i - 1, j], total[i, j - 1])
        step = int(np.argmin(steps))
        i, j = i - (step != 2), j - (step != 1)
    return np.array(path[::-1], dtype=np.intp)
