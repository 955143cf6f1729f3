"""Kernel distance (KID): an unbiased distance of two sets of features, in float64.

The squared maximum mean discrepancy under the kernel ``(x.y / F + 1)^3``, estimated without bias,
as a mean over random subsets (Binkowski et al., "Demystifying MMD GANs", arXiv 1801.01401, section
4). Without bias means that, unlike a Frechet distance, it is 0 on average for two sets from one
source however few there are, which wide features need; it may be negative.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor

from dpqlab.errors import ConfigError, ShapeError


@dataclass(frozen=True, kw_only=True)
class KernelDistance:
    """A kernel distance and how sure it is.

    Parameters
    ----------
    value
        Mean over the subsets.
    standard_error
        Of ``value``, from one pair of sets to the next: ``deviation sqrt(m / (N - m) + 1 / S)`` for
        S subsets of m out of N, the size of the smaller set. Subsets overlap, so the customary
        ``deviation / sqrt(S)`` is too small: S can be as large as one likes, N cannot. A mean of
        all subsets would vary like V m / N, where V is what disjoint subsets vary by; overlapping
        ones vary by ``V (1 - m / N)`` only. Cautious where the distance is nearly 0.
    deviation
        Standard deviation over the subsets, which papers print beside KID.
    subsets, size
        How many, of how many features of each side.
    """

    value: float
    standard_error: float
    deviation: float
    subsets: int
    size: int

    def to_dict(self) -> dict[str, float]:
        """Return the fields as a dict for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        """Return "value +- standard error" with few digits."""
        return f"{self.value:.3g} +- {self.standard_error:.1g}"


def kernel_distance(
    a: np.ndarray,
    b: np.ndarray,
    *,
    subsets: int = 100,
    size: int = 1000,
    generator: np.random.Generator,
    device: torch.device | str = "cpu",
) -> KernelDistance:
    """Compare features (N, F) with features (M, F).

    Each subset is drawn without replacement, from each side on its own.

    Raises
    ------
    ShapeError
        The widths differ, or a side has fewer than ``2 size`` features: subsets would be too much
        alike to say how sure the value is (:func:`squared_discrepancy` takes whole sets).
    ConfigError
        ``subsets`` or ``size`` is below 2.
    """
    if subsets < 2 or size < 2:
        raise ConfigError(
            f"subsets is {subsets} and size {size}; expected at least 2 of each (100 and 1000 are "
            "usual)."
        )
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ShapeError(
            f"features of {a.shape} and {b.shape} do not match; expected (N, F) and (M, F)."
        )
    if (smaller := min(len(a), len(b))) < 2 * size:
        raise ShapeError(
            f"there are {len(a)} and {len(b)} features, too few for subsets of {size}; "
            f"give at least {2 * size} of each, or take smaller subsets."
        )
    sides = [torch.tensor(x, dtype=torch.float64, device=device) for x in (a, b)]
    found = []
    for _ in range(subsets):
        x, y = (side[_draw(len(side), size, generator).to(device)] for side in sides)
        found.append(squared_discrepancy(x, y))
    values = torch.stack(found).cpu().numpy()
    deviation = float(values.std(ddof=1))
    return KernelDistance(
        value=float(values.mean()),
        standard_error=deviation * math.sqrt(size / (smaller - size) + 1.0 / subsets),
        deviation=deviation,
        subsets=subsets,
        size=size,
    )


def squared_discrepancy(x: Tensor, y: Tensor) -> Tensor:
    """Return the unbiased squared MMD of features (N, F) and (M, F): a scalar.

    ``mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean_{i, j} k(x_i, y_j)``
    (Gretton et al., JMLR 13 (2012), eq. 3).
    """
    within = [
        (k.sum() - k.trace()) / (len(k) * (len(k) - 1)) for k in (_kernel(x, x), _kernel(y, y))
    ]
    return within[0] + within[1] - 2.0 * _kernel(x, y).mean()


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1.0) ** 3


def _draw(count: int, size: int, generator: np.random.Generator) -> Tensor:
    return torch.from_numpy(generator.permutation(count)[:size])
