"""Fit codebooks, encode a weight with them, decode it: one path for VQ, PQ and all between.

Everything a codec needs can be imported from here: the descriptions in ``formats.py`` and the
scalar baseline in ``scalar.py`` too.
"""

# torch leaves tolist, unique and nonzero untyped
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from dpqlab.core.formats import (
    CodebookCodec,
    Codec,
    Encoded,
    EncodedScalar,
    ScalarCodec,
    codec_from_dict,
)
from dpqlab.core.kmeans import Assigner, Clusterer, assign, kmeans
from dpqlab.core.lazy import LazyWeight, dense
from dpqlab.core.packing import code_bits
from dpqlab.core.pool import Pool
from dpqlab.core.scalar import decode_scalar_weight, scalar_decode, scalar_encode
from dpqlab.core.scope import scope_of_positions
from dpqlab.core.subvectors import join, position_count, split
from dpqlab.errors import ConfigError, ShapeError

__all__ = [
    "CodebookCodec",
    "Codec",
    "Encoded",
    "EncodedScalar",
    "Pool",
    "ScalarCodec",
    "code_bits",
    "codec_from_dict",
    "decode",
    "decode_scalar_weight",
    "decode_weight",
    "encode",
    "fit_pool",
    "relative_error",
    "row_rms",
    "scalar_decode",
    "scalar_encode",
]

RESERVOIR = 2_000_000
_FP16_MAX = 65_504.0
_FAR = 1e18  # squared it still fits into float32, and nothing is nearer to it than to a codeword


def fit_pool(
    weights: Sequence[torch.Tensor | LazyWeight],
    codec: CodebookCodec,
    *,
    generator: torch.Generator,
    clusterer: Clusterer = kmeans,
    sample_weights: Sequence[torch.Tensor] | None = None,
    reservoir: int = RESERVOIR,
) -> Pool:
    """Cluster sub-vectors into the codebooks of one layer, or of all layers that share them.

    With ``row_scale`` each row is divided by its fp16 RMS, and counts as ``RMS**2``: what is
    minimised is the squared error of the weights, whatever the codec.

    Parameters
    ----------
    weights
        Finite matrices of shape (out, in). Exactly one, unless ``codec.across`` says that layers
        share codebooks. Unless the scope is ``"layer"``, position g of all of them shares: their
        rows are stacked, and ``in`` must be equal. A lazy one is read once, when its turn comes.
    codec
        What to fit. Scopes with fewer than ``k`` sub-vectors get a codebook of as many codewords as
        they have sub-vectors: the pool's ``base`` tells.
    generator
        Source of all randomness.
    clusterer
        The k-means to use.
    sample_weights
        Importance of every sub-vector, one tensor of shape (out, m) for each weight.
    reservoir
        Most sub-vectors to look at when layers share codebooks. Layers contribute in proportion to
        their size, by a seeded draw without replacement (of whole rows where rows are stacked).

    Returns
    -------
    Pool
        float16 entries on the device of the first weight.

    Raises
    ------
    ShapeError
        If the weights are not matrices, ``sample_weights`` do not fit them, or weights that share
        codebooks position by position differ in ``in``.
    ConfigError
        If several weights come with ``across="layer"``, or a value is not finite in float16.
    """
    if not weights or (len(weights) > 1 and codec.across == "layer"):
        raise ConfigError(f"across={codec.across!r} is fitted on one weight: got {len(weights)}")
    if sample_weights is not None and len(sample_weights) != len(weights):
        raise ShapeError(f"{len(weights)} weights but {len(sample_weights)} sample_weights")
    importance = [None] * len(weights) if sample_weights is None else sample_weights
    pairs = (_prepared(dense(w), codec, i) for w, i in zip(weights, importance, strict=True))
    if codec.across == "layer":
        points, mass = next(pairs)
    else:
        points, mass = _reservoir(pairs, _stacked_shape(weights, codec), reservoir, generator)
    scopes = scope_of_positions(codec.scope, points.shape[1], codec.group)
    books: dict[int, torch.Tensor] = {}
    for ids, positions in _batches(scopes.to(points.device)):
        batch = _gathered(points, positions, len(ids))
        weight = None if mass is None else _gathered(mass[..., None], positions, len(ids))[..., 0]
        k = min(codec.k, batch.shape[1])
        found = clusterer(batch, codec.kmeans_config(k), generator=generator, weights=weight)
        books |= zip(ids.tolist(), found.centroids[:, :k], strict=True)
    entries = torch.cat([books[s] for s in range(len(books))])
    sizes = torch.tensor([0] + [len(books[s]) for s in range(len(books))])
    if float(entries.abs().max()) > _FP16_MAX:
        raise ConfigError("codewords exceed float16: use row_scale=True for weights this large")
    return Pool(entries=entries.half(), base=sizes.cumsum(0).to(entries.device))


