"""Batched, weighted k-means: many small problems at once, on any device.

This is the reference that faster versions are tested against. The work of one Lloyd iteration is
the ``B * N * k`` distances; they are made tile by tile, so memory stays bounded whatever the
problem. On the CPU the result depends on the generator alone; on other devices atomic additions (in
float64) may reorder sums.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol, get_args

import torch

from dpqlab.core.memory import with_less
from dpqlab.core.precision import exact_float32
from dpqlab.errors import ConfigError, ShapeError

Init = Literal["kmeans++", "sample"]
MAX_K = 65_536
CHUNK_BYTES = 1 << 26  # scratch memory of one tile of distances


@dataclass(frozen=True, kw_only=True)
class KMeansConfig:
    """How to cluster.

    Attributes
    ----------
    k
        Number of centroids, 2 to 65,536.
    iterations
        Most Lloyd iterations; it stops earlier once no code changes.
    init
        ``"kmeans++"`` (Arthur and Vassilvitskii, 2007) or ``"sample"`` (points drawn without
        replacement). Either looks at a seeded subsample when there are many points: 64 for each
        centroid, but not fewer than 16,384 nor more than 262,144.
    tolerance
        Stop once an iteration lowers every problem's inertia by less than this share.
    """

    k: int
    iterations: int = 20
    init: Init = "kmeans++"
    tolerance: float = 0.0

    def __post_init__(self) -> None:
        if not 2 <= self.k <= MAX_K:
            raise ConfigError(f"k must lie in 2..{MAX_K}: got {self.k}")
        if self.iterations < 0:
            raise ConfigError(f"iterations must not be negative: got {self.iterations}")
        if self.init not in get_args(Init):
            raise ConfigError(f"unknown init: got {self.init!r}, expected one of {get_args(Init)}")
        if not 0.0 <= self.tolerance < 1.0:
            raise ConfigError(f"tolerance must lie in [0, 1): got {self.tolerance}")


@dataclass(frozen=True, kw_only=True, eq=False)
class KMeansResult:
    """What k-means found for ``B`` problems.

    Attributes
    ----------
    centroids
        float32 of shape (B, k, d).
    codes
        int64 of shape (B, N): the nearest of ``centroids`` for every point, lowest index on ties.
    inertia
        float64 of shape (B,): weighted sum of squared distances of the points to their centroids.
    iterations
        Lloyd iterations done.
    """

    centroids: torch.Tensor
    codes: torch.Tensor
    inertia: torch.Tensor
    iterations: int


class Clusterer(Protocol):
    """Anything that clusters like :func:`kmeans`."""

    def __call__(
        self,
        points: torch.Tensor,
        config: KMeansConfig,
        *,
        generator: torch.Generator,
        weights: torch.Tensor | None = None,
    ) -> KMeansResult:
        """Cluster ``B`` problems at once."""
        ...


class Assigner(Protocol):
    """Anything that finds nearest centroids like :func:`assign`."""

    def __call__(
        self, points: torch.Tensor, centroids: torch.Tensor, *, chunk_bytes: int = CHUNK_BYTES
    ) -> torch.Tensor:
        """Find the nearest centroids of ``B`` problems at once."""
        ...


def kmeans(
    points: torch.Tensor,
    config: KMeansConfig,
    *,
    generator: torch.Generator,
    weights: torch.Tensor | None = None,
) -> KMeansResult:
    """Cluster ``B`` independent problems with Lloyd's algorithm.

    A centroid that loses all its points is moved to the point with the largest weighted error (the
    next empty one to the point with the next largest, and so on). Where a problem has fewer than
    ``k`` distinct points of positive weight, the surplus centroids repeat points and no point uses
    them.

    Parameters
    ----------
    points
        Finite values of shape (B, N, d), taken as float32.
    config
        See :class:`KMeansConfig`.
    generator
        Source of the initial centroids; may live on another device than ``points``.
    weights
        Non-negative importance of each point, shape (B, N); all equal if absent. A problem whose
        weights are all zero is clustered as if they were all one.

    Returns
    -------
    KMeansResult
        Centroids, final codes and inertia, on the device of ``points``.

    Raises
    ------
    ShapeError
        If shapes do not fit together.
    ConfigError
        If a value is not finite, or a weight is negative.
    """
    points, weights = prepare(points, weights)
    centroids = _initial_centroids(points, weights, config, generator)
    codes = _nearest(points, centroids, CHUNK_BYTES)
    inertia = inertia_of(points, weights, centroids, codes) if config.tolerance else None
    done = 0
    while done < config.iterations:
        done += 1
        centroids = _updated(points, weights, centroids, codes)
        previous, codes = codes, _nearest(points, centroids, CHUNK_BYTES)
        if torch.equal(previous, codes):
            break
        if inertia is not None:
            before, inertia = inertia, inertia_of(points, weights, centroids, codes)
            if bool((before - inertia <= config.tolerance * before).all()):
                break
    codes = _lowest_equal(centroids).gather(1, codes)
    return KMeansResult(
        centroids=centroids,
        codes=codes,
        inertia=inertia_of(points, weights, centroids, codes),
        iterations=done,
    )


def assign(
    points: torch.Tensor, centroids: torch.Tensor, *, chunk_bytes: int = CHUNK_BYTES
) -> torch.Tensor:
    """Find the nearest centroid of every point; the lowest index wins among equal centroids.

    Parameters
    ----------
    points
        Shape (B, N, d), taken as float32.
    centroids
        Shape (B, k, d), taken as float32.
    chunk_bytes
        Scratch memory for distances, in bytes; less is taken where memory runs out.

    Returns
    -------
    torch.Tensor
        int64 codes of shape (B, N).
    """
    check_same_problems(points, centroids)
    points, centroids = points.float(), centroids.float()
    return _lowest_equal(centroids).gather(1, _nearest(points, centroids, chunk_bytes))


def check_same_problems(points: torch.Tensor, centroids: torch.Tensor) -> None:
    """Refuse points (B, N, d) and centroids (B, k, d) that do not belong together."""
    same = points.ndim == centroids.ndim == 3 and points.shape[::2] == centroids.shape[::2]
    if not same or centroids.shape[1] == 0:
        raise ShapeError(
            "points (B, N, d) and centroids (B, k, d) must agree in B and d, with k > 0: "
            f"got {tuple(points.shape)} and {tuple(centroids.shape)}"
        )


def prepare(
    points: torch.Tensor, weights: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Validate the input of :func:`kmeans` and return it as float32."""
    if points.ndim != 3 or 0 in points.shape:
        raise ShapeError(f"points must have shape (B, N, d), none zero: got {tuple(points.shape)}")
    if not bool(torch.isfinite(points).all()):
        raise ConfigError("points hold NaN or infinity: clustering needs finite values")
    points = points.float()
    if weights is None:
        return points, None
    if weights.shape != points.shape[:2]:
        raise ShapeError(
            f"weights must have the shape (B, N) of the points, {tuple(points.shape[:2])}: "
            f"got {tuple(weights.shape)}"
        )
    if not bool((torch.isfinite(weights) & (weights >= 0)).all()):
        raise ConfigError("weights must be finite and not negative")
    weights = weights.to(points)
    return points, torch.where(weights.sum(1, keepdim=True) > 0, weights, 1.0)


