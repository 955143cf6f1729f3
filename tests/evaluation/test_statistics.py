from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpqlab.checkpoint.arrays import write_npz
from dpqlab.errors import CheckpointError, ConfigError, ShapeError
from dpqlab.evaluation.statistics import FeatureStatistics


@settings(max_examples=25, deadline=None)
@given(count=st.integers(2, 40), width=st.integers(1, 6), seed=st.integers(0, 2**32 - 1))
def test_agree_with_numpy(count, width, seed):
    features = np.random.default_rng(seed).normal(3.0, 2.0, size=(count, width))
    found = FeatureStatistics.from_features(features)
    np.testing.assert_allclose(found.mean, features.mean(axis=0), rtol=1e-12)
    expected = np.cov(features, rowvar=False).reshape(width, width)
    np.testing.assert_allclose(found.covariance, expected, rtol=1e-9, atol=1e-12)
    assert found.count == count


def test_half_precision_features_are_summed_in_float64():
    features = np.full((5000, 1), 1000.0, dtype=np.float16)
    features[::2] += 1.0
    found = FeatureStatistics.from_features(features)
    assert found.mean[0] == 1000.5
    np.testing.assert_allclose(found.covariance, 0.25 * 5000 / 4999, rtol=1e-12)


def test_round_trip(tmp_path):
    features = np.random.default_rng(0).normal(size=(50, 7))
    saved = FeatureStatistics.from_features(features, source="somé images", feature_net="ab" * 32)
    found = FeatureStatistics.load(saved.save(tmp_path / "x.npz"))
    np.testing.assert_array_equal(found.mean, saved.mean)
    np.testing.assert_array_equal(found.covariance, saved.covariance)
    assert (found.count, found.source, found.feature_net) == (50, "somé images", "ab" * 32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mean": np.zeros(4)}, "do not belong"),
        ({"mean": np.zeros((3, 1))}, "shape"),
        ({"covariance": np.triu(np.ones((3, 3)))}, "not symmetric"),
        ({"covariance": np.full((3, 3), np.nan)}, "NaN"),
        ({"count": np.asarray(1)}, "at least 2"),
        ({"count": np.asarray(2.5)}, "dtype"),
        ({"source": np.asarray(b"bytes")}, "dtype"),
    ],
)
def test_malformed_files_are_refused(tmp_path, change, message):
    good = FeatureStatistics(mean=np.zeros(3), covariance=np.eye(3), count=9).arrays()
    path = write_npz(tmp_path / "x.npz", good | change)
    with pytest.raises(CheckpointError, match=message):
        FeatureStatistics.load(path)


@pytest.mark.parametrize("shape", [(1, 3), (5,), (2, 3, 1), (0, 3), (3, 0)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ShapeError, match=r"expected|at least 2"):
        FeatureStatistics.from_features(np.zeros(shape))


def test_statistics_belong_to_one_network():
    known = FeatureStatistics(mean=np.zeros(1), covariance=np.eye(1), count=2, feature_net="abc")
    known.require_network("abc")
    known.require_network("")
    with pytest.raises(ConfigError, match="one network only"):
        known.require_network("abd")
