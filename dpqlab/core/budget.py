"""How many codes the codebooks may keep so that pool and tables fit their budget.

Codes are ranked by what they are worth, the best of each scope ahead of all others. What the first
``N`` of them cost, for every ``N`` at once, follows from counts alone: nothing is encoded.
"""

# torch leaves tolist and nonzero untyped
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from dpqlab.core.packing import code_bits
from dpqlab.core.pool import OFFSET_BITS
from dpqlab.core.precision import exact_float32

_TILE = 1 << 19  # pairs of codewords looked at together; their distances stay in the cache


@dataclass(frozen=True, kw_only=True)
class Holder:
    """Codebooks that are stored together: those of one table, or of a ragged pool.

    Attributes
    ----------
    scopes
        Number of codebooks.
    codes
        Number of codes of every layer that uses them.
    """

    scopes: int
    codes: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Prices:
    """Bits of the pool as a whole, of one more codeword in it, and of one more row of a table.

    ``row`` is None without tables.
    """

    pool: int = 0
    codeword: int = 0
    row: int | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Ranking:
    """Codes in the order in which they are kept.

    Attributes
    ----------
    order
        int64 (T,): the codes, the best of each scope first, then by falling worth.
    rank
        int64 (T,): how many codes of the same scope come earlier.
    scope
        int64 (T,): the scope of each; scopes of several holders are numbered on.
    """

    order: torch.Tensor
    rank: torch.Tensor
    scope: torch.Tensor


def ranking(worth: torch.Tensor, scope: torch.Tensor) -> Ranking:
    """Rank codes by worth (T,); ``scope`` (T,) numbers their scopes from 0, none without codes.

    Examples
    --------
    >>> ranking(torch.tensor([1.0, 5.0, 4.0, 0.0]), torch.tensor([0, 0, 0, 1])).order.tolist()
    [1, 3, 2, 0]
    """
    order = worth.argsort(descending=True, stable=True)
    counts = torch.bincount(scope)
    before = (counts.cumsum(0) - counts).repeat_interleave(counts)
    rank = torch.empty_like(order)
    rank[scope[order].argsort(stable=True)] = torch.arange(len(order), device=rank.device) - before
    first = (rank > 0).long().argsort(stable=True)
    return Ranking(order=order[first], rank=rank[first], scope=scope[order][first])


def costs(
    ranks: Ranking, holders: Sequence[Holder], prices: Prices
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the bits of pool with tables, and of the codes, if the first N are kept: (T,) each.

    Element ``N - 1`` belongs to ``N``; it means something from the number of scopes on.
    """
    rows = torch.arange(1, len(ranks.order) + 1, device=ranks.order.device)
    spent = prices.pool + prices.codeword * rows
    codes = torch.zeros_like(spent)
    largest = int(ranks.rank.max()) + 1
    widths = torch.tensor([code_bits(max(1, k)) for k in range(largest + 1)], device=rows.device)
    first = 0
    for holder in holders:
        mine = (ranks.scope >= first) & (ranks.scope < first + holder.scopes)
        first += holder.scopes
        count = mine.cumsum(0)
        size = torch.where(mine, ranks.rank + 1, 0).cummax(0).values
        spent = spent + OFFSET_BITS * holder.scopes * (count != holder.scopes * size)
        if prices.row is not None:
            spent = spent + _whole_bytes(count * prices.row)
        for n in holder.codes:
            codes = codes + _whole_bytes(n * widths[size])
    return spent, codes


def largest_fit(
    ranks: Ranking, holders: Sequence[Holder], prices: Prices, share: float
) -> int | None:
    """Return the most codes that fit ``share`` of the bits of the codes; None if no number does.

    The width of the codes changes with what is kept, so that fewer codes do not always fit better:
    all numbers from one code a scope up are looked at.
    """
    spent, codes = costs(ranks, holders, prices)
    fits = spent <= share * codes.double()
    fits[: sum(holder.scopes for holder in holders) - 1] = False
    return int(fits.nonzero()[-1]) + 1 if bool(fits.any()) else None


def smallest_share(ranks: Ranking, holders: Sequence[Holder], prices: Prices) -> float:
    """Return the least share of the bits of the codes that pool and tables can take."""
    spent, codes = costs(ranks, holders, prices)
    return float((spent.double() / codes)[sum(holder.scopes for holder in holders) - 1 :].min())


def distinct(
    words: torch.Tensor,
    scope: torch.Tensor,
    worth: torch.Tensor,
    limit: float,
    most: int | None = None,
) -> torch.Tensor:
    """Merge redundant codewords into the more important: return which stay, bool (T,).

    From the most important codeword down, each stays unless one that stays in its scope is within a
    squared distance of ``limit``.

    Parameters
    ----------
    words
        Codewords (T, d).
    scope
        int64 (T,).
    worth
        Importance (T,).
    limit
        Squared distance up to which codewords are redundant.
    most
        Stop once more than so many are known to stay: those looked at until then.
    """
    ranks = ranking(worth, scope)
    shape = int(scope.max()) + 1, int(ranks.rank.max()) + 1
    slots = torch.full(shape, -1, device=scope.device)
    slots[ranks.scope, ranks.rank] = ranks.order
    books = words.float()[slots.clamp(min=0)]
    norms = books.square().sum(-1)
    gone = slots < 0
    keep = torch.zeros(len(words), dtype=torch.bool, device=scope.device)
    left = torch.arange(shape[1], device=scope.device)
    while len(left) and (most is None or int(keep.sum()) <= most):
        step = max(1, _TILE // (shape[0] * len(left)))
        out = gone[:, left]
        s, a, b = _near_pairs(books[:, left], norms[:, left], step, limit)
        near = torch.zeros(shape[0], step, len(left), dtype=torch.bool, device=scope.device)
        near[s, a, b] = True
        for j in a.unique().tolist():
            if not bool(out[:, j].all()):
                out |= near[:, j] & ~out[:, j, None]
        gone[:, left] = out
        keep[slots[:, left[:step]][~out[:, :step]]] = True
        left = left[step:][~out[:, step:].all(0)]
    return keep


def _near_pairs(
    books: torch.Tensor, norms: torch.Tensor, step: int, limit: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Compare the first codewords of (S, k, d) with all behind them: s, a, b of those near."""
    # a matrix product is fast but rounds: what may be near is looked at again
    shrunk = (1 - 1e-5) * norms
    with exact_float32():
        far = torch.baddbmm(shrunk[:, None], books[:, :step], books.transpose(1, 2), alpha=-2.0)
    s, a, b = (far <= limit - shrunk[:, :step, None]).nonzero().unbind(1)
    s, a, b = s[b > a], a[b > a], b[b > a]
    near = (books[s, a].double() - books[s, b].double()).square().sum(-1) <= limit
    return s[near], a[near], b[near]


def _whole_bytes(bits: torch.Tensor) -> torch.Tensor:
    return (bits + 7) // 8 * 8
