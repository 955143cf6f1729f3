from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.image.fid import _compute_fid

from dpqlab.errors import ConfigError, ShapeError
from dpqlab.evaluation.frechet import (
    Interval,
    frechet_difference,
    frechet_distance,
    frechet_interval,
    symmetric_root,
)
from dpqlab.evaluation.statistics import FeatureStatistics
from recipes.torch_fidelity_reference import feature_pair

RECORDED = Path(__file__).with_name("torch_fidelity_reference.json")


def features(seed: int, count: int = 400, width: int = 24, shift: float = 0.0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    mix = generator.normal(size=(width, width)) / np.sqrt(width)
    return np.maximum(generator.normal(size=(count, width)) @ mix + shift, 0.0)


def statistics(values: np.ndarray) -> FeatureStatistics:
    return FeatureStatistics.from_features(values)


@pytest.fixture(params=[0.0, 0.3, 5.0])
def pair(request) -> tuple[FeatureStatistics, FeatureStatistics]:
    return statistics(features(1)), statistics(features(2, shift=request.param))


def test_agrees_with_torchmetrics(pair):
    moments = [torch.from_numpy(x) for s in pair for x in (s.mean, s.covariance)]
    assert frechet_distance(*pair) == pytest.approx(float(_compute_fid(*moments)), rel=1e-6)


def test_agrees_with_scipy(pair):
    a, b = pair
    cross = scipy.linalg.sqrtm(a.covariance @ b.covariance)
    expected = ((a.mean - b.mean) ** 2).sum() + np.trace(a.covariance + b.covariance - 2 * cross)
    assert frechet_distance(a, b) == pytest.approx(expected.real, rel=1e-6)


def test_agrees_with_what_torch_fidelity_gave():
    recorded = json.loads(RECORDED.read_text())
    fake, real = feature_pair()
    assert [fake.sum(), real.sum()] == pytest.approx(recorded["feature_sums"], rel=1e-12)
    found = frechet_distance(statistics(fake), statistics(real))
    assert found == pytest.approx(recorded["frechet_distance"], rel=1e-8)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), width=st.integers(1, 10))
def test_is_a_distance_that_knows_its_geometry(seed, width):
    generator = np.random.default_rng(seed)
    a, b = features(seed, 30, width), features(seed + 1, 50, width)
    d = frechet_distance(statistics(a), statistics(b))
    close = {"rel": 1e-6, "abs": 1e-9}
    assert d >= 0
    assert frechet_distance(statistics(b), statistics(a)) == pytest.approx(d, **close)
    assert frechet_distance(statistics(3 * a), statistics(3 * b)) == pytest.approx(9 * d, **close)
    turn, _ = np.linalg.qr(generator.normal(size=(width, width)))
    turned = frechet_distance(statistics(a @ turn), statistics(b @ turn))
    assert turned == pytest.approx(d, rel=1e-5, abs=1e-6)
    step = generator.normal(size=width)
    moved = frechet_distance(statistics(a), statistics(a + step))
    assert moved == pytest.approx((step**2).sum(), rel=1e-5, abs=1e-6)


def test_diagonal_gaussians_have_a_closed_form():
    a = FeatureStatistics(mean=np.array([0.0, 1.0]), covariance=np.diag([4.0, 0.0]), count=9)
    b = FeatureStatistics(mean=np.array([3.0, 1.0]), covariance=np.diag([1.0, 9.0]), count=9)
    assert frechet_distance(a, b) == pytest.approx(9.0 + 1.0 + 9.0)


def test_fewer_samples_than_features():
    a, b = (statistics(features(seed, count=10, width=64)) for seed in (1, 2))
    assert frechet_distance(a, a) == pytest.approx(0.0, abs=1e-6)
    cross = np.linalg.svd(symmetric_root(a.covariance) @ symmetric_root(b.covariance))[1].sum()
    expected = ((a.mean - b.mean) ** 2).sum() + np.trace(a.covariance + b.covariance) - 2 * cross
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)


