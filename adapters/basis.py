"""Linear algebra of emotion directions: nuisances out, then D = M W + R.

Works on any conditioning space (prompt embeddings, speech embeddings, expression codes) as plain
tensors of same-content differences; it knows no model and no file. Source: contrastive steering
vectors with within-class components removed; the VAD factorisation is this project's own.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from adapters.emotion import VAD


def nuisance_axes(differences: Sequence[Tensor], named: Tensor, components: int) -> Tensor:
    """Orthonormal axes (n, D) that no direction should have a part in.

    Args:
        differences: per emotion (pairs, D), emotional minus neutral.
        named: (pairs, D) differences in something that is not emotion; their mean is one axis.
            May be empty.
        components: how many principal axes of the spread of `differences` around each emotion's
            own mean to add. Fewer come back where the spread has fewer.
    """
    axes = named.new_zeros(0, named.shape[1])
    if len(named):
        axes = torch.nn.functional.normalize(named.mean(dim=0, keepdim=True))
    spread = torch.cat([rows - rows.mean(dim=0) for rows in differences])
    spread = spread - (spread @ axes.T) @ axes
    _, sizes, directions = torch.linalg.svd(spread, full_matrices=False)
    # Equal pairs leave rounding noise only, and noise has no main axis.
    scale = max(float(rows.norm(dim=1).max()) for rows in differences)
    real = int((sizes > 1e-6 * max(scale, 1e-12)).sum())
    return torch.cat([axes, directions[: min(components, real)]])


def project_out(D: Tensor, axes: Tensor) -> Tensor:
    """Rows of D (k, D) without their part along the orthonormal `axes` (n, D)."""
    return D - (D @ axes.T) @ axes


def factorise(D: Tensor, ridge: float) -> tuple[Tensor, float]:
    """W (3, D) of D = M W + R by ridge regression, and the share of |D|^2 that M W explains.

    D: (12, D), one direction per core emotion; M: their valence, arousal and dominance. No
    intercept, because neutral is the origin of both. Directions at random give a share of 3/12.
    """
    M = torch.from_numpy(VAD.copy())
    D = D.double()
    W = torch.linalg.solve(M.T @ M + ridge * torch.eye(3, dtype=M.dtype), M.T @ D)
    total = float(D.square().sum())
    share = 1.0 - float((D - M @ W).square().sum()) / total if total > 0 else 0.0
    return W, share
