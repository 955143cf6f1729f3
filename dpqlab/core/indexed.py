"""Pools that all scopes share, and a table for each scope that says which codewords it uses."""

# torch leaves tolist, unique and split untyped
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf

import torch

from dpqlab.core.budget import (
    Holder,
    Prices,
    Ranking,
    distinct,
    largest_fit,
    ranking,
    smallest_share,
)
from dpqlab.core.formats import CodebookCodec
from dpqlab.core.importance import row_importance, scope_of_rows
from dpqlab.core.kmeans import Assigner, Clusterer
from dpqlab.core.packing import MAX_BITS, code_bits
from dpqlab.core.pool import Pool, PoolConfig
from dpqlab.core.refitting import Member, settle, weighted_error

_FP16_MAX = 65_504.0
_SPARE = 4  # most entries of k-means for every codeword that is not redundant


@dataclass(frozen=True, kw_only=True, eq=False)
class Tables:
    """Members in a pool of ``P`` entries with full tables, and the order in which rows are kept.

    Attributes
    ----------
    members
        Each with a table of its own, all with the same entries.
    rows
        Rows of all tables, member after member.
    holders
        One for each member.
    prices
        Of this pool.
    """

    members: list[Member]
    rows: Ranking
    holders: list[Holder]
    prices: Prices


