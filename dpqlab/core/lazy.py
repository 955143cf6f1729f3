"""A weight that is read when its turn comes, so that not all of them are in memory at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True, kw_only=True, eq=False)
class LazyWeight:
    """A matrix known by its shape until it is read.

    Attributes
    ----------
    shape
        (out, in).
    read
        Returns the matrix; called anew whenever its values are needed, always with the same result.
    """

    shape: tuple[int, int]
    read: Callable[[], torch.Tensor]


def dense(weight: torch.Tensor | LazyWeight) -> torch.Tensor:
    """Return the values of a weight, read now if it is lazy."""
    return weight.read() if isinstance(weight, LazyWeight) else weight
