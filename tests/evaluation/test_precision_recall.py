from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dpqlab.errors import ConfigError, ShapeError
from dpqlab.evaluation.precision_recall import ball_radii, precision_recall
from recipes.torch_fidelity_reference import feature_pair

RECORDED = Path(__file__).with_name("torch_fidelity_reference.json")


def share_inside(points: np.ndarray, centres: np.ndarray, k: int) -> float:
    """Kynkaanniemi et al. 2019, section 2, word for word."""
    inside = 0
    for point in points:
        for index, centre in enumerate(centres):
            others = np.delete(centres, index, axis=0)
            radius = np.sort(((others - centre) ** 2).sum(axis=1))[k - 1]
            if ((point - centre) ** 2).sum() <= radius:
                inside += 1
                break
    return inside / len(points)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    sizes=st.tuples(st.integers(4, 14), st.integers(4, 14)),
    k=st.integers(1, 3),
)
def test_agrees_with_brute_force(seed, sizes, k):
    generator = np.random.default_rng(seed)
    # halves of small integers: distances tie, points repeat, and all sums are exact
    real, fake = (generator.integers(-4, 5, size=(n, 3)) / 2.0 for n in sizes)
    real = np.concatenate([real, -real])  # mean zero, so that the common shift stays exact
    found = precision_recall(real, fake, k)
    assert found.precision == share_inside(fake, real, k)
    assert found.recall == share_inside(real, fake, k)


def test_agrees_with_what_torch_fidelity_gave():
    recorded = json.loads(RECORDED.read_text())
    fake, real = feature_pair()
    found = precision_recall(real, fake, 3)
    assert found.precision == pytest.approx(recorded["precision"], abs=1e-6)
    assert found.recall == pytest.approx(recorded["recall"], abs=1e-6)


def test_blocks_change_nothing(monkeypatch):
    generator = np.random.default_rng(0)
    real, fake = generator.normal(size=(130, 5)), generator.normal(0.3, 0.7, size=(90, 5))
    whole = precision_recall(real, fake)
    module = import_module("dpqlab.evaluation.precision_recall")
    monkeypatch.setattr(module, "_CHUNK_BYTES", 8 * 130 * 7)
    assert precision_recall(real, fake) == whole
    assert 0.0 < whole.recall < whole.precision < 1.0


def test_extremes():
    generator = np.random.default_rng(0)
    real = generator.normal(size=(50, 4))
    same = precision_recall(real, real)
    assert (same.precision, same.recall) == (1.0, 1.0)
    far = precision_recall(real, real + 100.0)
    assert (far.precision, far.recall) == (0.0, 0.0)


def test_radii_ignore_the_point_itself():
    points = torch.tensor([[0.0], [1.0], [3.0]], dtype=torch.float64)
    assert ball_radii(points, 1).tolist() == [1.0, 1.0, 4.0]
    assert ball_radii(points, 2).tolist() == [9.0, 4.0, 9.0]


@pytest.mark.parametrize(
    ("real", "fake", "k", "error"),
    [
        ((9, 2), (9, 3), 3, ShapeError),
        ((9,), (9,), 3, ShapeError),
        ((3, 2), (9, 2), 3, ShapeError),
        ((9, 2), (3, 2), 3, ShapeError),
        ((9, 2), (9, 2), 0, ConfigError),
    ],
)
def test_impossible_requests_are_refused(real, fake, k, error):
    with pytest.raises(error, match=r"expected|at least"):
        precision_recall(np.zeros(real), np.zeros(fake), k)


@pytest.mark.gpu
def test_the_gpu_agrees():
    generator = np.random.default_rng(0)
    real, fake = generator.normal(size=(500, 32)), generator.normal(0.1, 0.9, size=(400, 32))
    assert precision_recall(real, fake, device="cuda") == precision_recall(real, fake)
