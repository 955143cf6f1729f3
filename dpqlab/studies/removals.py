"""Codewords removed from a pool: by one ranking at once or in rounds, and what that does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from dpqlab.core import Measure, Pool
from dpqlab.core.budget import ranking
from dpqlab.errors import ConfigError
from dpqlab.studies.codewords import MEASURES, CodewordStudy, output_error, recoded, weighted_error

SHARES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
ROUND = 0.1  # share of what is left that goes before importances are made anew

Manner = Literal["at once", "in rounds"]
"""Whether all codewords go by one ranking, or few at a time, each time with a new one."""


@dataclass(frozen=True, kw_only=True)
class Removal:
    """What removing codewords did.

    Attributes
    ----------
    measure, manner
        What chose them, and how.
    removed, share
        How many went; of all codewords.
    predicted
        The sum of their single removal costs, a rise of the relative weighted error; None in
        rounds.
    felt
        The true rise of the relative weighted error, on the activations that chose.
    output_error
        Relative squared error of the layers' outputs on held-out activations.
    """

    measure: Measure
    manner: Manner
    removed: int
    share: float
    predicted: float | None
    felt: float
    output_error: float


def least(study: CodewordStudy, measure: Measure, count: int) -> Tensor:
    """Return which ``count`` codewords a measure calls least important, bool (P,).

    The best codeword of every scope stays, whatever it is worth.

    Raises
    ------
    ConfigError
        If fewer than one a scope would be left.
    """
    total, scopes = len(study.scope), len(study.pool.sizes)
    if not 0 <= count <= total - scopes:
        raise ConfigError(
            f"{count} codewords cannot be removed: expected 0 to {total - scopes}, so that each of "
            f"the {scopes} codebooks keeps one"
        )
    return _lowest(study.worth_by(measure), study.scope, count)


def _lowest(worth: Tensor, scope: Tensor, count: int) -> Tensor:
    gone = torch.zeros(len(scope), dtype=torch.bool)
    gone[ranking(worth, scope).order[len(scope) - count :]] = True
    return gone


@torch.no_grad()
def without(study: CodewordStudy, gone: Tensor) -> CodewordStudy:
    """Remove codewords, bool (P,), and choose codes again; nothing is refitted."""
    sizes = torch.bincount(study.scope[~gone], minlength=len(study.pool.sizes))
    base = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
    pool = Pool(entries=study.pool.entries[~gone], base=base)
    return replace(study, members=tuple(recoded(member, pool) for member in study.members))


def removed(
    study: CodewordStudy, measure: Measure, manner: Manner, after: CodewordStudy
) -> Removal:
    """Measure what a removal has left."""
    total, count = len(study.scope), len(study.scope) - len(after.scope)
    predicted = None
    if manner == "at once":
        costs = study.worth_by("removal")[least(study, measure, count)]
        predicted = float(costs.sum()) / study.energy
    return Removal(
        measure=measure,
        manner=manner,
        removed=count,
        share=count / total,
        predicted=predicted,
        felt=weighted_error(after) - weighted_error(study),
        output_error=output_error(after),
    )


def race_steps(
    study: CodewordStudy,
    shares: tuple[float, ...] = SHARES,
    manners: tuple[Manner, ...] = ("at once", "in rounds"),
) -> Iterator[Removal]:
    """Remove more and more codewords by each measure, and measure what that does.

    Parameters
    ----------
    study
        With all codewords.
    shares
        Of codewords that are removed, rising.
    manners
        See :func:`remove_steps`.
    """
    total = len(study.scope)
    most = total - len(study.pool.sizes)
    counts = [min(round(share * total), most) for share in shares]
    for manner in manners:
        for measure in MEASURES:
            now = study
            for count in counts:
                if manner == "at once":
                    now = without(study, least(study, measure, count))
                else:
                    more = count - total + len(now.scope)
                    *_, now = now, *remove_steps(now, measure, manner, more)
                yield removed(study, measure, manner, now)


def remove_steps(
    study: CodewordStudy, measure: Measure, manner: Manner, count: int
) -> Iterator[CodewordStudy]:
    """Remove ``count`` codewords, and yield what is left: once, or after every round.

    Parameters
    ----------
    study
        Before.
    measure
        Chooses the codewords.
    manner
        ``"in rounds"`` takes a tenth of what is left at a time, with importances made anew.
    count
        As in :func:`least`.
    """
    if manner == "at once":
        yield without(study, least(study, measure, count))
        return
    left = len(study.scope) - count
    while (size := len(study.scope)) > left:
        step = min(size - left, max(1, int(ROUND * size)))
        with torch.no_grad():
            study = without(study, _lowest(study.worth_by(measure), study.scope, step))
        yield study
