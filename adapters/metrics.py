"""Figures for critics and for calibration, each a few lines of numpy with its source.

Probabilities are (n, k) with rows that sum to 1. Deliberately does not know any model or data set.
Report ECE and JSD together: a temperature that mends ECE on hard labels can move away from what
annotators said (arXiv 2605.24773). Bootstrap over prompts or pictures, not over samples of one.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
EPS = 1e-12


def _pair(x: ArrayLike, y: ArrayLike) -> tuple[Array, Array]:
    a, b = np.asarray(x, dtype=float).ravel(), np.asarray(y, dtype=float).ravel()
    if a.shape != b.shape or a.size == 0:
        msg = f"x and y must have the same length above 0, got {a.size} and {b.size}"
        raise ValueError(msg)
    return a, b


def _distributions(p: ArrayLike, q: ArrayLike) -> tuple[Array, Array]:
    a, b = np.atleast_2d(np.asarray(p, float)), np.atleast_2d(np.asarray(q, float))
    if a.shape != b.shape:
        msg = f"p and q must have the same shape (n, k), got {a.shape} and {b.shape}"
        raise ValueError(msg)
    return a, b


def accuracy(predicted: ArrayLike, actual: ArrayLike) -> float:
    """Share of equal class numbers."""
    a, b = _pair(predicted, actual)
    return float((a == b).mean())


def macro_f1(predicted: ArrayLike, actual: ArrayLike) -> float:
    """Mean F1 over the classes that occur in `actual`; a class never predicted counts 0."""
    a, b = _pair(predicted, actual)
    scores = []
    for k in np.unique(b):
        hit = float(((a == k) & (b == k)).sum())
        scores.append(2 * hit / (float((a == k).sum()) + float((b == k).sum())))
    return float(np.mean(scores))


def pearson(x: ArrayLike, y: ArrayLike) -> float:
    """Pearson's r; 0 when one side does not vary."""
    a, b = _pair(x, y)
    a, b = a - a.mean(), b - b.mean()
    scale = math.sqrt(float((a**2).sum() * (b**2).sum()))
    return float((a * b).sum() / scale) if scale > EPS else 0.0


def ccc(x: ArrayLike, y: ArrayLike) -> float:
    """Lin's concordance 2 cov / (var_x + var_y + (mean_x - mean_y)^2), population moments."""
    a, b = _pair(x, y)
    low = a.var() + b.var() + (a.mean() - b.mean()) ** 2
    return float(2 * ((a - a.mean()) * (b - b.mean())).mean() / low) if low > EPS else 0.0


def _ranks(x: Array) -> Array:
    """Ranks from 1, ties get their mean rank."""
    _, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2.0)[inverse]


def spearman(x: ArrayLike, y: ArrayLike) -> float:
    """Pearson's r of mean ranks."""
    a, b = _pair(x, y)
    return pearson(_ranks(a), _ranks(b))


def kendall(x: ArrayLike, y: ArrayLike) -> float:
    """Kendall's tau-b (ties on both sides counted); 0 when one side is constant. O(n^2)."""
    a, b = _pair(x, y)
    up = np.triu_indices(a.size, 1)
    da, db = np.sign(a[:, None] - a)[up], np.sign(b[:, None] - b)[up]
    scale = math.sqrt(float((da != 0).sum()) * float((db != 0).sum()))
    return float((da * db).sum() / scale) if scale else 0.0


def ece(probabilities: ArrayLike, actual: ArrayLike, bins: int = 10) -> float:
    """Expected calibration error of the top class, equal-width bins (Guo et al. 2017).

    actual: class numbers (n,), or soft labels (n, k). With soft labels a row counts as right by the
    share its label gives to the top class, as if one annotator were drawn.
    """
    p = np.atleast_2d(np.asarray(probabilities, float))
    label = np.asarray(actual)
    if len(label) != len(p):
        msg = f"actual must have one label per row, got {len(label)} for {len(p)} rows"
        raise ValueError(msg)
    confidence, said = p.max(1), p.argmax(1)
    if label.ndim == 2:
        right = np.take_along_axis(label.astype(float), said[:, None], 1)[:, 0]
    else:
        right = (said == label).astype(float)
    at = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    total = 0.0
    for k in range(bins):
        m = at == k
        if m.any():
            total += m.mean() * abs(float(right[m].mean()) - float(confidence[m].mean()))
    return float(total)


def jsd(p: ArrayLike, q: ArrayLike) -> Array:
    """Jensen-Shannon divergence per row in bits, 0 (equal) .. 1 (disjoint)."""
    a, b = _distributions(p, q)
    m = (a + b) / 2

    def kl(x: Array) -> Array:
        safe = np.where(x > 0, x, 1.0)
        return np.where(x > 0, x * np.log2(safe / np.maximum(m, EPS)), 0.0).sum(1)

    return (kl(a) + kl(b)) / 2


def cross_entropy(p: ArrayLike, q: ArrayLike) -> float:
    """Mean -sum q log p in nats: what temperature scaling minimises, with soft targets q."""
    a, b = _distributions(p, q)
    return float(-(b * np.log(np.maximum(a, EPS))).sum(1).mean())


def wilson(hits: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson score interval of a share (1927); z = 1.96 gives 95 %."""
    if n <= 0 or not 0 <= hits <= n:
        msg = f"hits and n must satisfy 0 <= hits <= n and n > 0, got {hits} of {n}"
        raise ValueError(msg)
    share = hits / n
    low = 1 + z**2 / n
    mid = (share + z**2 / (2 * n)) / low
    half = z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2)) / low
    return max(0.0, mid - half), min(1.0, mid + half)


def bootstrap(
    figure: Callable[..., float],
    *columns: ArrayLike,
    n: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile interval of figure(*columns) with rows of all columns resampled together."""
    data = [np.asarray(c) for c in columns]
    rng = np.random.default_rng(seed)
    rows = len(data[0])
    values = []
    for _ in range(n):
        at = rng.integers(0, rows, rows)
        values.append(figure(*(c[at] for c in data)))
    cut = (1 - level) / 2
    low, high = np.quantile(values, [cut, 1 - cut])
    return float(low), float(high)


def softmax(logits: ArrayLike, temperature: float = 1.0) -> Array:
    """Rows of logits -> probabilities at a temperature above 0."""
    z = np.atleast_2d(np.asarray(logits, float)) / temperature
    z = np.exp(z - z.max(1, keepdims=True))
    return np.asarray(z / z.sum(1, keepdims=True))


def fit_temperature(logits: ArrayLike, targets: ArrayLike) -> float:
    """Temperature in .1 .. 10 with the least cross-entropy to soft targets (n, k).

    Golden-section search on log T: the loss is convex in 1/T (Guo et al. 2017).
    """
    z, q = _distributions(logits, targets)
    low, high = math.log(0.1), math.log(10.0)
    g = (math.sqrt(5) - 1) / 2

    def loss(t: float) -> float:
        return cross_entropy(softmax(z, math.exp(t)), q)

    a, b = high - g * (high - low), low + g * (high - low)
    fa, fb = loss(a), loss(b)
    for _ in range(60):
        if fa < fb:
            high, b, fb = b, a, fa
            a = high - g * (high - low)
            fa = loss(a)
        else:
            low, a, fa = a, b, fb
            b = low + g * (high - low)
            fb = loss(b)
    return math.exp((low + high) / 2)
