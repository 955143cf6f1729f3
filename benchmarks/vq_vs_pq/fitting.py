"""Codebooks of any size: k-means, in two levels where there are very many codewords."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from dpqlab.core import CodebookCodec, Pool, fit_pool
from dpqlab.core.codecs import RESERVOIR
from dpqlab.core.kmeans import KMeansConfig, KMeansResult, inertia_of
from dpqlab.kernels.dispatch import best_assigner, best_clusterer

TWO_LEVELS = 16_384  # from so many codewords on, k-means in two levels


def two_levels(
    points: Tensor,
    config: KMeansConfig,
    *,
    generator: torch.Generator,
    weights: Tensor | None = None,
) -> KMeansResult:
    """k-means of sqrt(k) cells, and within each: a clusterer for large ``k`` (one problem).

    The time grows with sqrt(k). A cell gets codewords in proportion to its inertia to the power
    d / (d + 2), which is the best there is where a cell is uniform and well filled (Zador, 1982).
    """
    assert weights is None and len(points) == 1
    cluster, assign = best_clusterer(points.device), best_assigner(points.device)
    count, d = math.isqrt(config.k), points.shape[-1]
    some = torch.randperm(points.shape[1], generator=generator)[: 256 * count]
    top = cluster(points[:, some], KMeansConfig(k=count, iterations=10), generator=generator)
    cell_of = assign(points, top.centroids)[0]
    order = cell_of.argsort(stable=True)
    cells = points[0, order].split(torch.bincount(cell_of, minlength=count).tolist())
    inertia = torch.tensor([float((cell - cell.mean(0)).square().sum()) for cell in cells])
    sizes = _shares(inertia.double() ** (d / (d + 2)), [len(cell) for cell in cells], config.k)
    found, codes, base = [points[0, :0]], torch.empty(len(order), dtype=torch.int64), 0
    for cell, members, k in zip(cells, order.split([len(c) for c in cells]), sizes, strict=True):
        if not k:
            continue
        inner = replace(config, k=max(2, k), iterations=config.iterations if k > 1 else 0)
        result = cluster(cell[None], inner, generator=generator)
        found.append(result.centroids[0] if k > 1 else cell.mean(0, keepdim=True))
        codes[members] = base + result.codes[0] * (k > 1)
        base += k
    centroids, codes = torch.cat(found)[None], codes[None]
    inertia = inertia_of(points, None, centroids, codes)
    return KMeansResult(
        centroids=centroids, codes=codes, inertia=inertia, iterations=config.iterations
    )


def _shares(mass: Tensor, most: Sequence[int], total: int) -> list[int]:
    """Divide ``total`` in proportion to ``mass``; at most ``most``, and 1 where that is not 0."""
    limit = torch.tensor(most)
    low = limit.clamp(max=1)
    assert int(low.sum()) <= total <= int(limit.sum())
    sizes = (mass / mass.sum() * total).long().clamp(low, limit)
    while rest := total - int(sizes.sum()):
        room = sizes < limit if rest > 0 else sizes > low
        wanting = torch.where(room, mass / sizes.clamp(min=1) * (1 if rest > 0 else -1), -torch.inf)
        chosen = wanting.topk(min(abs(rest), int(room.sum()))).indices
        sizes[chosen] += 1 if rest > 0 else -1
    return sizes.tolist()


def fit(weights: list[Tensor], codec: CodebookCodec, *, seed: int) -> Pool:
    """Fit codebooks; one that many layers share, on 64 sub-vectors a codeword where it is slow."""
    large = codec.k >= TWO_LEVELS
    few = codec.scope == "layer" and not large
    return fit_pool(
        weights,
        codec,
        generator=torch.Generator().manual_seed(seed),
        clusterer=two_levels if large else best_clusterer(),
        reservoir=max(65_536, 64 * codec.k) if few else RESERVOIR,
    )