def subsample(
    points: torch.Tensor,
    weights: torch.Tensor | None,
    config: KMeansConfig,
    generator: torch.Generator,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the points (B, n, d) that initialisation may choose from, and their weights (B, n)."""
    problems, count, _ = points.shape
    if weights is None:
        weights = points.new_ones(problems, count)
    limit = max(16_384, min(64 * config.k, 262_144))
    if count <= limit:
        return points, weights
    chosen = torch.randperm(count, generator=generator, device=generator.device)[:limit]
    chosen = chosen.to(points.device)
    taken = weights[:, chosen]
    # a subsample without any weight would leave nothing to choose from
    return points[:, chosen], torch.where(taken.sum(1, keepdim=True) > 0, taken, 1.0)


def uniform(rows: int, columns: int, generator: torch.Generator) -> torch.Tensor:
    """Draw float64 numbers in [0, 1) of shape (rows, columns) on the generator's device."""
    device = generator.device
    return torch.rand(rows, columns, generator=generator, device=device, dtype=torch.float64)


def sampled_indices(weights: torch.Tensor, k: int, generator: torch.Generator) -> torch.Tensor:
    """Draw ``k`` indices (B, k) of positive weight, repeating only when there are fewer."""
    keys = uniform(weights.shape[0], weights.shape[1], generator).to(weights.device)
    order = torch.where(weights > 0, keys, -1.0).argsort(dim=1, descending=True, stable=True)
    available = (weights > 0).sum(1, keepdim=True)
    return order.gather(1, torch.arange(k, device=weights.device) % available)


def _initial_centroids(
    points: torch.Tensor,
    weights: torch.Tensor | None,
    config: KMeansConfig,
    generator: torch.Generator,
) -> torch.Tensor:
    candidates, mass = subsample(points, weights, config, generator)
    if config.init == "sample":
        return _rows(candidates, sampled_indices(mass, config.k, generator))
    draws = uniform(config.k, points.shape[0], generator).to(points.device)
    chosen = _weighted_draw(mass.double(), draws[0])
    centroids = [_rows(candidates, chosen)]
    nearest = torch.full_like(mass, torch.inf)
    for draw in draws[1:]:
        nearest = torch.minimum(nearest, (candidates - centroids[-1]).square().sum(-1))
        centroids.append(_rows(candidates, _weighted_draw((mass * nearest).double(), draw, mass)))
    return torch.cat(centroids, dim=1)


def _weighted_draw(
    chances: torch.Tensor, draw: torch.Tensor, fallback: torch.Tensor | None = None
) -> torch.Tensor:
    """Turn uniform draws (B,) into indices (B, 1) distributed like ``chances`` (B, n)."""
    if fallback is not None:
        # every point sits on a centroid already: repeat one of them
        chances = torch.where(chances.sum(1, keepdim=True) > 0, chances, fallback.double())
    ladder = chances.cumsum(1)
    targets = draw[:, None] * ladder[:, -1:]
    found = torch.searchsorted(ladder, targets, right=True)
    return found.clamp_(max=chances.shape[1] - 1)


def _rows(points: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Pick points (B, n, d) by index (B, k): (B, k, d)."""
    return points.gather(1, index[..., None].expand(-1, -1, points.shape[-1]))


def _tiles(problems: int, count: int, k: int, chunk_bytes: int) -> Iterator[tuple[slice, slice]]:
    """Cut B problems of N points into tiles whose float32 distances fit into ``chunk_bytes``."""
    budget = max(1, chunk_bytes // (4 * k))
    points = min(count, budget)
    batch = max(1, budget // points)
    for b in range(0, problems, batch):
        for n in range(0, count, points):
            yield slice(b, b + batch), slice(n, n + points)


def _nearest(points: torch.Tensor, centroids: torch.Tensor, chunk_bytes: int) -> torch.Tensor:
    """Codes (B, N) of the nearest centroids; with less scratch memory where it runs out."""
    return with_less(partial(_nearest_with, points, centroids), chunk_bytes)


def _nearest_with(points: torch.Tensor, centroids: torch.Tensor, chunk_bytes: int) -> torch.Tensor:
    """Search by ``|c|^2 - 2 p.c``: ``|p|^2`` changes nothing."""
    problems, count, _ = points.shape
    square = centroids.square().sum(-1)[:, None]
    turned = centroids.transpose(1, 2)
    codes = torch.empty(problems, count, dtype=torch.int64, device=points.device)
    with exact_float32():
        for b, n in _tiles(problems, count, centroids.shape[1], chunk_bytes):
            distances = torch.baddbmm(square[b], points[b, n], turned[b], alpha=-2.0)
            torch.argmin(distances, dim=-1, out=codes[b, n])
    return codes


def _updated(
    points: torch.Tensor,
    weights: torch.Tensor | None,
    centroids: torch.Tensor,
    codes: torch.Tensor,
) -> torch.Tensor:
    """Weighted means (B, k, d) of the points of each centroid; empty ones go where the error is."""
    problems, k, d = centroids.shape
    flat = (codes + k * torch.arange(problems, device=codes.device)[:, None]).reshape(-1)
    values = torch.cat([points, torch.ones_like(points[..., :1])], dim=-1).double()
    if weights is not None:
        values *= weights[..., None]
    sums = values.new_zeros(problems * k, d + 1).index_add_(0, flat, values.reshape(-1, d + 1))
    sums = sums.reshape(problems, k, d + 1)
    mass = sums[..., -1:]
    empty = mass[..., 0] <= 0
    means = (sums[..., :-1] / mass.clamp_min(torch.finfo(mass.dtype).tiny)).float()
    most = int(empty.sum(1).max())
    if most == 0:
        return means
    error = (points - _rows(centroids, codes)).square().sum(-1)
    if weights is not None:
        error *= weights
    worst = error.topk(min(most, error.shape[1]), dim=1).indices
    rank = (empty.cumsum(1) - 1).clamp_(min=0) % worst.shape[1]
    return torch.where(empty[..., None], _rows(points, worst.gather(1, rank)), means)


def inertia_of(
    points: torch.Tensor,
    weights: torch.Tensor | None,
    centroids: torch.Tensor,
    codes: torch.Tensor,
) -> torch.Tensor:
    """Return the weighted sums (B,) of squared distances to the chosen centroids, in float64."""
    error = (points - _rows(centroids, codes)).square().sum(-1).double()
    return (error if weights is None else error * weights).sum(1)


def _lowest_equal(centroids: torch.Tensor) -> torch.Tensor:
    """Map every centroid of (B, k, d) to the lowest index (B, k) that holds the same vector.

    A matrix product may round equal centroids differently, so ties are settled here.
    """
    order = torch.arange(centroids.shape[1], device=centroids.device)[None]
    order = order.expand(centroids.shape[:2])
    for values in centroids.unbind(-1):  # least significant key first: a radix sort of the vectors
        order = order.gather(1, values.gather(1, order).argsort(dim=1, stable=True))
    ranked = _rows(centroids, order)
    fresh = torch.ones_like(order, dtype=torch.bool)
    fresh[:, 1:] = (ranked[:, 1:] != ranked[:, :-1]).any(-1)
    start = torch.where(fresh, torch.arange(order.shape[1], device=order.device), 0)
    leader = order.gather(
        1, start.cummax(1).values
    )  # stable sort: a run starts at its lowest index
    return torch.empty_like(order).scatter_(1, order, leader)
