"""Faster versions of what ``core`` defines, and the choice between them."""

from __future__ import annotations

from dpqlab.kernels.dispatch import (
    Backend,
    backends,
    best_assigner,
    best_clusterer,
    best_search,
    numba_available,
)

__all__ = [
    "Backend",
    "backends",
    "best_assigner",
    "best_clusterer",
    "best_search",
    "numba_available",
]