def test_other_widths_and_networks_are_refused():
    a = statistics(features(1, width=3))
    with pytest.raises(ShapeError, match="3 and 4"):
        frechet_distance(a, statistics(features(1, width=4)))
    ours, theirs = (
        FeatureStatistics.from_features(features(1, width=3), feature_net=name) for name in "ab"
    )
    with pytest.raises(ConfigError, match="one network only"):
        frechet_distance(ours, theirs)


def interval(values: np.ndarray, reference: FeatureStatistics, seed: int, resamples: int = 60):
    generator = np.random.default_rng(seed)
    return frechet_interval(values, reference, resamples=resamples, generator=generator)


def test_the_value_beside_the_interval_is_the_plain_distance():
    reference = statistics(features(1))
    found = interval(features(2), reference, seed=0)
    assert found.value == pytest.approx(frechet_distance(statistics(features(2)), reference))
    assert found.low < found.value < found.high
    assert found.bias > 0
    assert found == interval(features(2), reference, seed=0)
    assert json.loads(json.dumps(found.to_dict()))["value"] == found.value


@pytest.mark.parametrize(
    ("shift", "lowest", "highest"),
    # close to the floor the interval is known to be cautious
    [(0.5, 0.90, 0.985), (0.0, 0.95, 1.0)],
)
def test_the_interval_covers_the_expected_value(shift, lowest, highest):
    count, width, trials = 200, 6, 200
    reference = FeatureStatistics(mean=np.zeros(width), covariance=np.eye(width), count=10**6)

    def sample(seed: int) -> np.ndarray:
        return np.random.default_rng([seed, 1]).normal(size=(count, width)) + shift

    expected = np.mean([frechet_distance(statistics(sample(s)), reference) for s in range(2000)])
    found = [interval(sample(10_000 + s), reference, seed=s) for s in range(trials)]
    covered = np.mean([one.low <= expected <= one.high for one in found])
    assert lowest <= covered <= highest
    # what the bootstrap calls bias is how far the estimate lies above that at infinitely many
    bias = np.mean([one.bias for one in found])
    assert bias == pytest.approx(expected - width * shift**2, rel=0.25)


def test_pairing_removes_what_both_share():
    reference = statistics(features(3, count=2000))
    base = features(4, count=300)
    noise = 0.01 * np.random.default_rng(0).normal(size=base.shape)
    generator = np.random.default_rng(1)
    paired = frechet_difference(base + noise, base, reference, resamples=40, generator=generator)
    alone = interval(base, reference, seed=1)
    assert paired.standard_error < 0.1 * alone.standard_error
    plain = [frechet_distance(statistics(x), reference) for x in (base + noise, base)]
    assert paired.value == pytest.approx(plain[0] - plain[1], rel=1e-6)


def test_no_damage_is_exactly_zero():
    generator = np.random.default_rng(1)
    reference, same = statistics(features(3)), features(4)
    found = frechet_difference(same, same, reference, resamples=5, generator=generator)
    assert found == Interval(value=0.0, low=0.0, high=0.0, standard_error=0.0)


def test_impossible_requests_are_refused():
    generator, reference = np.random.default_rng(0), statistics(features(1))
    with pytest.raises(ConfigError, match="at least 2"):
        frechet_interval(features(1), reference, resamples=1, generator=generator)
    for bad in (np.zeros((5, 3)), np.zeros(24), np.zeros((1, 24))):
        with pytest.raises(ShapeError, match="24"):
            frechet_interval(bad, reference, generator=generator)
    with pytest.raises(ShapeError, match="as many in each set"):
        frechet_difference(features(1), features(1, count=9), reference, generator=generator)


def test_intervals_print_shortly():
    found = Interval(value=1.23456, low=1.0, high=1.5, standard_error=0.1)
    assert str(found) == "1.235 [1, 1.5]"
