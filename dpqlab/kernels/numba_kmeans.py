"""k-means on the CPU with numba: same signatures and meaning as :mod:`dpqlab.core.kmeans`.

Problems are shared out to threads whole where there are many, else by runs of points (for the
search) and by dimensions (for the sums). Either way every number is computed in the same order, so
the result depends neither on the number of threads (``torch.get_num_threads``) nor on which way was
taken. numba itself is imported, and compiles, on the first call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dpqlab.core.kmeans import (
    CHUNK_BYTES,
    KMeansConfig,
    KMeansResult,
    check_same_problems,
    inertia_of,
    prepare,
    sampled_indices,
    subsample,
    uniform,
)
from dpqlab.core.kmeans import assign as reference_assign
from dpqlab.core.kmeans import kmeans as reference_kmeans

MAX_WIDTH = 16  # beyond, a matrix product is the better search
_RUN = 16_384  # points that one thread searches at a time

Array = np.ndarray[Any, Any]
Share = Callable[[Callable[..., Any], Sequence[tuple[Any, ...]]], list[Any]]


@dataclass(frozen=True, kw_only=True)
class _State:
    """Arrays of ``B`` problems as the loops want them; ``c``, ``h``, ``codes`` change in place."""

    x: Array  # points (B, width, N)
    w: Array  # weights (B, N), or (B, 0)
    c: Array  # centroids (B, padded k, width)
    h: Array  # half their squared norms (B, padded k)
    codes: Array  # (B, N) int32
    k: int
    d: int

    @property
    def problems(self) -> int:
        return self.x.shape[0]

    @property
    def axes(self) -> tuple[int, ...]:
        """The width as the loops want it."""
        return (0,) * self.x.shape[1]

    @property
    def runs(self) -> list[tuple[int, int, int]]:
        """Problem, first and last point of each stretch of the search."""
        count = self.x.shape[2]
        starts = range(0, count, _RUN)
        return [(b, n, min(n + _RUN, count)) for b in range(self.problems) for n in starts]


def kmeans(
    points: torch.Tensor,
    config: KMeansConfig,
    *,
    generator: torch.Generator,
    weights: torch.Tensor | None = None,
) -> KMeansResult:
    """Cluster ``B`` problems on the CPU: see :func:`dpqlab.core.kmeans.kmeans`.

    It draws the same random numbers as the reference, so both start from the same centroids (up to
    rounding in k-means++) and take the same steps. Points of more than 16 dimensions go to the
    reference.
    """
    if points.shape[-1] > MAX_WIDTH or points.device.type != "cpu":
        return reference_kmeans(points, config, generator=generator, weights=weights)
    from dpqlab.kernels.lloyd import halve_norms

    points, weights = prepare(points, weights)
    state = _state(points, weights, config.k)
    with _Threads() as share:
        _seed(points, weights, state, config, generator, share)
        for b in range(state.problems):
            halve_norms(state.c[b], state.h[b], state.k)
        whole = config.tolerance == 0.0 and state.problems >= 8
        done = (_by_problems if whole else _by_points)(state, config, share)
    centroids = torch.from_numpy(state.c[:, : state.k, : state.d].copy())
    codes = torch.from_numpy(state.codes).long()
    return KMeansResult(
        centroids=centroids,
        codes=codes,
        inertia=inertia_of(points, weights, centroids, codes),
        iterations=done,
    )


def assign(
    points: torch.Tensor, centroids: torch.Tensor, *, chunk_bytes: int = CHUNK_BYTES
) -> torch.Tensor:
    """Find nearest centroids on the CPU: see :func:`dpqlab.core.kmeans.assign`.

    ``chunk_bytes`` matters only beyond 16 dimensions; else no distances are stored.
    """
    check_same_problems(points, centroids)
    if points.shape[-1] > MAX_WIDTH or points.device.type != "cpu":
        return reference_assign(points, centroids, chunk_bytes=chunk_bytes)
    from dpqlab.kernels.lloyd import halve_norms

    state = _state(points.detach().float(), None, centroids.shape[1])
    state.c[:, : state.k, : state.d] = centroids.detach().float().numpy()
    for b in range(state.problems):
        halve_norms(state.c[b], state.h[b], state.k)
    with _Threads() as share:
        _search(state, share, state.runs)
    return torch.from_numpy(state.codes).long()


class _Threads:
    """A pool of threads that calls one function on many argument tuples."""

    def __enter__(self) -> Share:
        self._threads = torch.get_num_threads()
        self._pool = ThreadPoolExecutor(self._threads)
        return self._share

    def __exit__(self, *failure: object) -> None:
        self._pool.shutdown()

    def _share(self, function: Callable[..., Any], tasks: Sequence[tuple[Any, ...]]) -> list[Any]:
        def work(part: Iterable[tuple[Any, ...]]) -> list[Any]:
            return [function(*task) for task in part]

        if len(tasks) == 1 or self._threads == 1:
            return work(tasks)
        size = -(-len(tasks) // (4 * self._threads))
        parts = [tasks[i : i + size] for i in range(0, len(tasks), size)]
        return [result for part in self._pool.map(work, parts) for result in part]


def _state(points: torch.Tensor, weights: torch.Tensor | None, k: int) -> _State:
    from dpqlab.kernels.lloyd import LANES

    problems, count, d = points.shape
    width = d if d <= 8 else -(-d // 4) * 4
    padded = -(-k // LANES) * LANES
    x = torch.zeros(problems, width, count)
    x[:, :d] = points.transpose(1, 2)
    return _State(
        x=x.numpy(),
        w=np.empty((problems, 0), np.float32) if weights is None else weights.contiguous().numpy(),
        c=np.zeros((problems, padded, width), np.float32),
        h=np.empty((problems, padded), np.float32),
        codes=np.full((problems, count), -1, np.int32),
        k=k,
        d=d,
    )


def _seed(
    points: torch.Tensor,
    weights: torch.Tensor | None,
    state: _State,
    config: KMeansConfig,
    generator: torch.Generator,
    share: Share,
) -> None:
    """Set the initial centroids of ``state``."""
    from dpqlab.kernels.lloyd import plus_plus

    candidates, mass = subsample(points, weights, config, generator)
    c = state.c[:, : state.k]
    if config.init == "sample":
        index = sampled_indices(mass, state.k, generator)[..., None]
        c[..., : state.d] = candidates.gather(1, index.expand(-1, -1, state.d)).numpy()
        return
    draws = uniform(state.k, state.problems, generator).to("cpu").T.contiguous().numpy()
    x = candidates.transpose(1, 2).contiguous().numpy()
    w = mass.contiguous().numpy()
    axes = (0,) * state.d
    share(plus_plus, [(x[b], w[b], draws[b], c[b], axes) for b in range(state.problems)])


def _by_problems(state: _State, config: KMeansConfig, share: Share) -> int:
    """Give each thread whole problems. Returns the most iterations that any of them took."""
    from dpqlab.kernels.lloyd import lloyd

    sums = np.empty((state.problems, state.d + 1, state.k))
    arrays = zip(state.x, state.w, state.codes, sums, state.c, state.h, strict=True)
    return max(share(lloyd, [(*each, state.axes, config.iterations) for each in arrays]))


def _by_points(state: _State, config: KMeansConfig, share: Share) -> int:
    """Divide each step of few large problems among the threads."""
    sums = np.empty((state.problems, state.d + 1, state.k))
    runs = state.runs
    _search(state, share, runs)
    inertia = _inertia(state) if config.tolerance else None
    for done in range(1, config.iterations + 1):
        _step(state, sums, sorted({b for b, _, _ in runs}), share)
        changed = _search(state, share, runs)
        runs = [run for run in runs if run[0] in changed]
        if not runs:
            return done
        if inertia is not None:
            before, inertia = inertia, _inertia(state)
            if (before - inertia <= config.tolerance * before).all():
                return done
    return config.iterations


def _search(state: _State, share: Share, runs: Sequence[tuple[int, int, int]]) -> set[int]:
    """Assign points; return the problems in which a code changed."""
    from dpqlab.kernels.lloyd import assign as loop

    x, c, h, codes = state.x, state.c, state.h, state.codes
    tasks = [(x[b], c[b], h[b], codes[b], state.axes, first, last) for b, first, last in runs]
    changed = share(loop, tasks)
    return {run[0] for run, moved in zip(runs, changed, strict=True) if moved}


def _step(state: _State, sums: Array, problems: Sequence[int], share: Share) -> None:
    """Move the centroids of some problems."""
    from dpqlab.kernels.lloyd import accumulate, move

    def inputs(b: int) -> tuple[Array, Array, Array, Array]:
        return state.x[b], state.w[b], state.codes[b], sums[b]

    dimensions = range(state.d + 1)
    share(accumulate, [(*inputs(b), i, i + 1) for b in problems for i in dimensions])
    share(move, [(*inputs(b), state.c[b], state.h[b]) for b in problems])


def _inertia(state: _State) -> Array:
    points = torch.from_numpy(state.x[:, : state.d]).transpose(1, 2)
    weights = torch.from_numpy(state.w) if state.w.shape[1] else None
    centroids = torch.from_numpy(state.c[:, : state.k, : state.d])
    codes = torch.from_numpy(state.codes).long()
    return inertia_of(points, weights, centroids, codes).numpy()
