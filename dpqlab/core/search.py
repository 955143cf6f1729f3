"""The nearest codeword of many points: the reference that faster searches are tested against."""

from __future__ import annotations

from typing import Protocol

import torch


class Search(Protocol):
    """Anything that finds nearest codewords like :func:`nearest`."""

    def __call__(
        self, points: torch.Tensor, words: torch.Tensor, square: torch.Tensor
    ) -> torch.Tensor:
        """Find the nearest codewords of ``B`` problems at once."""
        ...


def nearest(points: torch.Tensor, words: torch.Tensor, square: torch.Tensor) -> torch.Tensor:
    """Find the nearest codeword of every point, in one go and without checks.

    Unlike :func:`dpqlab.core.kmeans.assign` it waits for nothing, so CUDA graphs can capture it;
    equal codewords may be told apart by rounding. Scratch memory is ``4 * B * N * k`` bytes.

    Parameters
    ----------
    points
        float32 of shape (B, N, d).
    words
        float32 of shape (B, k, d).
    square
        Squared lengths of the words, (B, 1, k); infinity for a word that no point may have.

    Returns
    -------
    torch.Tensor
        int64 of shape (B, N).
    """
    return torch.baddbmm(square, points, words.transpose(1, 2), alpha=-2.0).argmin(-1)
