from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans

from dpqlab.core import KMeansConfig, KMeansResult, assign, kmeans
from dpqlab.errors import ConfigError, ShapeError


def run(
    points: torch.Tensor, seed: int = 0, weights: torch.Tensor | None = None, **config: Any
) -> KMeansResult:
    generator = torch.Generator().manual_seed(seed)
    return kmeans(points, KMeansConfig(**config), generator=generator, weights=weights)


def squared_distances(points: torch.Tensor, centroids: torch.Tensor) -> torch.Tensor:
    return (points[:, :, None] - centroids[:, None]).double().square().sum(-1)


@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 30), st.integers(1, 9)),
    k=st.integers(1, 20),
    seed=st.integers(0, 1000),
)
@settings(max_examples=50)
def test_assign_is_brute_force(shape: tuple[int, int, int], k: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(shape, generator=generator)
    centroids = torch.randn(shape[0], k, shape[2], generator=generator)
    distances = squared_distances(points, centroids)
    chosen = distances.gather(2, assign(points, centroids)[..., None])[..., 0]
    torch.testing.assert_close(chosen, distances.amin(2), rtol=1e-5, atol=1e-5)


def test_lowest_index_wins_ties() -> None:
    points = torch.randn(2, 500, 4)
    some = torch.randn(2, 7, 4)
    repeated = some[:, [3, 0, 3, 1, 2, 4, 5, 6, 0, 3, 6, 2, 1]]
    assert set(assign(points, repeated).unique().tolist()) == {0, 1, 3, 4, 5, 6, 7}


def test_chunks_change_nothing() -> None:
    points, centroids = torch.randn(3, 101, 4), torch.randn(3, 16, 4)
    whole = assign(points, centroids)
    for chunk_bytes in (1, 64 * 7, 64 * 101 * 2):
        assert assign(points, centroids, chunk_bytes=chunk_bytes).equal(whole)


def test_where_memory_runs_out_fewer_distances_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(3, 101, 4, generator=generator)
    config = KMeansConfig(k=16)
    whole = kmeans(points, config, generator=torch.Generator().manual_seed(1))
    product, failed = torch.baddbmm, []

    def small_machine(*tensors: torch.Tensor, **settings: float) -> torch.Tensor:
        found = product(*tensors, **settings)
        if found.numel() > 16 * 20:
            failed.append(found.numel())
            raise MemoryError
        return found

    monkeypatch.setattr(torch, "baddbmm", small_machine)
    small = kmeans(points, config, generator=torch.Generator().manual_seed(1))
    assert failed
    assert small.codes.equal(whole.codes)
    assert small.centroids.equal(whole.centroids)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("init", ["kmeans++", "sample"])
def test_steps_are_those_of_scikit_learn(init: str, weighted: bool) -> None:
    points = torch.randn(2, 600, 4)
    weights = torch.rand(2, 600) ** 2 if weighted else None
    start = run(points, weights=weights, k=16, init=init, iterations=0).centroids
    result = run(points, weights=weights, k=16, init=init, iterations=8)
    for b in range(2):
        oracle = KMeans(16, init=start[b].numpy(), n_init=1, max_iter=8, tol=0)
        oracle.fit(points[b].numpy(), sample_weight=None if weights is None else weights[b].numpy())
        np.testing.assert_allclose(result.centroids[b], oracle.cluster_centers_, atol=1e-4)
        assert float(result.inertia[b]) == pytest.approx(oracle.inertia_, rel=1e-4)


def test_inertia_is_as_good_as_scikit_learns() -> None:
    points = torch.randn(1, 3000, 4, generator=torch.Generator().manual_seed(3))
    ours = run(points, k=32, iterations=50).inertia
    theirs = KMeans(32, n_init=1, max_iter=50, random_state=0).fit(points[0].numpy()).inertia_
    assert float(ours) == pytest.approx(theirs, rel=0.03)


def test_result_is_consistent() -> None:
    points, weights = torch.randn(3, 200, 5), torch.rand(3, 200)
    result = run(points, weights=weights, k=9)
    assert result.centroids.dtype == torch.float32
    assert result.codes.dtype == torch.int64
    assert result.inertia.dtype == torch.float64
    assert result.codes.equal(assign(points, result.centroids))
    distances = squared_distances(points, result.centroids)
    nearest = distances.amin(2) * weights
    torch.testing.assert_close(result.inertia, nearest.sum(1), rtol=1e-5, atol=0)


def test_weights_count_like_repetitions() -> None:
    points = torch.randn(1, 60, 3)
    times = torch.randint(1, 4, (60,))
    start = run(points, k=5, iterations=0, weights=times[None].float())
    repeated = points[:, torch.repeat_interleave(torch.arange(60), times)]
    oracle = KMeans(5, init=start.centroids[0].numpy(), n_init=1, max_iter=10, tol=0)
    oracle.fit(repeated[0].numpy())
    ours = run(points, k=5, iterations=10, weights=times[None].float())
    assert float(ours.inertia) == pytest.approx(oracle.inertia_, rel=1e-4)


@pytest.mark.parametrize("init", ["kmeans++", "sample"])
def test_points_without_weight_do_not_matter(init: str) -> None:
    points = torch.cat([torch.randn(1, 100, 2), 100 + torch.randn(1, 50, 2)], dim=1)
    weights = (torch.arange(150) < 100).float()[None]
    result = run(points, weights=weights, k=8, init=init)
    assert float(result.centroids.abs().max()) < 50


def test_more_iterations_never_hurt() -> None:
    points = torch.randn(4, 300, 4)
    inertia = torch.stack([run(points, k=12, iterations=i).inertia for i in range(8)])
    assert bool((inertia.diff(dim=0) <= 1e-6 * inertia[:-1]).all())


def test_same_seed_same_result() -> None:
    points = torch.randn(5, 200, 4)
    first, second, other = run(points, 1, k=8), run(points, 1, k=8), run(points, 2, k=8)
    assert first.centroids.equal(second.centroids)
    assert first.codes.equal(second.codes)
    assert not first.centroids.equal(other.centroids)


def test_converges_and_stops() -> None:
    result = run(torch.randn(2, 50, 2), k=4, iterations=1000)
    assert result.iterations < 100


def test_tolerance_stops_earlier() -> None:
    points = torch.randn(1, 4000, 4)
    exact, rough = (run(points, k=32, iterations=60, tolerance=t) for t in (0.0, 0.01))
    assert rough.iterations < exact.iterations
    assert float(rough.inertia) == pytest.approx(float(exact.inertia), rel=0.1)


@pytest.mark.parametrize("init", ["kmeans++", "sample"])
def test_fewer_points_than_centroids(init: str) -> None:
    points = torch.randn(2, 5, 3)
    result = run(points, k=16, init=init)
    assert result.inertia.tolist() == [0.0, 0.0]
    for b in range(2):
        assert len(result.codes[b].unique()) == 5
        assert len(result.centroids[b].unique(dim=0)) == 5


def test_empty_clusters_are_put_to_work() -> None:
    # five far points that a sample of eight misses, with many equal ones around
    points = torch.zeros(1, 1000, 2)
    points[0, :5] = torch.arange(1.0, 6.0)[:, None] * 100
    result = run(points, k=6, init="sample", iterations=20)
    assert float(result.inertia) == 0.0


@pytest.mark.parametrize("weights", [None, torch.zeros(1, 40)])
def test_degenerate_points(weights: torch.Tensor | None) -> None:
    result = run(torch.ones(1, 40, 3), weights=weights, k=4)
    assert bool((result.codes == 0).all())
    assert bool((result.centroids == 1).all())


def test_large_problems_start_from_a_subsample() -> None:
    points = torch.randn(1, 20_000, 2)
    result = run(points, k=4, iterations=15)
    oracle = KMeans(4, n_init=3, random_state=0).fit(points[0].numpy()).inertia_
    assert float(result.inertia) == pytest.approx(oracle, rel=0.02)


def test_runs_on_each_device(device: torch.device) -> None:
    points = torch.randn(6, 500, 4, generator=torch.Generator().manual_seed(0))
    here, there = run(points, k=16), run(points.to(device), k=16)
    assert there.codes.device.type == device.type
    torch.testing.assert_close(there.inertia.cpu(), here.inertia, rtol=0.02, atol=0)


@pytest.mark.parametrize(
    "config",
    [
        {"k": 1},
        {"k": 65_537},
        {"k": 4, "iterations": -1},
        {"k": 4, "init": "x"},
        {"k": 4, "tolerance": 1.0},
    ],
)
def test_impossible_settings(config: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="got"):
        KMeansConfig(**config)


def test_impossible_input() -> None:
    points = torch.randn(2, 10, 3)
    with pytest.raises(ShapeError, match=r"\(B, N, d\)"):
        run(points[0], k=2)
    with pytest.raises(ShapeError, match="weights"):
        run(points, k=2, weights=torch.ones(2, 9))
    with pytest.raises(ConfigError, match="negative"):
        run(points, k=2, weights=-torch.ones(2, 10))
    with pytest.raises(ConfigError, match="NaN"):
        run(points / 0, k=2)
    with pytest.raises(ShapeError, match="agree"):
        assign(points, torch.randn(3, 4, 3))
