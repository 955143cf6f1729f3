from __future__ import annotations

import json
import math
from importlib import import_module

import numpy as np
import pytest
import torch

from dpqlab.errors import ConfigError, ShapeError
from dpqlab.evaluation.features import FeatureNet, to_network_range
from dpqlab.evaluation.two_sample import (
    LabelledImages,
    TwoSampleConfig,
    TwoSampleRecord,
    TwoSampleResult,
    summarize,
    two_sample_test,
)

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = TwoSampleConfig(
    train=160, held_out=80, epochs=3, patience=2, seeds=(0, 1), batch=16, rate=3e-3, width=3
)


def side(seed: int, count: int = 240, classes: int = 4, shift: int = 0) -> LabelledImages:
    """Noise, brighter by class; one column is brighter by ``shift``."""
    labels = np.arange(count) % classes
    noise = np.random.default_rng([seed, 7]).integers(0, 60, size=(count, 1, 14, 14))
    images = noise + 20 * labels[:, None, None, None]
    images[:, :, :, 5] += shift
    return LabelledImages(images=images.astype(np.uint8), labels=labels, seed=seed)


def run(a, b, config=SMALL, **options) -> tuple[list[TwoSampleRecord], TwoSampleResult]:
    *records, result = two_sample_test(a, b, config, **options)
    assert isinstance(result, TwoSampleResult)
    return records, result


def test_sets_from_one_source_cannot_be_told_apart():
    records, result = run(side(1), side(2))
    assert 0.38 < result.accuracy < 0.62
    assert result.held_out == 160
    assert result.chance == 0.5
    assert {record.seed for record in records} == {0, 1}
    assert all(1 <= record.epoch <= record.epochs == 3 for record in records)
    assert all(later.seconds >= sooner.seconds for sooner, later in zip(records, records[1:]))  # noqa: B905, RUF007


def test_a_shift_is_seen():
    _, result = run(side(1), side(2, shift=40))
    assert result.accuracy > 0.9
    assert result.told_apart
    assert len(result.accuracies) == 2
    assert json.loads(json.dumps(result.to_dict()))["accuracy"] == result.accuracy


def test_the_same_seed_gives_the_same_result():
    config = TwoSampleConfig(**{**vars(SMALL), "epochs": 1})
    a, b = side(1), side(2, shift=100)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = run(a, b, config)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    # a seed depends neither on the global generator nor on the other seeds
    again = run(a, b, TwoSampleConfig(**{**vars(config), "seeds": (1,)}))
    assert again[1].accuracies == first[1].accuracies[1:]
    assert again[0][-1].stop_loss == first[0][-1].stop_loss
    assert again[0][-1].loss == first[0][-1].loss != first[0][0].loss


def test_the_judge_has_statistics_of_its_own_weights():
    module = import_module("dpqlab.evaluation.two_sample")
    net = FeatureNet(classes=2, width=3)
    images = torch.from_numpy(side(1, count=16).images)
    data = module._Data(pixels=images, sides=torch.zeros(16, dtype=torch.int64))
    with torch.no_grad():
        net.stem.weight.mul_(50.0)  # as if the weights had moved far since
        module._settle(net, data, torch.arange(16), 16)
        expected = net.stem(to_network_range(images)).mean(dim=(0, 2, 3))
        torch.testing.assert_close(net.norm.running_mean, expected)
        trained = net.train()(to_network_range(images))[1]
        torch.testing.assert_close(
            net.eval()(to_network_range(images))[1], trained, atol=1e-3, rtol=0.01
        )


