"""Improved precision and recall (Kynkaanniemi et al. 2019, arXiv 1904.06991).

A set of features stands for the union of balls around its points, each reaching to the point's k-th
nearest neighbour. Precision is the share of generated points inside the real union (are samples
plausible?), recall the share of real points inside the generated one (is the data covered?).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dpqlab.errors import ConfigError, ShapeError

_CHUNK_BYTES = 64 << 20  # of one block of the distance matrix


@dataclass(frozen=True, kw_only=True)
class PrecisionRecall:
    """Shares from 0 to 1, and the neighbour k that defined them."""

    precision: float
    recall: float
    k: int = 3


def precision_recall(
    real: np.ndarray, fake: np.ndarray, k: int = 3, *, device: torch.device | str = "cpu"
) -> PrecisionRecall:
    """Compare real features (N, F) with generated ones (M, F).

    Runs in float64 and in blocks, so memory does not grow with N*M. Values depend on N and M:
    compare only at equal sizes.

    Raises
    ------
    ShapeError
        The widths differ, or a set has fewer than k + 1 points.
    """
    if k < 1:
        raise ConfigError(f"k is {k}; expected at least 1 (3 is usual).")
    if real.ndim != 2 or fake.ndim != 2 or real.shape[1] != fake.shape[1]:
        raise ShapeError(
            f"real {real.shape} and generated {fake.shape} features do not match; "
            "expected (N, F) and (M, F)."
        )
    if min(len(real), len(fake)) <= k:
        raise ShapeError(
            f"{len(real)} real and {len(fake)} generated points are too few for k={k}; "
            f"give at least {k + 1} of each."
        )
    centre = np.asarray(real, dtype=np.float64).mean(axis=0)  # a common shift, for accuracy
    reals, fakes = (
        torch.from_numpy(np.asarray(x, dtype=np.float64) - centre).to(device) for x in (real, fake)
    )
    return PrecisionRecall(
        precision=_share_inside(fakes, reals, ball_radii(reals, k)),
        recall=_share_inside(reals, fakes, ball_radii(fakes, k)),
        k=k,
    )


def ball_radii(points: Tensor, k: int) -> Tensor:
    """Return the squared distance (N,) from each point (N, F) to its k-th nearest other point."""
    radii = []
    for start, block in _blocks(points, len(points)):
        distances = _squared_distances(block, points)
        rows = torch.arange(len(block), device=points.device)
        distances[rows, rows + start] = torch.inf  # a point is no neighbour of itself
        radii.append(distances.kthvalue(k, dim=1).values)
    return torch.cat(radii)


def _share_inside(points: Tensor, centres: Tensor, radii: Tensor) -> float:
    inside = sum(
        int((_squared_distances(block, centres) <= radii).any(dim=1).sum())
        for _, block in _blocks(points, len(centres))
    )
    return inside / len(points)


def _blocks(points: Tensor, others: int) -> list[tuple[int, Tensor]]:
    rows = max(1, _CHUNK_BYTES // (8 * others))
    return [(start, points[start : start + rows]) for start in range(0, len(points), rows)]


def _squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Squared distances (A, B), from one matrix product."""
    norms = a.square().sum(dim=1, keepdim=True) + b.square().sum(dim=1)
    return norms.addmm_(a, b.T, alpha=-2.0).clamp_(min=0.0)
