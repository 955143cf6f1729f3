"""Choose codes again, and fit codewords and row scales to what they stand for.

Everything here lowers, or at least never raises, the *weighted error* of a layer, the error of its
output as far as the input's columns are independent of each other::

    sum_rj  moments[j] * (W[r, j] - scale[r] * codeword[r, j])**2

Padding columns have no moments, and so no say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch.nn.functional import pad

from dpqlab.core.codecs import decode
from dpqlab.core.formats import Encoded
from dpqlab.core.kmeans import CHUNK_BYTES, Assigner, assign
from dpqlab.core.pool import Pool
from dpqlab.core.subvectors import split
from dpqlab.errors import ConfigError, ShapeError

_FP16_MAX = 65_504.0
_FAR = 1e18  # squared it still fits into float32, and nothing is nearer to it than to a codeword


@dataclass(frozen=True, kw_only=True, eq=False)
class Member:
    """A layer that uses a pool, alone or with others.

    Attributes
    ----------
    weight
        The matrix (out, in) that is approximated; of a lazy member only its shape is looked at.
    encoded
        Its codes; members that share codewords hold the same ``pool.entries``.
    moments
        Second moments ``E[x_j**2]`` of the layer's input, shape (in,); None counts all columns
        alike.
    gram
        ``E[x x^T]`` of the layer's input, shape (in, in); only measures the output error.
    read
        Makes the member lazy: returns the matrix, anew at every call, so that the matrices of many
        members need not be in memory together. ``weight`` may be on the meta device then.
    """

    weight: torch.Tensor
    encoded: Encoded
    moments: torch.Tensor | None = None
    gram: torch.Tensor | None = None
    read: Callable[[], torch.Tensor] | None = None

    def dense(self) -> torch.Tensor:
        """Return the matrix (out, in), read now if the member is lazy."""
        return (self.weight if self.read is None else self.read()).detach()

    def __post_init__(self) -> None:
        columns = self.encoded.shape[1]
        if tuple(self.weight.shape) != self.encoded.shape:
            raise ShapeError(
                f"the weight has shape {tuple(self.weight.shape)}, but the codes are those of one "
                f"of shape {self.encoded.shape}"
            )
        if self.gram is not None and self.gram.shape != (columns, columns):
            raise ShapeError(f"gram must be ({columns}, {columns}): got {tuple(self.gram.shape)}")
        if self.moments is None:
            return
        if self.moments.shape != (columns,):
            raise ShapeError(f"moments must be ({columns},): got {tuple(self.moments.shape)}")
        if not bool((torch.isfinite(self.moments) & (self.moments >= 0)).all()):
            raise ConfigError("moments must be finite and not negative")


def reencode(
    weight: torch.Tensor,
    encoded: Encoded,
    pool: Pool,
    moments: torch.Tensor | None = None,
    *,
    assigner: Assigner = assign,
) -> Encoded:
    """Choose the codes again for a changed pool, by the weighted error; row scales stay.

    If ``pool`` still has every codeword that was in use, the weighted error does not rise (beyond
    the float32 rounding of two distances that are equal to seven digits).

    Parameters
    ----------
    weight
        The matrix (out, in).
    encoded
        Its present codes and row scales, in any pool with the same scopes.
    pool
        The pool to use from now on.
    moments
        As in :class:`Member`.
    assigner
        The nearest-centroid search to use.
    """
    member = Member(weight=weight, encoded=encoded, moments=moments)
    scopes = int(encoded.scope_of[-1]) + 1
    if pool.d != encoded.pool.d or len(pool.sizes) != scopes:
        raise ShapeError(
            f"the codes have d={encoded.pool.d} and {scopes} scopes, but the pool has d={pool.d} "
            f"and {len(pool.sizes)}"
        )
    points = unit_points(member).transpose(0, 1)
    root = position_moments(member).sqrt()[:, None]
    codes = torch.empty(
        encoded.codes.shape, dtype=_codes_dtype(encoded, pool), device=weight.device
    )
    for g, books, real in position_books(pool, encoded.scope_of):
        near = torch.where(real[..., None], books * root[g], _FAR)
        codes[:, g] = assigner((points[g] * root[g]).float(), near.float()).T
    return replace(encoded, codes=codes, pool=pool)


def _codes_dtype(encoded: Encoded, pool: Pool) -> torch.dtype:
    """Codes that were narrow stay so, if the new pool's fit."""
    dtype = encoded.codes.dtype
    return dtype if max(pool.sizes) - 1 <= torch.iinfo(dtype).max else torch.int64


def refit(weight: torch.Tensor, encoded: Encoded, moments: torch.Tensor | None = None) -> Encoded:
    """Fit the codewords, then the row scales, of one layer: see :func:`refit_members`."""
    return refit_members([Member(weight=weight, encoded=encoded, moments=moments)])[0]


def refit_members(members: Sequence[Member]) -> tuple[Encoded, ...]:
    """Fit codewords and row scales to the codes as they are; the weighted error never rises.

    Every value of a codeword becomes the mean of the values that it stands for, each counted
    ``scale[r]**2 * moments[j]``, unless the old value is better than the new one rounded to the
    pool's dtype. Then every row scale becomes the weighted least squares fit, where that (rounded
    to fp16) is better.

    Parameters
    ----------
    members
        Layers that hold the same ``pool.entries``; their tables may differ.
    """
    entries = members[0].encoded.pool.entries
    if any(member.encoded.pool.entries is not entries for member in members):
        raise ConfigError("members must hold the same pool entries: refit the others apart")
    mass = torch.zeros(entries.shape, dtype=torch.float64, device=entries.device)
    pull = mass.clone()
    for member in members:
        _gather_fit(member, mass, pull)
    limit = _FP16_MAX if entries.dtype == torch.float16 else torch.inf
    new = torch.where(mass > 0, pull / mass, 0.0).clamp_(-limit, limit).to(entries)
    old, fresh = entries.double(), new.double()
    # both errors less what does not depend on the codeword
    better = mass * fresh.square() - 2 * pull * fresh < mass * old.square() - 2 * pull * old
    fitted = torch.where((mass > 0) & better, new, entries)
    pools = {id(m.encoded.pool): replace(m.encoded.pool, entries=fitted) for m in members}
    return tuple(
        _rescaled(replace(member, encoded=replace(e, pool=pools[id(e.pool)])))
        for member in members
        for e in (member.encoded,)
    )