def test_nothing_held_out_is_trained_on_or_stops_the_training(monkeypatch):
    module = import_module("dpqlab.evaluation.two_sample")
    learned: list[int] = []
    judged: list[list[int]] = []
    step, judge = module._step, module._judge

    def spy_step(net, optimizer, data, part, config):
        learned.extend(part.tolist())
        return step(net, optimizer, data, part, config)

    def spy_judge(net, data, index):
        judged.append(index.tolist())
        return judge(net, data, index)

    monkeypatch.setattr(module, "_step", spy_step)
    monkeypatch.setattr(module, "_judge", spy_judge)
    config = TwoSampleConfig(**{**vars(SMALL), "epochs": 1})
    run(side(1, count=280), side(2, count=240), config)  # more than is asked for
    stop_0, held_0, stop_1, held_1 = map(set, judged)
    assert held_0 == held_1  # every seed is judged on the same images
    assert stop_0 != stop_1
    assert not held_0 & (set(learned) | stop_0 | stop_1)
    half = len(learned) // 2
    assert not set(learned[:half]) & stop_0
    assert not set(learned[half:]) & stop_1
    assert (half, len(stop_0), len(held_0)) == (2 * (160 - 16), 2 * 16, 2 * 80)
    labels = np.concatenate([side(1, count=280).labels, side(2).labels])
    for part in (held_0, stop_0, set(learned[:half])):
        index = np.array(sorted(part))
        sides, classes = index >= 280, labels[index]
        counts = {int(np.sum(sides == s)) for s in (0, 1)}
        assert len(counts) == 1
        assert len({int(np.sum((classes == c) & sides)) for c in range(4)}) == 1


def test_the_interval_is_binomial_and_between_seeds():
    found = summarize([0.6, 0.64, 0.56], held_out=400)
    error = math.sqrt(0.6 * 0.4 / 400 + 0.04**2 / 3)
    assert found.accuracy == pytest.approx(0.6)
    assert found.high - found.accuracy == pytest.approx(1.96 * error, rel=1e-4)
    assert found.accuracy - found.low == pytest.approx(1.96 * error, rel=1e-4)
    assert str(found) == f"60.0% [{found.low:.1%}, {found.high:.1%}]"
    alone = summarize([0.52], held_out=400)
    assert alone.high - 0.52 == pytest.approx(1.96 * math.sqrt(0.52 * 0.48 / 400), rel=1e-4)
    assert not alone.told_apart
    assert summarize([1.0, 1.0], held_out=10).high == 1.0


@pytest.mark.parametrize(
    ("a", "b", "error", "message"),
    [
        (side(1), side(1), ConfigError, "drawn from seed 1"),
        (side(1, count=200), side(2), ShapeError, "side a has 200 images"),
        (side(1), side(2, count=241), ConfigError, "side b .* as many of each"),
        (side(1), side(2, classes=2), ConfigError, "the same"),
        (side(1, classes=3), side(2, classes=3), ConfigError, "multiples"),
        (
            side(1),
            LabelledImages(images=np.zeros((240, 1, 8, 8), np.uint8), labels=np.arange(240) % 4),
            ShapeError,
            "equal shapes",
        ),
    ],
)
def test_sets_that_cannot_be_compared_are_refused(a, b, error, message):
    with pytest.raises(error, match=message):
        run(a, b)


def test_images_without_a_seed_are_no_pairs():
    a, b = (LabelledImages(images=x.images, labels=x.labels) for x in (side(1), side(2)))
    assert isinstance(next(iter(two_sample_test(a, b, SMALL))), TwoSampleRecord)


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (np.zeros((4, 1, 8, 8)), np.zeros(4, int)),
        (np.zeros((4, 8, 8), np.uint8), np.zeros(4, int)),
        (np.zeros((4, 1, 8, 8), np.uint8), np.zeros(3, int)),
        (np.zeros((4, 1, 8, 8), np.uint8), np.zeros(4)),
    ],
)
def test_what_are_no_labelled_images(images, labels):
    with pytest.raises(ShapeError, match="expected"):
        LabelledImages(images=images, labels=labels)


@pytest.mark.parametrize(
    "change",
    [
        {"train": 0},
        {"held_out": 0},
        {"epochs": 1.5},
        {"stopping": 0.0},
        {"average": 1.0},
        {"rate": 0.0},
        {"weight_decay": math.nan},
        {"seeds": ()},
        {"seeds": (1, 1)},
        {"seeds": (-1,)},
    ],
)
def test_impossible_settings_are_refused(change):
    with pytest.raises(ConfigError, match="expected"):
        TwoSampleConfig(**change)


@pytest.mark.gpu
@pytest.mark.parametrize("bf16", [False, True])
def test_the_gpu_sees_the_shift_too(bf16):
    config = TwoSampleConfig(**{**vars(SMALL), "bf16": bf16})
    assert run(side(1), side(2, shift=40), config, device="cuda")[1].accuracy > 0.9
