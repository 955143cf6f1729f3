from __future__ import annotations

import json

import pytest

from dpqlab.errors import CheckpointError, ConfigError
from dpqlab.evaluation import bundled
from dpqlab.evaluation.bundled import (
    asset,
    bundled_feature_net,
    bundled_reference,
    quick_reference,
)
from dpqlab.evaluation.config import EvaluationConfig
from dpqlab.evaluation.evaluator import draw_teacher_steps, last_of


@pytest.fixture
def root(tmp_path, monkeypatch, net_path, reference):
    """A package folder whose only model is ``tiny``."""
    folder = tmp_path / "assets" / "tiny"
    folder.mkdir(parents=True)
    (folder / "feature_net.safetensors").write_bytes(net_path.read_bytes())
    reference.save(folder / "reference.npz")
    monkeypatch.setattr(bundled, "ASSETS", tmp_path / "assets")
    return folder


def test_finds_what_belongs_to_a_model(root):
    net = bundled_feature_net("tiny")
    assert bundled_reference("tiny").train.feature_net == net.sha256


def test_an_unknown_model_is_refused_with_the_known_ones(root):
    with pytest.raises(ConfigError, match=r"'no-dit' has no bundled reference.npz.*\['tiny'\]"):
        asset("no-dit", "reference.npz")
    with pytest.raises(ConfigError, match=r"quick_reference.npz; models that do: none"):
        quick_reference("tiny")


def test_a_quick_reference_of_another_protocol_is_refused(root, net, draw_images):
    config = EvaluationConfig(images=20, steps=20, resamples=2)
    samples = last_of(
        draw_teacher_steps(lambda labels, **r: draw_images(labels, r["seed"]), net, config)
    )
    samples.save(root / "quick_reference.npz")
    with pytest.raises(CheckpointError, match="drawn with"):
        quick_reference("tiny")


def test_the_shipped_files_belong_together():
    net, reference = bundled_feature_net(), bundled_reference()
    card = json.loads(asset("fashion-dit", "feature_net.json").read_text())
    assert net.sha256 == card["sha256"] == reference.train.feature_net
    assert card["test_accuracy"] >= 0.94
    assert asset("fashion-dit", "feature_net.safetensors").stat().st_size < 5_000_000
    assert (reference.train.count, reference.test.count) == (60_000, 10_000)
    assert reference.real_features.shape == (10_000, 128)
    assert 0.0 < reference.floor.value < 1.0
