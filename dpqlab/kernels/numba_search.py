"""The nearest codeword of many points on the CPU, without writing their distances to memory."""

from __future__ import annotations

import torch

from dpqlab.kernels.numba_kmeans import assign

_FAR = 1e18  # squared it still fits into float32, and nothing is nearer to it than to a codeword


def nearest(points: torch.Tensor, words: torch.Tensor, square: torch.Tensor) -> torch.Tensor:
    """Find the nearest codeword of every point: see :func:`dpqlab.core.search.nearest`.

    The lengths in ``square`` say only which words no point may have: those of infinite length.
    """
    missing = torch.isinf(square).transpose(1, 2)
    return assign(points, torch.where(missing, _FAR, words))
