"""Intervals of figures over files that are not independent: takes of a speaker, seeds of a prompt.

Whole groups are drawn with replacement (the cluster bootstrap); few of them hardly differ from draw
to draw, so their members are drawn too (the two-stage bootstrap). Knows no figure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

DRAWS = 400
FEW = 5
"""Groups under which members are drawn inside every group that was drawn."""


def over_groups(
    figure: Callable[..., Any], groups: Sequence[object], *columns: ArrayLike, seed: int = 0
) -> tuple[float, float, float]:
    """figure(*columns) and its 95 % interval over groups (n,); columns are (n, ...)."""
    rng = np.random.default_rng(seed)
    data = [np.asarray(column) for column in columns]
    names, which = np.unique([str(group) for group in groups], return_inverse=True)
    rows = [np.flatnonzero(which == k) for k in range(len(names))]
    found = []
    for _ in range(DRAWS):
        drawn = [rows[k] for k in rng.integers(0, len(rows), len(rows))]
        if len(rows) < FEW:
            drawn = [rng.choice(row, len(row)) for row in drawn]
        at = np.concatenate(drawn)
        found.append(figure(*(column[at] for column in data)))
    low, high = np.quantile(found, [0.025, 0.975])
    return float(figure(*data)), float(low), float(high)
