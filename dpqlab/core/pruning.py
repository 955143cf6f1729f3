"""From the codebooks of k-means to a pool that fits its budget: a path, and a point on it.

Codewords are worth what their *importance* says (``importance.py``). Redundant ones merge into the
more important, then the least important go, and what is left is fitted again at every step. The
ragged form takes codewords from each scope; the indexed form lets all scopes share one pool and
pays for tables (``indexed.py``). Source: Diffusion Product Quantization, arXiv 2411.12306, whose
budget is 1/4 of the bits of the codes; the paper leaves the form of the pool open.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from dpqlab.core.budget import Holder, Prices, Ranking, distinct, largest_fit, ranking
from dpqlab.core.budget import smallest_share as least_share
from dpqlab.core.formats import CodebookCodec
from dpqlab.core.importance import importance_of_members, scope_of_rows
from dpqlab.core.indexed import IndexedPools
from dpqlab.core.kmeans import Assigner, Clusterer, assign, kmeans
from dpqlab.core.pool import Pool, PoolConfig
from dpqlab.core.prune_record import PruneRecord, output_power, record_of
from dpqlab.core.refitting import Member, settle
from dpqlab.errors import ConfigError

POINTS = 24  # of a path, from all codewords down to one a scope
_STRIDE = 0.6  # least share of the codewords that a step towards a budget leaves


def prune_path(
    members: Sequence[Member],
    config: PoolConfig,
    codec: CodebookCodec,
    *,
    generator: torch.Generator,
    clusterer: Clusterer = kmeans,
    assigner: Assigner = assign,
) -> Iterator[PruneRecord]:
    """Prune step by step, whatever the budget: all points from everything to next to nothing.

    The ragged path starts with all codewords, merges redundant ones (where there are any), then
    removes the least important in about 24 geometric steps down to one codeword a scope. The
    indexed path has about 24 budgets in geometric steps, from what the unpruned codebooks take down
    to what the smallest indexed pool takes, with the best indexed pool for each
    (:meth:`IndexedPools.fitted`); budgets that lead to the same pool are one point. Where even the
    smallest takes more than the unpruned codebooks, it is the only point. ``"auto"`` is the one
    path after the other, so no path is empty. At every point codes are chosen again, then
    ``config.refits`` times everything is refitted and codes are chosen again; importances are those
    after that.

    What holds: ``weighted_error <= moved_error`` at every point (refits never hurt), and on the
    ragged path ``moved_error`` is at least the ``weighted_error`` of the point before (removing
    never helps). So without refits the error of the ragged path never falls; with them it may, by
    what the refits earn. Indexed points are made afresh, and promise only the first.

    Parameters
    ----------
    members
        Layers that share a ragged pool (or one layer). For the indexed form their pools may also be
        their own; they end up with one pool and a table each.
    config
        How to prune; ``budget`` plays no part here.
    codec
        The codec that made the codebooks; its k-means makes indexed pools.
    generator
        Source of the randomness of indexed pools.
    clusterer, assigner
        The k-means and the nearest-centroid search to use.
    """
    job = _Job(members, config, codec, assigner)
    if job.ragged:
        yield from _ragged_path(job)
    if job.indexed:
        pools = IndexedPools(job.members, config, codec, generator, clusterer, assigner)
        yield from _indexed_path(job, pools)


def prune(
    members: Sequence[Member],
    config: PoolConfig,
    codec: CodebookCodec,
    *,
    generator: torch.Generator,
    clusterer: Clusterer = kmeans,
    assigner: Assigner = assign,
) -> PruneRecord:
    """Prune until pool and tables fit ``config.budget``: the first point of the path that does.

    The path is walked with longer strides than :func:`prune_path`, and its last step ends exactly
    where the budget is met: no more codewords are removed than have to be (given their ranking at
    that moment; ``dpqlab.core.budget``). On the way one refit a step is enough, at the end there
    are ``config.refits``. For the indexed form the budget itself is the point; the number of
    entries and the length of the tables are chosen as :meth:`IndexedPools.fitted` says. ``"auto"``
    keeps the form with the lower weighted error.

    Parameters
    ----------
    members, config, codec, generator, clusterer, assigner
        As in :func:`prune_path`.

    Raises
    ------
    ConfigError
        If no number of codewords from one a scope up fits the budget, saying what the smallest
        possible is. (With few rows to a codebook the ragged form may never fit 1/4: one codeword
        takes ``16 d`` bits, and a scope with ``k`` of them has ``rows * log2 k`` bits of codes.)
    """
    job = _Job(members, config, codec, assigner)
    found: list[PruneRecord] = []
    least = float("inf")
    if job.ragged:
        point = _ragged_point(job)
        if isinstance(point, PruneRecord):
            found.append(point)
        else:
            least = min(least, point)
    if job.indexed:
        pools = IndexedPools(job.members, config, codec, generator, clusterer, assigner)
        point = _indexed_record(job, pools, config.budget)
        if point is not None:
            found.append(point)
        elif not found:
            least = min(least, pools.smallest_share())
    if not found:
        raise ConfigError(
            f"budget {config.budget:g} of the bits of the codes cannot be met: with at least one "
            f"codeword a scope, pool and tables take {least:.4g} or more; raise the budget, let "
            "more positions or layers share codebooks, or allow form 'indexed'"
        )
    return min(found, key=lambda record: record.weighted_error)


class _Job:
    """What stays the same along a path."""

    def __init__(
        self,
        members: Sequence[Member],
        config: PoolConfig,
        codec: CodebookCodec,
        assigner: Assigner,
    ) -> None:
        _check(members, codec)
        self.members = list(members)
        self.config = config
        self.assigner = assigner
        pool = members[0].encoded.pool
        together = all(m.encoded.pool.entries is pool.entries for m in members)
        if config.form == "ragged" and not together:
            raise ConfigError(
                "layers with pools of their own can only be pruned together with form 'indexed': "
                "prune each by itself"
            )
        # a single codebook of a single layer gains nothing from a table
        single = len(members) == 1 and len(pool.sizes) == 1
        self.ragged = config.form != "indexed" and together
        self.indexed = config.form == "indexed" or (config.form == "auto" and not single)
        self.outputs = (
            None if members[0].gram is None else sum(output_power(m, m.dense()) for m in members)
        )

    @property
    def holders(self) -> list[Holder]:
        """The one holder of a ragged pool."""
        codes = tuple(member.encoded.codes.numel() for member in self.members)
        return [Holder(scopes=len(self.members[0].encoded.pool.sizes), codes=codes)]

    def settle(
        self, members: Sequence[Member], pools: Sequence[Pool], rounds: int | None = None
    ) -> tuple[list[Member], list[Member]]:
        """Move members into pools, see :func:`dpqlab.core.refitting.settle`."""
        rounds = self.config.refits if rounds is None else min(rounds, self.config.refits)
        return settle(members, pools, rounds, self.assigner)

    def record(
        self, members: Sequence[Member], moved: Sequence[Member], merged: int, removed: int
    ) -> PruneRecord:
        """Measure a point."""
        return record_of(members, moved, outputs=self.outputs, merged=merged, removed=removed)


def _ragged_path(job: _Job) -> Iterator[PruneRecord]:
    members, moved = job.settle(job.members, _pools(job.members))
    yield job.record(members, moved, 0, 0)
    whole = len(_pools(members)[0].entries)
    kept = _merged(job, members)
    merged = whole - int(kept.sum())
    if merged:
        members, moved = job.settle(members, _shrunk(members, kept))
        yield job.record(members, moved, merged, 0)
    left = whole - merged
    least = len(_pools(members)[0].sizes)
    for step in range(1, POINTS + 1):
        target = round(left * (least / left) ** (step / POINTS))
        if target < len(_pools(members)[0].entries):
            members, moved = job.settle(members, _shrunk(members, _best(job, members, target)))
            yield job.record(members, moved, merged, left - target)


def _ragged_point(job: _Job) -> PruneRecord | float:
    """Walk until the budget is met; or return the least share that pool and sizes can take."""
    members, merged, removed = job.members, 0, 0
    pool = _pools(members)[0]
    prices = Prices(codeword=16 * pool.d)
    before = len(pool.entries)
    while True:
        pool = _pools(members)[0]
        count = len(pool.entries)
        ranks = _ranks(job, members)
        fit = largest_fit(ranks, job.holders, prices, job.config.budget)
        if fit == count:
            members, moved = job.settle(members, _pools(members))
            return job.record(members, moved, merged, removed)
        if count == before and merged == 0:
            kept = _merged(job, members)
            merged = count - int(kept.sum())
            if merged:
                members, _ = job.settle(members, _shrunk(members, kept), 1)
                continue
        if fit is None:
            return least_share(ranks, job.holders, prices)
        target = max(fit, int(_STRIDE * count))
        members, _ = job.settle(members, _shrunk(members, _first(ranks, target)), 1)
        removed += count - target


def _indexed_path(job: _Job, pools: IndexedPools) -> Iterator[PruneRecord]:
    least = pools.smallest_share()
    # tables may cost a few tiny layers more than their codebooks do
    start = max(least, job.record(job.members, job.members, 0, 0).share)
    last: tuple[int, int] | None = None
    for step in range(POINTS):
        share = start * (least / start) ** (step / (POINTS - 1))
        record = _indexed_record(job, pools, share * (1 + 1e-9))
        if record is not None and (record.codewords, record.removed) != last:
            last = record.codewords, record.removed
            yield record


def _indexed_record(job: _Job, pools: IndexedPools, share: float) -> PruneRecord | None:
    found = pools.fitted(share)
    if found is None:
        return None
    cut, removed = found
    members, moved = job.settle(cut, _pools(cut))
    merged = pools.codewords - len(cut[0].encoded.pool.entries)
    return job.record(members, moved, merged, removed)


def _check(members: Sequence[Member], codec: CodebookCodec) -> None:
    if not members:
        raise ConfigError("nothing to prune: got no members")
    for name in ("moments", "gram"):
        if len({getattr(member, name) is None for member in members}) > 1:
            raise ConfigError(f"{name} of some members only: give those of all, or of none")
    for member in members:
        pool = member.encoded.pool
        if pool.indexed or pool.d != codec.d:
            got = "an indexed pool" if pool.indexed else f"d={pool.d}"
            raise ConfigError(
                f"pruning starts from the ragged codebooks of {codec.describe()}: got {got}"
            )


def _pools(members: Sequence[Member]) -> list[Pool]:
    return [member.encoded.pool for member in members]


def _ranks(job: _Job, members: Sequence[Member]) -> Ranking:
    worth = importance_of_members(members, job.config.measure)
    return ranking(worth, scope_of_rows(_pools(members)[0]))


def _best(job: _Job, members: Sequence[Member], count: int) -> torch.Tensor:
    return _first(_ranks(job, members), count)


def _first(ranks: Ranking, count: int) -> torch.Tensor:
    keep = torch.zeros(len(ranks.order), dtype=torch.bool, device=ranks.order.device)
    keep[ranks.order[:count]] = True
    return keep


def _merged(job: _Job, members: Sequence[Member]) -> torch.Tensor:
    """Return which codewords stay when redundant ones merge."""
    pool = _pools(members)[0]
    worth = importance_of_members(members, job.config.measure)
    limit = job.config.merge * float(pool.entries.double().square().sum(1).mean())
    return distinct(pool.entries, scope_of_rows(pool), worth, limit)


def _shrunk(members: Sequence[Member], keep: torch.Tensor) -> list[Pool]:
    """Return the ragged pool that keeps some codewords, once for each member."""
    pool = _pools(members)[0]
    sizes = torch.bincount(scope_of_rows(pool)[keep], minlength=len(pool.sizes))
    base = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
    return [Pool(entries=pool.entries[keep], base=base)] * len(members)
