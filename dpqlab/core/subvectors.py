"""Cut weight rows into sub-vectors, and put them back."""

from __future__ import annotations

import torch
from torch.nn.functional import pad

from dpqlab.errors import ShapeError


def position_count(in_features: int, d: int) -> int:
    """Return ``m = ceil(in_features / d)``, the number of sub-vectors in a row."""
    if in_features < 1 or d < 1:
        raise ShapeError(f"in_features and d must be at least 1: got {in_features} and {d}")
    return -(-in_features // d)


def split(weight: torch.Tensor, d: int) -> torch.Tensor:
    """Cut each row of a weight into sub-vectors of ``d`` consecutive values.

    Parameters
    ----------
    weight
        Matrix of shape (out, in).
    d
        Values in a sub-vector. Where ``d`` does not divide ``in``, the last sub-vector of every row
        is filled up with zeros: the zeros take part in clustering and in the choice of codes as if
        they were weights, and :func:`join` drops them.

    Returns
    -------
    torch.Tensor
        Sub-vectors of shape (out, m, d); a view of ``weight`` where that is possible.

    Raises
    ------
    ShapeError
        If ``weight`` is not a matrix or ``d`` is below 1.

    Examples
    --------
    >>> split(torch.arange(6.0).reshape(1, 6), 4).tolist()
    [[[0.0, 1.0, 2.0, 3.0], [4.0, 5.0, 0.0, 0.0]]]
    """
    if weight.ndim != 2:
        raise ShapeError(f"weight must have shape (out, in): got {tuple(weight.shape)}")
    rows, columns = weight.shape
    m = position_count(columns, d)
    return pad(weight, (0, m * d - columns)).reshape(rows, m, d)


def join(sub: torch.Tensor, in_features: int) -> torch.Tensor:
    """Put sub-vectors of shape (out, m, d) back into rows of shape (out, in_features).

    The inverse of :func:`split`: padding beyond ``in_features`` is dropped.
    """
    if sub.ndim != 3:
        raise ShapeError(f"sub-vectors must have shape (out, m, d): got {tuple(sub.shape)}")
    rows, m, d = sub.shape
    if m != position_count(in_features, d):
        raise ShapeError(
            f"{m} sub-vectors of {d} values do not make a row of {in_features}: "
            f"expected {position_count(in_features, d)}"
        )
    return sub.reshape(rows, m * d)[:, :in_features]
