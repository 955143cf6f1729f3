from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
import torch

from dpqlab.checkpoint.arrays import write_npz
from dpqlab.errors import CheckpointError, ConfigError, ShapeError
from dpqlab.evaluation.config import EvaluationConfig, requested_labels
from dpqlab.evaluation.evaluator import (
    EvaluationResult,
    EvaluationStep,
    draw_teacher_steps,
    evaluate_steps,
    last_of,
)
from dpqlab.evaluation.features import FeatureNet, extract
from dpqlab.evaluation.frechet import frechet_distance
from dpqlab.evaluation.statistics import FeatureStatistics
from dpqlab.evaluation.teacher import TeacherSamples

CONFIG = EvaluationConfig(images=50, steps=3, guidance=2.0, seed=4, batch=20, resamples=8)


@pytest.fixture
def sample(draw_images) -> Callable[..., np.ndarray]:
    """A perfect model: it draws from the data's own distribution, at any steps and guidance."""

    def draw(labels, *, seed, first_index, steps, guidance):
        assert (steps, guidance) == (3, 2.0)
        return draw_images(labels, seed, first_index)

    return draw


@pytest.fixture
def damaged(sample) -> Callable[..., torch.Tensor]:
    """A model that has lost its contrast; it returns tensors."""
    return lambda labels, **request: torch.from_numpy(sample(labels, **request) // 2)


@pytest.fixture
def teacher(sample, net) -> TeacherSamples:
    return last_of(draw_teacher_steps(sample, net, CONFIG))


def test_progress_comes_first_and_the_result_last(sample, net, reference):
    *steps, result = evaluate_steps(sample, net, reference, CONFIG)
    assert all(isinstance(step, EvaluationStep) for step in steps)
    seen = [(step.stage, step.done, step.total) for step in steps]
    assert seen[:3] == [("sample", 20, 50), ("sample", 40, 50), ("sample", 50, 50)]
    assert seen[3:] == [("compare", 1, 2), ("compare", 2, 2)]
    assert isinstance(result, EvaluationResult)


def test_the_result_says_what_the_parts_say(sample, net, reference, draw_images):
    result = last_of(evaluate_steps(sample, net, reference, CONFIG))
    labels = requested_labels(50, 10)
    seen = extract(net, draw_images(tuple(labels.tolist()), 4))
    expected = frechet_distance(FeatureStatistics.from_features(seen.features), reference.train)
    assert result.fcd.value == pytest.approx(expected, rel=1e-6)
    assert result.fcd.low <= result.fcd.value <= result.fcd.high
    assert result.class_accuracy == (seen.predictions == labels).mean()
    assert 0 <= result.recall <= 1
    assert 0 <= result.precision <= 1
    assert (result.noise_floor, result.noise_floor_images) == (reference.floor, 60)
    assert (result.fidelity, result.psnr, result.excess_fcd) == (None, None, None)
    assert result.feature_net == net.sha256
    found = json.loads(json.dumps(result.to_dict()))
    assert found["config"]["images"] == 50
    assert found["class_accuracy"] == result.class_accuracy
    assert found["fcd"]["value"] == result.fcd.value


def test_batches_change_nothing(sample, net, reference):
    first, second = (
        last_of(evaluate_steps(sample, net, reference, EvaluationConfig(**vars(CONFIG) | change)))
        for change in ({}, {"batch": 7})
    )
    assert second.fcd.value == pytest.approx(first.fcd.value, rel=1e-5)
    assert second.precision == first.precision


def test_the_teacher_itself_is_undamaged(sample, net, reference, teacher):
    fidelity = last_of(evaluate_steps(sample, net, reference, CONFIG, teacher)).fidelity
    assert fidelity is not None
    assert fidelity.excess_fcd.value == fidelity.excess_fcd.high == 0.0
    assert fidelity.psnr == 100.0
    assert fidelity.feature_cosine == pytest.approx(1.0)
    assert fidelity.agreement == 1.0


def test_damage_shows(damaged, net, reference, teacher):
    *steps, result = evaluate_steps(damaged, net, reference, CONFIG, teacher)
    assert steps[-1].done == steps[-1].total == 3
    assert result.excess_fcd.low > 0
    assert 0 < result.psnr < 30
    assert result.fidelity.feature_cosine < 1.0
    json.dumps(result.to_dict())


def test_other_seeds_are_other_images(teacher, net, draw_images):
    labels = tuple(requested_labels(50, 10).tolist())
    np.testing.assert_array_equal(teacher.images, draw_images(labels, 4))
    other = FeatureStatistics.from_features(extract(net, draw_images(labels, 5)).features)
    np.testing.assert_allclose(teacher.other.mean, other.mean, rtol=1e-5)
    assert CONFIG.other_seed == 5


@pytest.mark.parametrize("images", [True, False])
def test_teacher_samples_survive_a_file(damaged, net, reference, teacher, images, tmp_path):
    found = TeacherSamples.load(teacher.save(tmp_path / "teacher.npz", images=images))
    assert found.protocol == teacher.protocol == CONFIG.protocol()
    np.testing.assert_allclose(found.features, teacher.features, rtol=1e-3, atol=1e-6)
    np.testing.assert_array_equal(found.predictions, teacher.predictions)
    live, loaded = (
        last_of(evaluate_steps(damaged, net, reference, CONFIG, samples)).fidelity
        for samples in (teacher, found)
    )
    assert loaded.psnr == (live.psnr if images else None)
    assert loaded.agreement == live.agreement
    assert loaded.excess_fcd.value == pytest.approx(live.excess_fcd.value, rel=1e-2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"predictions": np.zeros(3, dtype=np.int16)}, "50 teacher features"),
        ({"features": np.zeros((50, 3), dtype=np.float16)}, "8 features"),
        ({"protocol": np.zeros(3)}, "shape"),
        ({"other_count": np.asarray(1)}, "no usable statistics"),
        ({"images": np.zeros((2, 1, 2, 2), dtype=np.uint8)}, "50 teacher features"),
    ],
)
def test_malformed_teacher_files_are_refused(teacher, tmp_path, change, message):
    path = teacher.save(tmp_path / "teacher.npz")
    with np.load(path) as archive:
        arrays = dict(archive)
    with pytest.raises(CheckpointError, match=message):
        TeacherSamples.load(write_npz(path, arrays | change))


