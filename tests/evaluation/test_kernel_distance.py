from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.image.kid import poly_mmd

from dpqlab.errors import ConfigError, ShapeError
from dpqlab.evaluation.kernel_distance import kernel_distance, squared_discrepancy
from recipes.torch_fidelity_reference import feature_pair

pytestmark = pytest.mark.usefixtures("one_thread")


def brute_force(x: np.ndarray, y: np.ndarray) -> float:
    """Gretton et al. 2012, eq. 3, with the kernel of Binkowski et al. 2018, word for word."""

    def kernel(p: np.ndarray, q: np.ndarray) -> float:
        return (sum(a * b for a, b in zip(p, q, strict=True)) / len(p) + 1.0) ** 3

    n, m = len(x), len(y)
    same_x = sum(kernel(x[i], x[j]) for i in range(n) for j in range(n) if i != j)
    same_y = sum(kernel(y[i], y[j]) for i in range(m) for j in range(m) if i != j)
    cross = sum(kernel(p, q) for p in x for q in y)
    return same_x / (n * (n - 1)) + same_y / (m * (m - 1)) - 2.0 * cross / (n * m)


def points(seed: int, count: int, width: int = 6, shift: float = 0.0) -> np.ndarray:
    return np.maximum(np.random.default_rng(seed).normal(size=(count, width)) + shift, 0.0)


@settings(max_examples=30)
@given(
    seed=st.integers(0, 2**31),
    sizes=st.tuples(st.integers(2, 8), st.integers(2, 8)),
    width=st.integers(1, 5),
)
def test_agrees_with_brute_force(seed, sizes, width):
    x, y = (points(seed + n, count, width) for n, count in enumerate(sizes))
    found = float(squared_discrepancy(torch.from_numpy(x), torch.from_numpy(y)))
    assert found == pytest.approx(brute_force(x, y), rel=1e-9, abs=1e-10)
    swapped = float(squared_discrepancy(torch.from_numpy(y), torch.from_numpy(x)))
    assert swapped == pytest.approx(found, rel=1e-9, abs=1e-10)


def test_agrees_with_torchmetrics():
    x, y = (torch.from_numpy(points(seed, 200, shift=0.2 * seed)) for seed in (1, 2))
    assert float(squared_discrepancy(x, y)) == pytest.approx(float(poly_mmd(x, y)), rel=1e-10)


def test_agrees_with_what_torch_fidelity_gave():
    # torch-fidelity 0.4.0, kid_features_to_metric(a, b, kid_kernel="poly", kid_subset_size=1500),
    # so that a subset is the whole set; with 100 subsets of 500 it gave 0.02395, deviation 0.00704
    a, b = feature_pair()
    whole = squared_discrepancy(torch.from_numpy(a), torch.from_numpy(b))
    assert float(whole) == pytest.approx(0.02418691593440118, rel=1e-10)
    parts = kernel_distance(a, b, size=500, generator=np.random.default_rng(0))
    assert parts.value == pytest.approx(0.0242, abs=0.002)
    assert parts.deviation == pytest.approx(0.0070, rel=0.25)


def test_is_unbiased_where_there_is_no_difference():
    found = [
        float(squared_discrepancy(*(torch.from_numpy(points(2 * s + i, 12)) for i in (0, 1))))
        for s in range(600)
    ]
    assert min(found) < 0.0
    assert abs(np.mean(found)) < 4.0 * np.std(found) / np.sqrt(len(found))


def test_the_standard_error_is_the_spread_of_new_samples():
    def measure(seed: int, size: int):
        a, b = points(2 * seed, 400), points(2 * seed + 1, 400, shift=0.5)
        return kernel_distance(a, b, subsets=25, size=size, generator=np.random.default_rng(seed))

    for size in (40, 200):  # little overlap, and much
        found = [measure(seed, size) for seed in range(60)]
        spread = np.std([one.value for one in found], ddof=1)
        errors = np.array([one.standard_error for one in found])
        assert errors.mean() == pytest.approx(spread, rel=0.25)


def test_a_seed_decides_and_everything_is_told():
    a, b = points(1, 60), points(2, 80, shift=0.3)
    first, again, other = (
        kernel_distance(a, b, subsets=5, size=20, generator=np.random.default_rng(seed))
        for seed in (0, 0, 1)
    )
    assert first == again != other
    told = json.loads(json.dumps(first.to_dict()))
    assert (told["subsets"], told["size"], told["value"]) == (5, 20, first.value)
    assert str(first).startswith(f"{first.value:.3g}")
    # float32 features are taken to float64 before anything is computed
    single = [x.astype(np.float32) for x in (a, b)]
    fine = [x.astype(np.float64) for x in single]
    results = [
        kernel_distance(*pair, subsets=5, size=20, generator=np.random.default_rng(0))
        for pair in (single, fine)
    ]
    assert results[0] == results[1]


@pytest.mark.parametrize(
    ("a", "b", "options", "error"),
    [
        ((30, 2), (30, 3), {}, ShapeError),
        ((30,), (30,), {}, ShapeError),
        ((30, 2), (19, 2), {}, ShapeError),
        ((30, 2), (30, 2), {"size": 1}, ConfigError),
        ((30, 2), (30, 2), {"subsets": 1}, ConfigError),
    ],
)
def test_impossible_requests_are_refused(a, b, options, error):
    with pytest.raises(error, match=r"expected|too few"):
        kernel_distance(
            np.zeros(a),
            np.zeros(b),
            **{"size": 10, "subsets": 2} | options,
            generator=np.random.default_rng(0),
        )


@pytest.mark.gpu
def test_the_gpu_agrees():
    a, b = points(1, 300, 64), points(2, 300, 64, shift=0.1)
    here, there = (
        kernel_distance(
            a, b, subsets=4, size=100, generator=np.random.default_rng(0), device=device
        )
        for device in ("cpu", "cuda")
    )
    assert there.value == pytest.approx(here.value, rel=1e-9)
