"""The gap between generated and real pieces, figure by figure, with intervals and overlap.

Takes what `adapters.musicality` returns for each piece of two sets. A mean alone would pass a model
that is right on average and wrong in every piece; the overlap area (Yang & Lerch 2020, On the
evaluation of generative models in music) compares the distributions. Knows no piece. numpy only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adapters.metrics import bootstrap
from adapters.musicality import ENDINGS, FIGURES

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of generated pieces beside that of real ones.

    generated, real: mean, and the ends of its 95 % interval (bootstrap over pieces). counts: of
    pieces in which the figure is defined. gap: difference of the means in standard deviations of
    the real pieces. overlap: see `overlap_area`. nan where there is nothing to compare.
    """

    name: str
    generated: tuple[float, float, float]
    real: tuple[float, float, float]
    counts: tuple[int, int]
    gap: float
    overlap: float


def compare(
    generated: Iterable[Mapping[str, float]], real: Iterable[Mapping[str, float]]
) -> list[Row]:
    """One row for each of FIGURES from `musicality` of pieces; undefined values are left out."""
    made, found = list(generated), list(real)
    rows = []
    for name in FIGURES:
        a, b = _defined(made, name), _defined(found, name)
        gap = overlap = float("nan")
        if len(a) and len(b) > 1:
            spread = float(b.std(ddof=1))
            difference = float(a.mean() - b.mean())
            gap = difference / spread if spread > 1e-9 else (0.0 if abs(difference) < 1e-9 else gap)
            overlap = overlap_area(a, b)
        rows.append(Row(name, _mean(a), _mean(b), (len(a), len(b)), gap, overlap))
    return rows


def _defined(pieces: Sequence[Mapping[str, float]], name: str) -> Floats:
    values = np.array([piece[name] for piece in pieces if name in piece], dtype=np.float64)
    return values[np.isfinite(values)]


def _mean(values: Floats) -> tuple[float, float, float]:
    if not len(values):
        return (float("nan"),) * 3
    low, high = bootstrap(lambda x: float(x.mean()), values)
    return float(values.mean()), low, high


def overlap_area(generated: Floats, real: Floats) -> float:
    """How far generated pieces are from real ones as real ones are from each other, 0..1.

    Yang & Lerch 2020: the overlap of two densities, of the distances between any two real pieces
    and of those between a generated and a real one, each smoothed by a Gaussian kernel (Scott's
    width). Pieces drawn from the real set itself come near 1.
    """
    upper = np.triu_indices(len(real), 1)
    inside = np.abs(real[:, None] - real[None, :])[upper]
    across = np.abs(generated[:, None] - real[None, :]).ravel()
    top = float(max(inside.max(), across.max()))
    if top < 1e-12:
        return 1.0
    bins = 1024
    width = top / (bins // 2)
    densities = []
    for distances in (inside, across):
        # Distances fill the lower half of the grid, the kernel may spread over the rest.
        counts = np.bincount((distances / width).astype(int) + bins // 4, minlength=bins * 2)
        scott = max(float(distances.std()) * len(distances) ** -0.2 / width, 1.0)
        reach = np.arange(-int(4 * scott) - 1, int(4 * scott) + 2)
        kernel = np.exp(-0.5 * (reach / scott) ** 2)
        density = np.convolve(counts, kernel, mode="same")
        densities.append(density / density.sum())
    return float(np.minimum(*densities).sum())


def table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table, endings last."""
    lines = [
        "| figure | generated | real | gap (sd) | overlap | what it counts |",
        "|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda row: row.name in ENDINGS):
        cells = [_interval(row.generated), _interval(row.real), _signed(row.gap)]
        overlap = "-" if np.isnan(row.overlap) else f"{row.overlap:.2f}"
        lines.append(f"| {row.name} | {' | '.join(cells)} | {overlap} | {FIGURES[row.name]} |")
    return "\n".join(lines) + "\n"


def _interval(values: tuple[float, float, float]) -> str:
    if np.isnan(values[0]):
        return "-"
    digits = 2 if abs(values[0]) < 10 else 1
    mean, low, high = (f"{value:.{digits}f}" for value in values)
    return f"{mean} ({low}..{high})"


def _signed(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:+.2f}"
