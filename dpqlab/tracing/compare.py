"""How far a student's tensors are from its teacher's: sums that add up over batches, exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dpqlab.errors import ShapeError

DECADES = (-8, 2)
BINS_A_DECADE = 6
EDGES = 10.0 ** np.linspace(*DECADES, (DECADES[1] - DECADES[0]) * BINS_A_DECADE + 1)
"""Edges of the histograms of relative squared errors, evenly spaced in the logarithm."""
BINS = len(EDGES) + 1
"""Below the first edge (there lie exact tokens), those between, from the last edge on."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """One student tensor against its teacher's.

    Attributes
    ----------
    energy
        Squared error of each image, float64 (branches, images).
    norm
        Squared norm of the teacher's tensor, float64 (branches, images).
    counts
        Tokens by their relative squared error, int64 (branches, ``BINS``).
    """

    energy: np.ndarray
    norm: np.ndarray
    counts: np.ndarray


def compare(student: Sequence[Tensor], teacher: Sequence[Tensor], branches: int) -> Comparison:
    """Compare what a student's block gives with what its teacher's gives.

    Parameters
    ----------
    student, teacher
        Tensors (branches * images, ..., width), the branches one after the other; blocks that
        return several tensors (image and text tokens) are counted together.
    branches
        Of guidance.

    Returns
    -------
    Comparison
        A token is all but the last dimension: its error is a sum over the width.

    Raises
    ------
    ShapeError
        If shapes differ, or the batch does not hold the branches.
    """
    if [t.shape for t in student] != [t.shape for t in teacher] or not student:
        raise ShapeError(
            f"student gives {[tuple(t.shape) for t in student]}, "
            f"teacher {[tuple(t.shape) for t in teacher]}: expected the same shapes"
        )
    energy, norm, counts = 0, 0, 0
    for mine, theirs in zip(student, teacher, strict=True):
        missed, whole = _by_token(mine, theirs, branches)
        energy = energy + missed.sum(-1)
        norm = norm + whole.sum(-1)
        counts = counts + _counted(missed, whole)
    return Comparison(energy=_array(energy), norm=_array(norm), counts=_array(counts))


def _by_token(mine: Tensor, theirs: Tensor, branches: int) -> tuple[Tensor, Tensor]:
    """Return squared errors and squared norms, float64 (branches, images, tokens)."""
    rows = mine.shape[0]
    if mine.ndim < 2 or rows % branches:
        raise ShapeError(
            f"a block gives {tuple(mine.shape)}: expected {branches} branches of images along the "
            "first dimension"
        )
    shape = (branches, rows // branches, -1)
    theirs = theirs.float()
    missed = (mine.float() - theirs).square().sum(-1, dtype=torch.float64)
    whole = theirs.square().sum(-1, dtype=torch.float64)
    return missed.reshape(shape), whole.reshape(shape)


def _counted(missed: Tensor, whole: Tensor) -> Tensor:
    """Count tokens by relative squared error, (branches, BINS)."""
    # a token that is zero and met exactly has no error; 0 / 0 would say otherwise
    relative = torch.where(missed == 0, 0.0, missed / whole)
    edges = torch.from_numpy(EDGES).to(relative)
    bins = torch.bucketize(relative.flatten(1), edges, right=True)
    start = torch.arange(len(bins), device=bins.device)[:, None] * BINS
    return torch.bincount((bins + start).flatten(), minlength=len(bins) * BINS).view(-1, BINS)


def _array(value: Tensor | int) -> np.ndarray:
    assert isinstance(value, Tensor)
    return value.cpu().numpy()
