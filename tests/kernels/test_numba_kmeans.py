from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import dpqlab
from dpqlab.core import CodebookCodec, KMeansConfig, KMeansResult, encode, fit_pool
from dpqlab.core import assign as reference_assign
from dpqlab.core import kmeans as reference_kmeans
from dpqlab.errors import ConfigError, ShapeError

pytest.importorskip("numba")
from dpqlab.kernels.numba_kmeans import assign, kmeans


def run(
    points: torch.Tensor, cluster: Any = kmeans, weights: Any = None, **config: Any
) -> KMeansResult:
    generator = torch.Generator().manual_seed(0)
    return cluster(points, KMeansConfig(**config), generator=generator, weights=weights)


def same(first: KMeansResult, second: KMeansResult) -> bool:
    return first.centroids.equal(second.centroids) and first.codes.equal(second.codes)


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@given(
    problems=st.integers(1, 3), count=st.integers(1, 1100), d=st.sampled_from([1, 3, 4, 9]),
    k=st.integers(1, 20),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_assign_is_the_reference(problems: int, count: int, d: int, k: int) -> None:
    points, centroids = torch.randn(problems, count, d), torch.randn(problems, k, d)
    expected, found = reference_assign(points, centroids), assign(points, centroids)
    assert found.dtype == torch.int64
    distances = torch.cdist(points, centroids, compute_mode="donot_use_mm_for_euclid_dist")
    torch.testing.assert_close(
        distances.gather(2, found[..., None]), distances.gather(2, expected[..., None]),
        rtol=1e-4, atol=1e-5,
    )  # fmt: skip


def test_lowest_index_wins_ties() -> None:
    points, some = torch.randn(2, 500, 4), torch.randn(2, 7, 4)
    repeated = some[:, [3, 0, 3, 1, 2, 4, 5, 6, 0, 3, 6, 2, 1]]
    assert set(assign(points, repeated).unique().tolist()) == {0, 1, 3, 4, 5, 6, 7}


@pytest.mark.parametrize("init", ["sample", "kmeans++"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", [(1, 700, 4), (12, 300, 4), (2, 300, 9)])
def test_takes_the_steps_of_the_reference(
    shape: tuple[int, int, int], weighted: bool, init: str
) -> None:
    generator = torch.Generator().manual_seed(4)
    points = torch.randn(shape, generator=generator)
    weights = torch.rand(shape[:2], generator=generator) if weighted else None
    ours = run(points, weights=weights, k=18, init=init, iterations=6)
    theirs = run(points, reference_kmeans, weights=weights, k=18, init=init, iterations=6)
    torch.testing.assert_close(ours.centroids, theirs.centroids, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours.inertia, theirs.inertia, rtol=1e-5, atol=0)
    assert ours.iterations == theirs.iterations


@pytest.mark.parametrize("problems", [2, 12])
def test_result_does_not_depend_on_threads(problems: int, threads: None) -> None:
    points = torch.randn(problems, 40_000 // problems, 4)
    results: list[KMeansResult] = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        results.append(run(points, k=24, iterations=4))
    assert same(results[0], results[1])
    assert same(results[0], results[2])


@pytest.mark.parametrize("weighted", [False, True])
def test_result_does_not_depend_on_how_work_is_divided(weighted: bool) -> None:
    points, weights = torch.randn(8, 400, 4), torch.rand(8, 400)
    many = run(points, weights=weights if weighted else None, k=16, init="sample")
    few = run(points[:4], weights=weights[:4] if weighted else None, k=16, init="sample")
    assert many.centroids[:4].equal(few.centroids)
    assert many.codes[:4].equal(few.codes)


def test_tolerance_is_that_of_the_reference() -> None:
    points = torch.randn(9, 800, 4)
    ours = run(points, k=16, iterations=50, tolerance=0.005)
    theirs = run(points, reference_kmeans, k=16, iterations=50, tolerance=0.005)
    assert ours.iterations == theirs.iterations


@pytest.mark.parametrize("init", ["sample", "kmeans++"])
def test_fewer_points_than_centroids(init: str) -> None:
    result = run(torch.randn(2, 5, 3), k=50, init=init)
    assert result.inertia.tolist() == [0.0, 0.0]
    assert all(len(codes.unique()) == 5 for codes in result.codes)


@pytest.mark.parametrize("k", [6, 60])
def test_empty_clusters_are_put_to_work(k: int) -> None:
    points = torch.zeros(1, 1000, 2)
    points[0, : k - 1] = torch.arange(1.0, k)[:, None] * 100
    for weights in (None, torch.ones(1, 1000)):
        result = run(points, weights=weights, k=k, init="sample", iterations=200)
        assert float(result.inertia) == 0.0


@pytest.mark.parametrize("weights", [None, torch.zeros(1, 40)])
def test_degenerate_points(weights: torch.Tensor | None) -> None:
    result = run(torch.ones(1, 40, 3), weights=weights, k=4)
    assert bool((result.codes == 0).all())
    assert bool((result.centroids == 1).all())


def test_points_without_weight_do_not_matter() -> None:
    points = torch.cat([torch.randn(1, 300, 2), 100 + torch.randn(1, 50, 2)], dim=1)
    weights = (torch.arange(350) < 300).float()[None]
    assert float(run(points, weights=weights, k=8).centroids.abs().max()) < 50


def test_wide_points_go_to_the_reference() -> None:
    points = torch.randn(2, 60, 40)
    assert same(run(points, k=4), run(points, reference_kmeans, k=4))
    assert assign(points, points[:, :5]).equal(reference_assign(points, points[:, :5]))


def test_serves_the_codecs() -> None:
    weight = torch.randn(60, 30)
    codec = CodebookCodec(d=4, k=8, scope="group", group=3, row_scale=True)
    pools = [
        fit_pool([weight], codec, generator=torch.Generator().manual_seed(1), clusterer=cluster)
        for cluster in (kmeans, reference_kmeans)
    ]
    torch.testing.assert_close(pools[0].entries, pools[1].entries, rtol=1e-2, atol=1e-2)
    codes = [encode(weight, codec, pools[0], assigner=a).codes for a in (assign, reference_assign)]
    assert float((codes[0] == codes[1]).double().mean()) > 0.99


def test_refuses_what_the_reference_refuses() -> None:
    with pytest.raises(ShapeError, match=r"\(B, N, d\)"):
        run(torch.randn(4, 2), k=2)
    with pytest.raises(ConfigError, match="NaN"):
        run(torch.full((1, 4, 2), torch.nan), k=2)
    with pytest.raises(ShapeError, match="agree"):
        assign(torch.randn(1, 4, 2), torch.randn(2, 4, 2))


def test_an_installation_that_cannot_be_written_still_works(tmp_path: Path) -> None:
    source = Path(dpqlab.__file__).parent
    target = tmp_path / "dpqlab"
    for part in ("core", "kernels"):
        shutil.copytree(source / part, target / part, ignore=shutil.ignore_patterns("__pycache__"))
    for part in ("__init__.py", "errors.py"):
        shutil.copy(source / part, target / part)
    # files where the cache folders would be, so that this holds for root too
    (target / "kernels" / "__pycache__").touch()
    (tmp_path / "home").touch()
    home = str(tmp_path / "home" / "none")
    script = (
        "import numpy as np; from dpqlab.kernels import lloyd; h = np.empty(2, np.float32);"
        "lloyd.halve_norms(np.ones((2, 3), np.float32), h, 1); print(lloyd.__file__, h.tolist())"
    )
    environment = {k: v for k, v in os.environ.items() if k != "NUMBA_CACHE_DIR"}
    environment |= {"PYTHONPATH": str(tmp_path), "HOME": home, "XDG_CACHE_HOME": home}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(target / "kernels" / "lloyd.py"), "[1.5,", "inf]"]
