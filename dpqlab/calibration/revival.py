"""Dead codewords start again where they are needed.

While codes and codewords move, some codewords end up serving next to nothing. arXiv 2411.12306
restarts those with fewer than 256 sub-vectors (on DiT-XL/2) from a reservoir of past vectors. Here
the reservoir is drawn from the sub-vectors that are served worst, and a restart is kept only if
it lowers the error of the layer as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dpqlab.core.formats import Encoded
from dpqlab.core.pool import Pool
from dpqlab.core.subvectors import split
from dpqlab.errors import ConfigError, ShapeError


@dataclass(frozen=True, kw_only=True)
class RevivalConfig:
    """Which codewords are dead, and where they may start again.

    Attributes
    ----------
    share
        A codeword is dead if it serves fewer sub-vectors than this share of the average codeword.
    count
        Sub-vectors below which it is dead, in place of ``share``; arXiv 2411.12306 uses 256.
    reservoir
        Sub-vectors drawn, without replacement, with chances in proportion to their error.
    tries
        The worst served of the reservoir that are tried as restarts of each codeword.
    """

    share: float = 1 / 16
    count: int | None = None
    reservoir: int = 4096
    tries: int = 16

    def __post_init__(self) -> None:
        if not 0.0 <= self.share < float("inf"):
            raise ConfigError(f"share must not be negative: got {self.share}")
        if self.count is not None and self.count < 0:
            raise ConfigError(f"count must not be negative: got {self.count}")
        if self.reservoir < 1 or self.tries < 1:
            raise ConfigError(
                f"reservoir and tries must be at least 1: got {self.reservoir} and {self.tries}"
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class Revival:
    """A layer after its dead codewords started again.

    ``entries`` (P, d) in the dtype of the pool's and ``codes`` (out, m) are new; ``revived`` (R,)
    lists the pool entries that moved. The errors are weighted sums of squares over the layer,
    rows of scale 0 left out; ``error_after`` is never above ``error_before``.
    """

    entries: Tensor
    codes: Tensor
    revived: Tensor
    error_before: float
    error_after: float


def revive(
    weight: Tensor,
    encoded: Encoded,
    *,
    generator: torch.Generator,
    sample_weights: Tensor | None = None,
    config: RevivalConfig | None = None,
) -> Revival:
    """Restart the dead codewords of a layer, and give each the sub-vectors that it serves best.

    A codeword restarts at a sub-vector of its own scope (indexed form: of a scope that lists it).
    Those who used it move to the next best of their codebook, unless the new one suits them. All
    other codes stay as they are.

    Parameters
    ----------
    weight
        What the layer should hold, (out, in). Where layers share a pool, stack them: their rows if
        the positions are shared, else all sub-vectors as rows of ``d`` columns.
    encoded
        The layer as it is. Its scales turn weights into the units of codewords, and errors back.
    generator
        Draws the reservoir.
    sample_weights
        What errors count, (out, m); or of three dimensions, to be expanded to (out, m, d), such as
        ``split(moments[None], d)`` of column moments. All alike if absent.
    config
        See :class:`RevivalConfig`.

    Returns
    -------
    Revival

    Raises
    ------
    ShapeError
        If weight or sample weights do not fit the layer.
    """
    config = RevivalConfig() if config is None else config
    layer = _Layer(weight, encoded, sample_weights)
    before = float(layer.error.sum())
    revived: list[int] = []
    dead, limit = _dead(layer, config)
    reservoir = _reservoir(layer.error, config.reservoir, generator)
    for entry in dead:
        if int((layer.index == entry).sum()) < limit and layer.restart(
            entry, reservoir, config.tries
        ):
            revived.append(entry)
    return Revival(
        entries=layer.entries.to(encoded.pool.entries.dtype),
        codes=layer.codes.view(encoded.codes.shape),
        revived=torch.tensor(revived, dtype=torch.int64, device=layer.codes.device),
        error_before=before,
        error_after=float(layer.error.sum()) if revived else before,
    )


class _Layer:
    """N sub-vectors in the units of codewords, their codes, and the error of each; float64."""

    def __init__(self, weight: Tensor, encoded: Encoded, importance: Tensor | None) -> None:
        if tuple(weight.shape) != encoded.shape:
            raise ShapeError(
                f"the weight has shape {tuple(weight.shape)}: expected {encoded.shape}"
            )
        pool: Pool = encoded.pool
        points = split(weight.detach().double(), pool.d)
        mass = _mass(points, importance)
        if encoded.scale is not None:
            scale = encoded.scale.detach().double()[:, None, None]
            points = torch.where(scale != 0, points / scale, 0.0)
            mass = mass * scale.square()
        self.base, self.scope_of = pool.base, encoded.scope_of
        self.points = points.reshape(-1, pool.d)
        self.mass = mass.expand(points.shape).reshape(-1, pool.d)
        self.codes = encoded.codes.flatten().clone()
        self.index = pool.entry_indices(encoded.codes, encoded.scope_of).flatten()
        self.entries = pool.entries.detach().double()
        self.stored = pool.entries.dtype
        rows = torch.arange(len(self.entries), device=pool.base.device)
        self.table = rows if pool.table is None else pool.table
        self.error = self._costs(self.points, self.mass, self.entries[self.index])

    @staticmethod
    def _costs(points: Tensor, mass: Tensor, words: Tensor) -> Tensor:
        return (mass * (points - words).square()).sum(-1)

    def _all_costs(self, members: Tensor, words: Tensor) -> Tensor:
        """Return the error (n, w) of each member if it were served by each of the words."""
        points, mass = self.points[members], self.mass[members]
        square = (mass * points.square()).sum(1, keepdim=True)
        costs = square - 2 * (mass * points) @ words.T + mass @ words.square().T
        return costs.clamp_(min=0.0)

    def _listings(self, entry: int) -> Iterator[tuple[int, int, Tensor]]:
        """Yield every scope that lists an entry, with its code there and the scope's members."""
        m = len(self.scope_of)
        starts = torch.arange(0, len(self.codes), m, device=self.codes.device)
        seen: set[int] = set()
        for slot in (self.table == entry).nonzero()[:, 0]:
            scope = int(torch.searchsorted(self.base, slot, right=True)) - 1
            if scope not in seen:
                seen.add(scope)
                positions = (self.scope_of == scope).nonzero()[:, 0]
                yield scope, int(slot - self.base[scope]), (starts[:, None] + positions).flatten()

    def restart(self, entry: int, reservoir: Tensor, tries: int) -> bool:
        """Move an entry to the best of a few restarts; False if none lowers the total error."""
        found = list(self._listings(entry))
        if not found:  # a table need not list every entry
            return False
        members = torch.cat([part for _, _, part in found])
        mine = torch.cat([torch.full_like(part, code) for _, code, part in found])
        worst = self._worst(members, reservoir, tries)
        if not len(worst):
            return False
        # without the entry: its users go to the next best, everyone else stays
        codes, index, error = (old[members] for old in (self.codes, self.index, self.error))
        first = 0
        for scope, _, part in found:
            users = (self.index[part] == entry).nonzero()[:, 0]
            codes[first + users], index[first + users], error[first + users] = self._next_best(
                part[users], scope, entry
            )
            first += len(part)
        starts = self.points[worst].to(self.stored).double()
        starts = starts[starts.isfinite().all(1)]
        totals = torch.minimum(error[:, None], self._all_costs(members, starts)).sum(0)
        if not len(totals):
            return False
        start = starts[totals.argmin()]
        costs = self._costs(self.points[members], self.mass[members], start)
        served = costs < error
        error = torch.where(served, costs, error)
        old = self.error[members].sum()
        if not bool(error.sum() < old * (1 - 1e-12)):
            return False
        self.entries[entry] = start
        self.codes[members] = torch.where(served, mine, codes)
        self.index[members] = torch.where(served, entry, index)
        self.error[members] = error
        return True

    def _worst(self, members: Tensor, reservoir: Tensor, tries: int) -> Tensor:
        """Return the members of the reservoir with the largest error, which is not 0."""
        eligible = torch.zeros(len(self.error), dtype=torch.bool, device=self.error.device)
        eligible[members] = True
        near = reservoir[eligible[reservoir] & (self.error[reservoir] > 0)]
        return near[self.error[near].topk(min(tries, len(near))).indices]

    def _next_best(self, users: Tensor, scope: int, entry: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return code, entry and error of users served by all of their codebook but ``entry``."""
        listed = self.table[int(self.base[scope]) : int(self.base[scope + 1])]
        costs = self._all_costs(users, self.entries[listed])
        costs[:, listed == entry] = torch.inf
        codes = costs.argmin(1)
        error = self._costs(self.points[users], self.mass[users], self.entries[listed[codes]])
        # a codebook of this one entry leaves no choice but the restart
        return codes, listed[codes], torch.where(listed[codes] == entry, torch.inf, error)


def _mass(points: Tensor, importance: Tensor | None) -> Tensor:
    """Return what errors count, in three dimensions that expand to those of points (out, m, d)."""
    if importance is None:
        return points.new_ones(1, 1, 1)
    mass = importance[..., None] if importance.ndim == 2 else importance
    fits = mass.ndim == 3 and all(
        have in (1, want) for have, want in zip(mass.shape, points.shape, strict=True)
    )
    if not fits or (importance.ndim == 2 and importance.shape != points.shape[:2]):
        raise ShapeError(
            f"sample_weights have shape {tuple(importance.shape)}: expected "
            f"{tuple(points.shape[:2])}, or what expands to {tuple(points.shape)}"
        )
    return mass.to(points)


def _dead(layer: _Layer, config: RevivalConfig) -> tuple[list[int], float]:
    """Return the dead entries, least used first, and the usage that would make them live."""
    usage = torch.bincount(layer.index, minlength=len(layer.entries))
    average = len(layer.index) / len(layer.entries)
    limit = config.share * average if config.count is None else float(config.count)
    order = usage.argsort(stable=True)
    return order[usage[order] < limit].tolist(), limit


def _reservoir(error: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Draw sub-vectors without replacement, with chances in proportion to their error."""
    device = generator.device
    waits = torch.empty(len(error), dtype=torch.float64, device=device)
    waits = waits.exponential_(generator=generator).to(error.device) / error
    count = min(size, int((error > 0).sum()))
    return waits.topk(count, largest=False).indices
