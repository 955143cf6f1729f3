"""What of a pool is looked at: the codewords of one scope, and the sub-vectors they stand for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dpqlab.core import Measure
from dpqlab.errors import ConfigError, ShapeError
from dpqlab.studies.codeword_use import subvectors_of
from dpqlab.studies.codewords import MEASURES, CodewordStudy


@dataclass(frozen=True, kw_only=True, eq=False)
class ScopeView:
    """The codewords of one scope, and the sub-vectors that they stand for.

    Attributes
    ----------
    words
        float32 (k, d).
    first
        Number in the pool of the first of them.
    points
        Sub-vectors, float32 (n, d).
    worth
        What every measure says of each codeword, (k,).
    span
        Lowest and highest worth above zero of the whole pool, by measure: one colour range for all
        scopes.
    gone
        Codewords that are marked as removed, bool (k,).
    """

    words: np.ndarray
    first: int
    points: np.ndarray
    worth: Mapping[Measure, np.ndarray]
    span: Mapping[Measure, tuple[float, float]]
    gone: np.ndarray

    def __post_init__(self) -> None:
        """Refuse what does not fit together."""
        count, d = self.words.shape
        lengths = {len(values) for values in (*self.worth.values(), self.gone)}
        if lengths != {count} or self.points.ndim != 2 or self.points.shape[1] != d:
            raise ShapeError(
                f"{count} codewords of {d} values do not fit sub-vectors of shape "
                f"{self.points.shape} and lists of {sorted(lengths)}"
            )


def scope_view(study: CodewordStudy, scope: int, gone: Tensor | None = None) -> ScopeView:
    """Look at one scope of a pool.

    Parameters
    ----------
    study
        The pool.
    scope
        Which: of product quantization, the position.
    gone
        Codewords of the whole pool to mark as removed, bool (P,).

    Raises
    ------
    ConfigError
        If there is no such scope.
    """
    scopes = len(study.pool.sizes)
    if not 0 <= scope < scopes:
        raise ConfigError(f"scope {scope} is not in the pool: expected 0 to {scopes - 1}")
    mine = slice(int(study.pool.base[scope]), int(study.pool.base[scope + 1]))
    marked = torch.zeros(len(study.scope), dtype=torch.bool) if gone is None else gone
    return ScopeView(
        words=study.pool.entries[mine].float().numpy(),
        first=mine.start,
        points=subvectors_of(study, scope)[0],
        worth={m: study.worth[m][mine].numpy() for m in MEASURES},
        span={m: _span(study.worth[m]) for m in MEASURES},
        gone=marked[mine].numpy(),
    )


def _span(worth: Tensor) -> tuple[float, float]:
    """Return the range of what is above zero, without the outermost thousandths."""
    real = worth[(worth > 0) & torch.isfinite(worth)]
    if not len(real):
        return 0.5, 1.0
    low, high = (float(v) for v in real.quantile(torch.tensor([0.001, 0.999]).double()))
    return low, max(high, 1.001 * low)
