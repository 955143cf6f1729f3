"""The loops of k-means, compiled by numba. Importing this module needs numba.

Points lie as (d, N), so that the search for the nearest centroid runs over many points at once:
each vector lane holds one point, and four centroids pass by in registers. For that the compiler
must know ``d``. It reads it off the argument ``axes``, a tuple of ``d`` zeros: the length of a
tuple is part of its type, so numba compiles, and caches, one version for each ``d``.

All loops release the GIL and none starts threads: ``numba_kmeans.py`` divides the work so that
results do not depend on how many there are.
"""

from __future__ import annotations

import numpy as np

from dpqlab.kernels.jit import compiled

LANES = 4  # centroids that pass by together; codebooks are padded to a multiple
_TILE = 512  # points searched together; they stay in the first-level cache
_BLOCK = 128  # points in a partial sum of k-means++
_INFINITY = np.float32(np.inf)

Axes = tuple[int, ...]


@compiled()
def halve_norms(c: np.ndarray, h: np.ndarray, k: int) -> None:
    """Set ``h[j] = |c[j]|^2 / 2``; infinity from ``k`` on, so that padding is never nearest."""
    for j in range(c.shape[0]):
        total = np.float32(0.0)
        for i in range(c.shape[1]):
            total += c[j, i] * c[j, i]
        h[j] = total * np.float32(0.5) if j < k else _INFINITY


@compiled()
def accumulate(
    x: np.ndarray, w: np.ndarray, codes: np.ndarray, sums: np.ndarray, first: int, last: int
) -> None:
    """Add up dimensions ``first`` to ``last - 1`` of the points of every centroid.

    ``sums`` is (d + 1, k) in float64; its last row is the weight of the points. Points are taken in
    order, so the result is the same however dimensions are divided among threads.
    """
    mass = sums.shape[0] - 1
    weighted = w.shape[0] > 0
    for i in range(first, last):
        row = sums[i]
        row[:] = 0.0
        for n in range(codes.shape[0]):
            value = 1.0 if i == mass else np.float64(x[i, n])
            row[codes[n]] += value * w[n] if weighted else value


@compiled()
def move(
    x: np.ndarray,
    w: np.ndarray,
    codes: np.ndarray,
    sums: np.ndarray,
    c: np.ndarray,
    h: np.ndarray,
) -> None:
    """Move every centroid to its mean, and empty ones to the points with the largest error."""
    d, k = sums.shape[0] - 1, sums.shape[1]
    empty = 0
    for j in range(k):
        empty += sums[d, j] <= 0.0
    worst = _worst(x, w, codes, c, d, empty) if empty else np.empty(0, np.int64)
    rank = 0
    for j in range(k):
        if sums[d, j] > 0.0:
            for i in range(d):
                c[j, i] = sums[i, j] / sums[d, j]
        else:
            for i in range(d):
                c[j, i] = x[i, worst[rank % worst.shape[0]]]
            rank += 1
    halve_norms(c, h, k)


@compiled()
def _worst(
    x: np.ndarray, w: np.ndarray, codes: np.ndarray, c: np.ndarray, d: int, most: int
) -> np.ndarray:
    """Return the ``most`` points with the largest weighted error, largest first."""
    count = codes.shape[0]
    error = np.zeros(count, np.float32)
    for n in range(count):
        for i in range(d):
            away = x[i, n] - c[codes[n], i]
            error[n] += away * away
        if w.shape[0] > 0:
            error[n] *= w[n]
    most = min(most, count)
    if most > 32:
        return np.argsort(-error, kind="mergesort")[:most]
    found = np.empty(most, np.int64)
    for r in range(most):
        found[r] = np.argmax(error)
        error[found[r]] = -1.0
    return found


@compiled()
def _distances(x: np.ndarray, c: np.ndarray, away: np.ndarray, axes: Axes) -> None:
    """Set ``away`` to the squared distances of a run of points to ``c``."""
    for n in range(x.shape[1]):
        total = np.float32(0.0)
        for i in range(len(axes)):
            step = x[i, n] - c[i]
            total += step * step
        away[n] = total


@compiled("reassoc")
def _chances(away: np.ndarray, w: np.ndarray, nearest: np.ndarray, start: int, stop: int) -> float:
    """Lower ``nearest`` to the distances ``away``; return the sum of weight times distance."""
    total = np.float32(0.0)
    for n in range(start, stop):
        nearest[n] = min(nearest[n], away[n - start])
        total += nearest[n] * w[n]
    return np.float64(total)