def encode(
    weight: torch.Tensor, codec: CodebookCodec, pool: Pool, *, assigner: Assigner = assign
) -> Encoded:
    """Replace every sub-vector of a weight by the nearest codeword of its scope.

    With ``row_scale`` the scale starts as the row's RMS and, once codes are known, becomes the
    least squares fit wherever that (rounded to fp16) lowers the row's error.

    Parameters
    ----------
    weight
        Matrix of shape (out, in).
    codec
        The codec that ``pool`` was fitted for.
    pool
        The codewords, on the device of ``weight``; codebooks may differ in size.
    assigner
        The nearest-centroid search to use.
    """
    if pool.d != codec.d:
        raise ShapeError(f"codec has d={codec.d} but the pool has codewords of {pool.d} values")
    points, _ = _prepared(weight, codec, None)
    scope_of = scope_of_positions(codec.scope, points.shape[1], codec.group).to(weight.device)
    scopes = int(scope_of[-1]) + 1
    if scopes != len(pool.sizes):
        raise ShapeError(
            f"{codec.describe()} on a weight of shape {tuple(weight.shape)} has {scopes} scopes, "
            f"but the pool has {len(pool.sizes)}: fit a pool for this weight"
        )
    books = _padded_books(pool)
    codes = torch.empty(points.shape[:2], dtype=torch.int64, device=weight.device)
    for ids, positions in _batches(scope_of):
        found = assigner(_gathered(points, positions, len(ids)), books[ids])
        codes[:, positions] = found.reshape(len(ids), len(codes), -1).transpose(0, 1).flatten(1)
    encoded = Encoded(
        codes=codes,
        pool=pool,
        scope_of=scope_of,
        scale=row_rms(weight) if codec.row_scale else None,
        shape=(weight.shape[0], weight.shape[1]),
    )
    return _rescaled(weight, encoded) if codec.row_scale else encoded