def weighted_errors(member: Member) -> tuple[float, float]:
    """Return the weighted error of a member, and what it would be if all was lost, in float64."""
    moments = 1.0 if member.moments is None else member.moments.double()
    weight = member.dense().double()
    missed = (weight - decode(member.encoded)).square() * moments
    return float(missed.sum()), float((weight.square() * moments).sum())


def weighted_error(members: Sequence[Member]) -> float:
    """Return the weighted error of all members together, relative to losing everything."""
    missed, whole = (sum(part) for part in zip(*map(weighted_errors, members), strict=True))
    return missed / whole if missed else 0.0


def settle(
    members: Sequence[Member], pools: Sequence[Pool], rounds: int, assigner: Assigner = assign
) -> tuple[list[Member], list[Member]]:
    """Move members into changed pools: choose codes, then ``rounds`` times refit and choose again.

    Parameters
    ----------
    members
        Layers in pools with the same scopes.
    pools
        The pool of each member from now on, all with the same ``entries``.
    rounds
        How often to refit; codes are chosen once more than that.
    assigner
        The nearest-centroid search to use.

    Returns
    -------
    settled, moved : list of Member
        After all rounds, and after the first choice of codes alone: what the refits have earned is
        the difference.
    """
    moved = [_reencoded(member, p, assigner) for member, p in zip(members, pools, strict=True)]
    settled = moved
    for _ in range(rounds):
        settled = [
            _reencoded(member, fitted.pool, assigner, fitted)
            for member, fitted in zip(settled, refit_members(settled), strict=True)
        ]
    return settled, moved


def _reencoded(
    member: Member, pool: Pool, assigner: Assigner, encoded: Encoded | None = None
) -> Member:
    encoded = reencode(
        member.dense(), encoded or member.encoded, pool, member.moments, assigner=assigner
    )
    return replace(member, encoded=encoded)


def position_moments(member: Member) -> torch.Tensor:
    """Second moments of every column of every position, float64 (m, d); zero for padding."""
    encoded = member.encoded
    columns, d = encoded.shape[1], encoded.pool.d
    moments = torch.ones(columns) if member.moments is None else member.moments
    moments = moments.to(encoded.codes.device, torch.float64)
    return pad(moments, (0, -columns % d)).reshape(-1, d)


def unit_points(member: Member) -> torch.Tensor:
    """Sub-vectors as the codewords see them, divided by the row scale: float64 (out, m, d)."""
    points = split(member.dense().double(), member.encoded.pool.d)
    scale = member.encoded.scale
    if scale is None:
        return points
    wide = scale.double()[:, None, None]
    return torch.where(wide != 0, points / wide, 0.0)


def position_books(
    pool: Pool, scope_of: torch.Tensor, rows: int = 1
) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor]]:
    """Yield runs of positions with their codebooks, so few at a time that memory stays bounded.

    Yields
    ------
    positions : slice
    books : Tensor
        float64 codewords (count, k, d), k the size of the largest codebook of the pool.
    real : Tensor
        bool (count, k): False where a smaller codebook has ended.
    """
    sizes = pool.base.diff()
    k = int(sizes.max())
    slots = torch.arange(k, device=pool.base.device)
    words = pool.codewords.double()
    step = max(1, CHUNK_BYTES // (8 * k * max(rows, pool.d)))
    for start in range(0, len(scope_of), step):
        scopes = scope_of[start : start + step]
        index = (pool.base[scopes, None] + slots).clamp_(max=len(words) - 1)
        yield slice(start, start + step), words[index], slots < sizes[scopes, None]


def _gather_fit(member: Member, mass: torch.Tensor, pull: torch.Tensor) -> None:
    """Add what a member's sub-vectors weigh, and pull at, to each value of each codeword."""
    encoded = member.encoded
    index = encoded.pool.entry_indices(encoded.codes, encoded.scope_of).reshape(-1)
    points = split(member.dense().double(), encoded.pool.d)
    counts = position_moments(member).expand(points.shape)
    if encoded.scale is not None:
        scale = encoded.scale.double()[:, None, None]
        points, counts = points * counts * scale, counts * scale.square()
    else:
        points = points * counts
    mass.index_add_(0, index, counts.reshape(-1, encoded.pool.d))
    pull.index_add_(0, index, points.reshape(-1, encoded.pool.d))


def _rescaled(member: Member) -> Encoded:
    """Refit the row scales by weighted least squares, keeping the old one where it is better."""
    encoded = member.encoded
    if encoded.scale is None:
        return encoded
    moments = 1.0 if member.moments is None else member.moments.double()
    unit = decode(replace(encoded, scale=None), torch.float64)
    norm = (unit.square() * moments).sum(1)
    pull = (unit * member.dense().double() * moments).sum(1)
    fitted = (pull / norm).half()
    new, old = fitted.double(), encoded.scale.double()
    better = norm * new.square() - 2 * pull * new < norm * old.square() - 2 * pull * old
    usable = (norm > 0) & torch.isfinite(fitted) & better
    return replace(encoded, scale=torch.where(usable, fitted, encoded.scale))