@compiled()
def _pick(nearest: np.ndarray, w: np.ndarray, blocks: np.ndarray, draw: float) -> int:
    """Draw an index by chances ``nearest * w``, whose sums by blocks are ``blocks``."""
    target = draw * blocks.sum()
    b = 0
    last = blocks.shape[0] - 1
    while b < last and target >= blocks[b]:
        target -= blocks[b]
        b += 1
    while b > 0 and blocks[b] <= 0.0:
        b -= 1
    found = -1
    for n in range(b * _BLOCK, min((b + 1) * _BLOCK, w.shape[0])):
        chance = nearest[n] * w[n]
        if chance > 0.0:
            found = n
            target -= chance
            if target < 0.0:
                break
    return max(found, 0)


@compiled()
def plus_plus(x: np.ndarray, w: np.ndarray, draws: np.ndarray, c: np.ndarray, axes: Axes) -> None:
    """Choose initial centroids ``c`` (k, >= d) among points ``x`` (d, n) by k-means++.

    ``w`` (n,) are the weights, ``draws`` (k,) the uniform random numbers.
    """
    count = x.shape[1]
    ones = np.ones(count, np.float32)
    blocks = np.empty((count + _BLOCK - 1) // _BLOCK, np.float64)
    for b in range(blocks.shape[0]):
        blocks[b] = w[b * _BLOCK : (b + 1) * _BLOCK].sum()
    by_weight = blocks.copy()
    nearest, away = np.full(count, _INFINITY, np.float32), np.empty(_BLOCK, np.float32)
    chosen = _pick(ones, w, by_weight, draws[0])
    for j in range(draws.shape[0]):
        if j > 0:
            # once every point sits on a centroid, repeat some
            covered = blocks.sum() <= 0.0
            chosen = (
                _pick(ones, w, by_weight, draws[j])
                if covered
                else _pick(nearest, w, blocks, draws[j])
            )
        for i in range(len(axes)):
            c[j, i] = x[i, chosen]
        for b in range(blocks.shape[0]):
            start, stop = b * _BLOCK, min((b + 1) * _BLOCK, count)
            _distances(x[:, start:stop], c[j], away, axes)
            blocks[b] = _chances(away, w, nearest, start, stop)


@compiled()
def _nearest(
    x: np.ndarray, c: np.ndarray, h: np.ndarray, best: np.ndarray, code: np.ndarray, axes: Axes
) -> None:
    """Search among centroids ``c`` for a whole tile; ``|c|^2/2 - x.c`` orders like distance."""
    for p in range(_TILE):
        best[p] = _INFINITY
        code[p] = 0
    for j in range(0, c.shape[0], LANES):
        for p in range(_TILE):
            s0, s1, s2, s3 = h[j], h[j + 1], h[j + 2], h[j + 3]
            for i in range(len(axes)):
                v = x[i, p]
                s0 -= v * c[j, i]
                s1 -= v * c[j + 1, i]
                s2 -= v * c[j + 2, i]
                s3 -= v * c[j + 3, i]
            low, at = best[p], code[p]
            if s0 < low:
                low, at = s0, np.int32(j)
            if s1 < low:
                low, at = s1, np.int32(j + 1)
            if s2 < low:
                low, at = s2, np.int32(j + 2)
            if s3 < low:
                low, at = s3, np.int32(j + 3)
            best[p], code[p] = low, at


@compiled()
def assign(
    x: np.ndarray,
    c: np.ndarray,
    h: np.ndarray,
    codes: np.ndarray,
    axes: Axes,
    first: int,
    last: int,
) -> bool:
    """Set the codes of points ``first`` to ``last - 1``; return whether any changed."""
    held = np.zeros((len(axes), _TILE), np.float32)
    best = np.empty(_TILE, np.float32)
    code = np.empty(_TILE, np.int32)
    changed = False
    for start in range(first, last, _TILE):
        size = min(_TILE, last - start)
        for i in range(len(axes)):
            for p in range(size):
                held[i, p] = x[i, start + p]
        _nearest(held, c, h, best, code, axes)
        for p in range(size):
            changed |= codes[start + p] != code[p]
            codes[start + p] = code[p]
    return changed


@compiled()
def lloyd(
    x: np.ndarray,
    w: np.ndarray,
    codes: np.ndarray,
    sums: np.ndarray,
    c: np.ndarray,
    h: np.ndarray,
    axes: Axes,
    iterations: int,
) -> int:
    """Run one problem from its first assignment to convergence; return the iterations taken."""
    count = x.shape[1]
    assign(x, c, h, codes, axes, 0, count)
    for done in range(1, iterations + 1):
        accumulate(x, w, codes, sums, 0, sums.shape[0])
        move(x, w, codes, sums, c, h)
        if not assign(x, c, h, codes, axes, 0, count):
            return done
    return iterations