def decode(encoded: Encoded, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Rebuild the weight (out, in): ``scale[r] * entries[entry(scope_of[g], codes[r, g])]``."""
    return decode_weight(
        encoded.codes,
        encoded.pool.entries,
        encoded.pool.base,
        encoded.scope_of,
        encoded.scale,
        encoded.shape[1],
        dtype,
        encoded.pool.table,
    )


def decode_weight(
    codes: torch.Tensor,
    entries: torch.Tensor,
    base: torch.Tensor,
    scope_of: torch.Tensor,
    scale: torch.Tensor | None,
    in_features: int,
    dtype: torch.dtype = torch.float32,
    table: torch.Tensor | None = None,
) -> torch.Tensor:
    """Decode from bare tensors; differentiable in ``entries`` and ``scale``.

    Computes in float32 (float64 if ``dtype`` is) and rounds once, so the result does not depend on
    the device.

    Parameters
    ----------
    codes
        Integers of shape (out, m).
    entries
        Codewords of shape (P, d), any floating type.
    base
        int64 of shape (S + 1,).
    scope_of
        int64 of shape (m,).
    scale
        Shape (out,), or None.
    in_features
        Columns of the weight; padding beyond them is dropped.
    dtype
        Of the result.
    table
        int64 of shape (base[-1],): the entry of every code of every scope, in order; None for a
        ragged pool, where a scope's entries are a run of the pool.

    Returns
    -------
    torch.Tensor
        Shape (out, in_features).
    """
    wide = torch.promote_types(dtype, torch.float32)
    index = base[scope_of] + codes
    sub = entries.to(wide)[index if table is None else table[index]]
    weight = join(sub, in_features)
    if scale is not None:
        weight = weight * scale.to(wide)[:, None]
    return weight.to(dtype)


def relative_error(weight: torch.Tensor, decoded: torch.Tensor) -> float:
    """Return ``||W - W'||^2 / ||W||^2`` (0 for a zero weight that is met exactly)."""
    if weight.shape != decoded.shape:
        raise ShapeError(f"shapes differ: {tuple(weight.shape)} and {tuple(decoded.shape)}")
    reference = weight.detach().double()
    missed = (reference - decoded.detach().double()).square().sum()
    return float(missed / reference.square().sum()) if bool(missed) else 0.0


def row_rms(weight: torch.Tensor) -> torch.Tensor:
    """Return the root mean square of each row, float16 of shape (out,)."""
    return weight.float().square().mean(1).sqrt().clamp_(max=_FP16_MAX).half()


def _prepared(
    weight: torch.Tensor, codec: CodebookCodec, importance: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Sub-vectors (out, m, d) as they are clustered, and what each of them (out, m) counts."""
    if not bool(torch.isfinite(weight).all()):
        raise ConfigError("the weight holds NaN or infinity: nothing can be fitted to it")
    points = split(weight.detach().float(), codec.d)
    if importance is not None:
        if importance.shape != points.shape[:2]:
            raise ShapeError(
                f"sample_weights must have shape {tuple(points.shape[:2])}: "
                f"got {tuple(importance.shape)}"
            )
        importance = importance.to(points)
    if not codec.row_scale:
        return points, importance
    rms = row_rms(weight).float()
    points = torch.where(rms > 0, 1 / rms, 0.0)[:, None, None] * points
    mass = rms.square()[:, None].expand(points.shape[:2])
    return points, mass if importance is None else mass * importance


def _stacked_shape(
    weights: Sequence[torch.Tensor | LazyWeight], codec: CodebookCodec
) -> tuple[int, int]:
    """Return how the sub-vectors of all weights are stacked: (rows, positions that are apart)."""
    if codec.scope == "layer":
        return sum(w.shape[0] * position_count(w.shape[1], codec.d) for w in weights), 1
    widths = sorted({w.shape[1] for w in weights})
    if len(widths) > 1:
        raise ShapeError(
            f"{codec.describe()} shares codebooks position by position: in_features must be equal, "
            f"got {widths}; use scope 'layer'"
        )
    return sum(w.shape[0] for w in weights), position_count(widths[0], codec.d)


def _reservoir(
    pairs: Iterator[tuple[torch.Tensor, torch.Tensor | None]],
    stacked: tuple[int, int],
    reservoir: int,
    generator: torch.Generator,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Stack all points as ``stacked`` (rows, m'), or a draw of rows with ``reservoir`` points."""
    total, apart = stacked
    keep = min(total, max(1, reservoir // apart))
    points: list[torch.Tensor] = []
    mass: list[torch.Tensor] = []
    seen = 0
    for sub, weight in pairs:
        rows = sub.reshape(-1, apart, sub.shape[-1])
        quota = (seen + len(rows)) * keep // total - seen * keep // total
        seen += len(rows)
        weight = None if weight is None else weight.reshape(-1, apart)
        if keep < total:
            chosen = torch.randperm(len(rows), generator=generator, device=generator.device)
            chosen = chosen[:quota].to(rows.device)
            rows = rows[chosen]
            weight = None if weight is None else weight[chosen]
        points.append(rows)
        if weight is not None:
            mass.append(weight)
    device = points[0].device
    together = torch.cat([p.to(device) for p in points])
    return together, torch.cat([w.to(device) for w in mass]) if mass else None


def _batches(scope_of: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield scopes (S',) that own equally many positions, with those positions, (S' * count,)."""
    counts = torch.bincount(scope_of)
    for count in counts.unique().tolist():
        ids = (counts == count).nonzero()[:, 0]
        yield ids, (counts[scope_of] == count).nonzero()[:, 0]


def _gathered(sub: torch.Tensor, positions: torch.Tensor, scopes: int) -> torch.Tensor:
    """Turn sub-vectors (out, m, d) into one problem a scope: (scopes, out * count, d)."""
    rows, _, d = sub.shape
    picked = sub[:, positions].reshape(rows, scopes, -1, d)
    return picked.transpose(0, 1).reshape(scopes, -1, d)


def _padded_books(pool: Pool) -> torch.Tensor:
    """Codebooks as one float32 tensor (S, k, d); short ones end in codewords far from all."""
    sizes = pool.base.diff()
    k = int(sizes.max())
    slots = torch.arange(k, device=pool.base.device)
    index = (pool.base[:-1, None] + slots).clamp_(max=int(pool.base[-1]) - 1)
    words = pool.codewords.float()[index]
    return torch.where((slots < sizes[:, None])[..., None], words, _FAR)


def _rescaled(weight: torch.Tensor, encoded: Encoded) -> Encoded:
    """Refit the row scales by least squares, keeping the old one wherever it was better."""
    assert encoded.scale is not None
    target = weight.detach().float()
    unit = decode(replace(encoded, scale=None))
    norm = unit.square().sum(1)
    fitted = ((target * unit).sum(1) / norm).half()
    usable = (norm > 0) & torch.isfinite(fitted)
    old = (target - encoded.scale.float()[:, None] * unit).square().sum(1)
    new = (target - fitted.float()[:, None] * unit).square().sum(1)
    scale = torch.where(usable & (new < old), fitted, encoded.scale)
    return replace(encoded, scale=scale)