def refuse(*_args, **_request):
    pytest.fail("an image was drawn before the request was checked")


def test_what_does_not_belong_together_is_refused_before_drawing(net, reference, teacher):
    other = FeatureNet(width=4, features=8, blocks=(1, 1))
    other.sha256 = "f" * 64
    with pytest.raises(ConfigError, match="one network only"):
        next(evaluate_steps(refuse, other, reference, CONFIG))
    config = EvaluationConfig(**vars(CONFIG) | {"steps": 5})
    with pytest.raises(ConfigError, match="drawn with"):
        next(evaluate_steps(refuse, net, reference, config, teacher))


def test_closing_stops_the_drawing(sample, net, reference):
    drawn = []

    def counting(labels, **request):
        drawn.append(request["first_index"])
        return sample(labels, **request)

    steps = evaluate_steps(counting, net, reference, CONFIG)
    next(steps)
    steps.close()
    assert drawn == [0]


@pytest.mark.parametrize(
    "images",
    [np.zeros((19, 1, 28, 28), np.uint8), np.zeros((20, 1, 28, 28)), np.zeros((20, 28), np.uint8)],
)
def test_samplers_must_keep_their_word(net, reference, images):
    with pytest.raises(ShapeError, match="for 20 labels"):
        next(evaluate_steps(lambda _labels, **_request: images, net, reference, CONFIG))


def test_the_protocols():
    assert EvaluationConfig().images == 10_000
    quick = EvaluationConfig.quick(seed=3)
    assert (quick.images, quick.steps, quick.seed) == (2_000, 20, 3)
    np.testing.assert_array_equal(requested_labels(5, 3), [0, 1, 2, 0, 1])


@pytest.mark.parametrize(
    "change",
    [{"images": 3}, {"images": 10.0}, {"steps": 0}, {"seed": -1}, {"batch": True}, {"resamples": 1},
     {"neighbours": 0}, {"guidance": float("nan")}, {"guidance": -1.0}],
)  # fmt: skip
def test_impossible_configs_are_refused(change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        EvaluationConfig(**change)