class IndexedPools:
    """Indexed pools of every size for the same members, each made once.

    The codewords of all scopes (of all members) are clustered into ``P`` entries by k-means, each
    counting its importance; redundant entries merge; every scope's table lists the distinct entries
    nearest to its codewords. ``P`` is one of 1, 2, 3, 4, 6, 8, 12, ... up to the number of
    codewords and to what a table can point to: powers of two, which use the bits of a table's rows
    best, and the steps half way. A pool of some size is the same whichever were made before it.

    Parameters
    ----------
    members
        Layers with ragged pools of their own, or sharing one.
    config, codec
        How to squeeze; the k-means is that of the codec.
    generator, clusterer, assigner
        As in :func:`dpqlab.core.pruning.prune`.
    """

    def __init__(
        self,
        members: Sequence[Member],
        config: PoolConfig,
        codec: CodebookCodec,
        generator: torch.Generator,
        clusterer: Clusterer,
        assigner: Assigner,
    ) -> None:
        self.members = list(members)
        self.config = config
        self.codec = codec
        self.clusterer = clusterer
        self.assigner = assigner
        self._made: dict[int, Tables] = {}
        self._seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
        pools = {id(m.encoded.pool): m.encoded.pool for m in members}
        worth = {key: torch.zeros(len(pool.entries)).double() for key, pool in pools.items()}
        for member in members:
            key = id(member.encoded.pool)
            found = row_importance(member, config.measure)
            worth[key] = worth[key].to(found.device) + found
        starts = torch.tensor([0, *(len(pool.entries) for pool in pools.values())]).cumsum(0)
        self._start = dict(zip(pools, starts.tolist(), strict=False))
        self._words = torch.cat([pool.entries for pool in pools.values()]).float()
        self._worth = _masses(torch.cat(list(worth.values())))
        self._limit = config.merge * float(self._words.double().square().sum(1).mean())

    @property
    def codewords(self) -> int:
        """Codewords of all scopes before they were clustered."""
        return len(self._words)

    def fitted(self, share: float) -> tuple[list[Member], int] | None:
        """Return the best members whose pool and tables fit a share of the codes' bits.

        Few entries leave bits for long tables, many entries need no long ones: the weighted error
        falls with ``P``, then rises, then nothing fits. A Fibonacci search finds the bottom. For
        each ``P`` that it looks at, tables are cut to what the budget leaves: the least important
        rows go, one stays in every scope. Entries that no table names are dropped, and codes are
        chosen again. Nothing is refitted after that.

        Returns
        -------
        members, removed : list of Member, int
            ``removed`` counts the rows that were cut from full tables. None if nothing fits.
        """
        best: tuple[list[Member], int] | None = None
        lowest = inf

        def error(entries: int) -> float:
            nonlocal best, lowest
            tables = self._tables(entries)
            rows = largest_fit(tables.rows, tables.holders, tables.prices, share)
            if rows is None:
                return inf
            members, _ = settle(tables.members, _cut(tables, rows), 0, self.assigner)
            missed = weighted_error(members)
            if missed < lowest:
                best, lowest = (members, len(tables.rows.order) - rows), missed
            return missed

        search(self._sizes(share), error)
        return best

    def smallest_share(self) -> float:
        """Return the least share of the codes' bits that a pool of one entry can be cut to.

        No other pool takes less, but for tables of a few bits, which whole bytes round up.
        """
        tables = self._tables(1)
        return smallest_share(tables.rows, tables.holders, tables.prices)

    def _sizes(self, share: float) -> list[int]:
        """Return the numbers of entries that may fit, rising."""
        most = share * sum(8 * m.encoded.packed_bytes for m in self.members)
        d = self._words.shape[1]
        sizes = [p for p in ladder(self.codewords) if p == 1 or _prices(p, d).pool <= most]
        # entries merge again where there are many more than codewords that are not redundant
        apart = int(self._distinct(self._words, self._worth, sizes[-1] // _SPARE).sum())
        return [p for p in sizes if p <= _SPARE * apart]

    def _tables(self, entries: int) -> Tables:
        if entries not in self._made:
            words, nearest = self._clustered(entries)
            pools = [self._pool(member, words, nearest) for member in self.members]
            rounds = min(1, self.config.refits)
            members, _ = settle(self.members, pools, rounds, self.assigner)
            worth = torch.cat([row_importance(m, self.config.measure) for m in members])
            counts = [len(pool.sizes) for pool in pools]
            scope = torch.cat(
                [scope_of_rows(pool) + sum(counts[:i]) for i, pool in enumerate(pools)]
            )
            self._made[entries] = Tables(
                members=members,
                rows=ranking(worth, scope),
                holders=[
                    Holder(scopes=count, codes=(member.encoded.codes.numel(),))
                    for count, member in zip(counts, members, strict=True)
                ],
                prices=_prices(len(words), words.shape[1]),
            )
        return self._made[entries]

    def _clustered(self, entries: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the entries (P, d) in float16, and which of them each codeword became."""
        words, mass = self._words, self._worth
        if entries >= len(words):
            found, nearest = words, torch.arange(len(words), device=words.device)
        elif entries == 1:
            found = (words * mass[:, None]).sum(0, keepdim=True) / mass.sum()
            nearest = torch.zeros(len(words), dtype=torch.int64, device=words.device)
        else:
            config = self.codec.kmeans_config(entries)
            weights = mass[None].float()
            # not one generator for all: what was made before must not matter
            generator = torch.Generator("cpu").manual_seed(self._seed + entries)
            result = self.clusterer(words[None], config, generator=generator, weights=weights)
            found, nearest = result.centroids[0], result.codes[0]
        books = found.clamp(-_FP16_MAX, _FP16_MAX).half()
        worth = torch.zeros(len(books), device=mass.device).double().index_add_(0, nearest, mass)
        keep = self._distinct(books, worth)
        if bool(keep.all()):
            return books, nearest
        return books[keep], self.assigner(words[None], books[keep].float()[None])[0]

    def _distinct(
        self, words: torch.Tensor, worth: torch.Tensor, most: int | None = None
    ) -> torch.Tensor:
        """Return which words stay when redundant ones merge, whatever their scopes."""
        one = torch.zeros_like(worth, dtype=torch.int64)
        return distinct(words, one, worth, self._limit, most)

    def _pool(self, member: Member, words: torch.Tensor, nearest: torch.Tensor) -> Pool:
        """Return the pool with the full tables of a member."""
        pool = member.encoded.pool
        start = self._start[id(pool)]
        entry = nearest[start : start + len(pool.entries)]
        chosen: torch.Tensor = torch.unique(scope_of_rows(pool) * len(words) + entry)
        return _with_table(words, chosen // len(words), chosen % len(words), len(pool.sizes))


def _cut(tables: Tables, rows: int) -> list[Pool]:
    """Keep the first rows of the ranking, and the entries that they name."""
    keep = torch.zeros(len(tables.rows.order), dtype=torch.bool, device=tables.rows.order.device)
    keep[tables.rows.order[:rows]] = True
    pools = [member.encoded.pool for member in tables.members]
    parts = keep.split([len(pool.codewords) for pool in pools])
    cut: list[tuple[torch.Tensor, torch.Tensor]] = []
    for pool, part in zip(pools, parts, strict=True):
        assert pool.table is not None
        cut.append((scope_of_rows(pool)[part], pool.table[part]))
    words = pools[0].entries
    used = torch.zeros(len(words), dtype=torch.bool, device=words.device)
    for _, table in cut:
        used[table] = True
    number, left = used.cumsum(0) - 1, words[used]
    return [
        _with_table(left, scope, number[table], len(pool.sizes))
        for pool, (scope, table) in zip(pools, cut, strict=True)
    ]


def _with_table(words: torch.Tensor, scope: torch.Tensor, table: torch.Tensor, scopes: int) -> Pool:
    sizes = torch.bincount(scope, minlength=scopes)
    return Pool(entries=words, base=torch.cat([sizes.new_zeros(1), sizes.cumsum(0)]), table=table)


def ladder(most: int) -> list[int]:
    """Return 1, 2, 3, 4, 6, 8, 12, ... up to ``most``, and to as many as a table can point to.

    Examples
    --------
    >>> ladder(20)
    [1, 2, 3, 4, 6, 8, 12, 16]
    """
    most = min(most, 1 << MAX_BITS)
    powers = [1 << i for i in range(most.bit_length())]
    return sorted({p for power in powers for p in (power, 3 * power // 2) if p <= most})


def search(sizes: Sequence[int], error: Callable[[int], float]) -> None:
    """Look for the lowest error by Fibonacci search, calling ``error`` once for each size tried.

    It is found if errors fall, then rise (beyond the last size they are infinite); of equal errors
    the search goes on at the smaller size.

    Parameters
    ----------
    sizes
        Rising.
    error
        Infinite where a size does not fit.
    """
    known: dict[int, float] = {}

    def at(i: int) -> float:
        if i not in known:
            known[i] = error(sizes[i - 1]) if i <= len(sizes) else inf
        return known[i]

    short, long = 1, 1
    while short + long <= len(sizes):
        short, long = long, short + long
    below = 0  # the lowest lies above this and below this + short + long
    while long > 1:
        if at(below + short) > at(below + long):
            below += short
        short, long = long - short, short
    at(below + 1)


def _prices(entries: int, d: int) -> Prices:
    return Prices(pool=16 * d * entries, row=code_bits(entries))


def _masses(worth: torch.Tensor) -> torch.Tensor:
    """Importances as weights of a clustering: what is infinite counts like the largest finite."""
    finite = torch.isfinite(worth)
    most = float(worth[finite].max()) if bool(finite.any()) else 1.0
    worth = torch.where(finite, worth, most).clamp_(min=0)
    return worth if bool((worth > 0).any()) else torch.ones_like(worth)
