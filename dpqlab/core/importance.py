"""What a codeword is worth: how often it is used, how much that matters, what losing it costs."""

# torch leaves tolist and unique untyped
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import torch

from dpqlab.core.formats import Encoded
from dpqlab.core.pool import Measure, Pool
from dpqlab.core.refitting import Member, position_books, position_moments, unit_points
from dpqlab.errors import ConfigError


def importance(
    weight: torch.Tensor,
    encoded: Encoded,
    measure: Measure,
    moments: torch.Tensor | None = None,
) -> torch.Tensor:
    """Measure what every entry of a layer's pool is worth to it.

    ``"usage"`` counts the sub-vectors that use an entry. ``"weighted"`` counts each of them
    ``scale[r]**2`` times the mean second moment of the layer's input over the ``d`` columns of its
    position (padding columns have none). ``"removal"`` is the exact rise of the weighted error
    (see :mod:`dpqlab.core.refitting`) if that one entry were removed and the sub-vectors that use
    it moved to the best remaining code of their scope: infinite where a scope would be left without
    codewords, negative where codes are not the best there are.

    Parameters
    ----------
    weight
        The matrix (out, in).
    encoded
        Its codes.
    measure
        One of the three.
    moments
        Second moments of the layer's input, shape (in,); None counts all columns alike.

    Returns
    -------
    torch.Tensor
        float64 of shape (P,). In an indexed pool the sum over all scopes that use the entry.
    """
    member = Member(weight=weight, encoded=encoded, moments=moments)
    return to_entries(row_importance(member, measure), encoded.pool)


def importance_of_members(members: Sequence[Member], measure: Measure) -> torch.Tensor:
    """Return the sum of :func:`importance` over layers that hold the same pool entries, (P,)."""
    total = torch.zeros(len(members[0].encoded.pool.entries), dtype=torch.float64)
    for member in members:
        rows = row_importance(member, measure)
        total = total.to(rows.device) + to_entries(rows, member.encoded.pool)
    return total


def to_entries(rows: torch.Tensor, pool: Pool) -> torch.Tensor:
    """Sum what belongs to the codes of all scopes, (T,), for every entry of the pool, (P,)."""
    if pool.table is None:
        return rows
    return rows.new_zeros(len(pool.entries)).index_add_(0, pool.table, rows)


def row_importance(member: Member, measure: Measure) -> torch.Tensor:
    """Measure what every code of every scope is worth, float64 of shape (T,), T = base[-1].

    Where one entry has several codes in a scope, the first of them counts for all.
    """
    if measure not in get_args(Measure):
        raise ConfigError(
            f"unknown measure: got {measure!r}, expected one of {', '.join(get_args(Measure))}"
        )
    encoded, pool = member.encoded, member.encoded.pool
    first = _first_of_equal(pool)
    row = first[pool.base[encoded.scope_of] + encoded.codes]
    total = torch.zeros(len(first), dtype=torch.float64, device=row.device)
    if measure == "removal":
        total[_lonely(pool, first)] = torch.inf
        counts = _rises(member, row, first)
    elif measure == "usage":
        counts = torch.ones_like(row, dtype=torch.float64)
    else:
        counts = position_moments(member).mean(1).expand(row.shape)
        if encoded.scale is not None:
            counts = counts * encoded.scale.double().square()[:, None]
    return total.index_add_(0, row.reshape(-1), counts.reshape(-1))


def _rises(member: Member, row: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
    """Return by how much each sub-vector's weighted error rises without its code, (out, m)."""
    encoded, pool = member.encoded, member.encoded.pool
    points = unit_points(member).transpose(0, 1)
    moments = position_moments(member)
    own = (row - pool.base[encoded.scope_of]).T
    rises = torch.zeros(own.shape, dtype=torch.float64, device=own.device)
    repeated = first != torch.arange(len(first), device=first.device)
    for g, books, real in position_books(pool, encoded.scope_of, len(row)):
        index = pool.base[encoded.scope_of[g], None] + torch.arange(
            books.shape[1], device=row.device
        )
        useless = ~real | repeated[index.clamp_(max=len(first) - 1)]
        # |x|^2 is the same for all codes
        norms = (books.square() * moments[g, None]).sum(-1).masked_fill_(useless, torch.inf)
        turned = (books * moments[g, None]).transpose(1, 2)
        far = torch.baddbmm(norms[:, None], points[g], turned, alpha=-2.0)
        mine = far.gather(2, own[g, :, None])
        rises[g] = far.scatter_(2, own[g, :, None], torch.inf).amin(2) - mine[..., 0]
    rises = rises.T
    if encoded.scale is not None:
        rises = rises * encoded.scale.double().square()[:, None]
    # without another code there is nothing to move to: the caller says infinite, used or not
    return torch.where(torch.isfinite(rises), rises, 0.0)


def _first_of_equal(pool: Pool) -> torch.Tensor:
    """Return for every code of every scope the first one of its scope with its entry, (T,)."""
    rows = torch.arange(int(pool.base[-1]), device=pool.base.device)
    if pool.table is None:
        return rows
    key = scope_of_rows(pool) * len(pool.entries) + pool.table
    _, group = torch.unique(key, return_inverse=True)
    lowest = torch.full_like(rows, len(rows))
    return lowest.scatter_reduce_(0, group, rows, "amin")[group]


def _lonely(pool: Pool, first: torch.Tensor) -> torch.Tensor:
    """Return the rows that are the only entry of their scope."""
    distinct: torch.Tensor = first.unique()
    scope = scope_of_rows(pool)[distinct]
    return distinct[torch.bincount(scope)[scope] == 1]


def scope_of_rows(pool: Pool) -> torch.Tensor:
    """Return the scope of every code of every scope, (T,)."""
    scopes = torch.arange(len(pool.base) - 1, device=pool.base.device)
    return scopes.repeat_interleave(pool.base.diff())
