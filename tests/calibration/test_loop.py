"""Calibrating a tiny student."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch

from dpqlab.calibration import (
    Batch,
    CalibrationRecord,
    DistillationLoss,
    LatentConfig,
    calibrate,
)
from dpqlab.calibration.distiller import Distiller
from dpqlab.calibration.masters import masters_of
from dpqlab.calibration.objectives import JUDGED_FEATURES
from dpqlab.checkpoint import load_compressed, save_compressed
from dpqlab.diffusion.schedules import make_scheduler
from dpqlab.errors import ConfigError
from dpqlab.nn import ledger_of_model
from tests.calibration.conftest import VQ_KIND
from tests.calibration.states import (
    cached,
    course,
    held_out_loss,
    layers_of,
    same,
    state_of,
)


def test_calibration_lowers_the_held_out_loss(student, teacher, data, config):
    before, start = held_out_loss(student, teacher, data, config), state_of(student)
    codes = [layer.codes() for layer in layers_of(student)]
    records = list(calibrate(student, teacher, data, config))
    assert [record.step for record in records] == [0, 5, 10, 15, 20, 25, 30]
    assert records[0].total == before
    after = held_out_loss(student, teacher, data, config)
    assert after == min(record.total for record in records) < 0.6 * before
    assert records[-1].output < records[0].output
    assert records[-1].features < records[0].features
    for record in records:
        expected = record.output + JUDGED_FEATURES * record.features
        assert record.total == pytest.approx(expected)
        assert len(record.blocks) == 2
        assert record.features == pytest.approx(sum(record.blocks) / 2)
        assert (record.changed, record.revived) == (0, 0)
        assert record.true_bits == ledger_of_model(student).true_bits_per_weight
    assert all(torch.equal(a, b.codes()) for a, b in zip(codes, layers_of(student), strict=True))
    trained = masters_of(student).keys()
    for name, value in state_of(student).items():
        assert value.dtype == start[name].dtype
        if name not in trained:
            assert torch.equal(value, start[name]), name
        elif not name.endswith("to_k.bias"):  # which attention does not see
            assert not torch.equal(value, start[name]), name


def test_records_tell_time_and_the_best(student, teacher, data, config):
    records = list(calibrate(student, teacher, data, replace(config, steps=12)))
    assert [record.step for record in records] == [0, 5, 10, 12]
    assert (records[0].seconds, records[0].remaining) == (0, 0)
    assert all(a.seconds < b.seconds for a, b in pairwise(records))
    assert records[1].remaining == pytest.approx(records[1].seconds * 7 / 5)
    assert records[-1].remaining == 0
    lowest = float("inf")
    for record in records:
        assert record.best == (record.total < lowest)
        lowest = min(lowest, record.total)


def test_the_same_seed_gives_the_same_student(compressed, teacher, data, config):
    settings = replace(config, steps=6, every=3)
    first, second, other = compressed(), compressed(), compressed()
    records = list(calibrate(first, teacher, data, settings))
    assert course(records) == course(list(calibrate(second, teacher, data, settings)))
    assert same(state_of(first), state_of(second))
    different = list(calibrate(other, teacher, data, replace(settings, seed=1)))
    assert course(different) != course(records)


def test_a_run_that_never_improves_changes_nothing(student, teacher, data, config):
    start = state_of(student)
    records = list(calibrate(student, teacher, data, replace(config, learning_rate=5.0, steps=5)))
    assert [record.best for record in records] == [True, False]
    assert same(start, state_of(student))


def test_held_out_images_are_never_trained_on(compressed, teacher, data, config):
    """Others in their place change what is judged, not what is learned."""
    settings = replace(config, steps=4, every=4)
    images = data.images.clone()
    images[-config.holdout :] = 255 - images[-config.holdout :]
    first, second = compressed(), compressed()
    one = list(calibrate(first, teacher, data, settings))
    two = list(calibrate(second, teacher, replace(data, images=images), settings))
    assert one[0].total != two[0].total
    assert one[-1].best
    assert two[-1].best
    assert same(state_of(first), state_of(second))


def test_records_are_json(student, teacher, data, config):
    settings = replace(config, steps=2, every=2, latent=LatentConfig())
    for record in calibrate(student, teacher, data, settings):
        values = json.loads(json.dumps(record.to_dict()))
        assert values == record.to_dict()
        assert values["blocks"] == list(record.blocks)
        assert CalibrationRecord.from_dict(values) == record


def test_changed_codes_are_counted_from_record_to_record(
    student, teacher, data, config, monkeypatch
):
    """The present codes count, not those of the best state that the student shows."""
    settings = replace(config, steps=6, every=2, latent=LatentConfig(learning_rate=0.5))
    judge, seen = Distiller.judge, []

    def judge_and_see(distiller: Distiller, batch: Batch) -> DistillationLoss:
        codes = [search.codes.flatten() for search in distiller.searches.values()]
        seen.append(torch.cat(codes))
        return judge(distiller, batch)

    monkeypatch.setattr(Distiller, "judge", judge_and_see)
    records = list(calibrate(student, teacher, data, settings))
    expected = [(a != b).float().mean().item() for a, b in pairwise([seen[0], *seen])]
    assert [record.changed for record in records] == pytest.approx(expected)
    assert min(expected[1:]) > 0


def test_a_diverging_run_says_so_and_keeps_the_best(student, teacher, data, config):
    start = state_of(student)
    settings = replace(config, learning_rate=1e12)
    with pytest.raises(ConfigError, match=r"diverged at step 5: .* below 1000000000000"):
        list(calibrate(student, teacher, data, settings))
    assert same(start, state_of(student))
    assert not cached(student)


def test_training_mode_drops_no_labels(compressed, teacher, data, config):
    settings = replace(config, steps=2, every=1)
    plain, training = compressed(), compressed().train()
    embedder = training.transformer_blocks[0].norm1.emb
    embedder.class_embedder.dropout_prob = 0.5
    loud = copy.deepcopy(teacher).train()
    loud.transformer_blocks[0].norm1.emb.class_embedder.dropout_prob = 0.5
    expected = course(list(calibrate(plain, teacher, data, settings)))
    assert course(list(calibrate(training, loud, data, settings))) == expected


def test_a_dense_model_is_refused(teacher, data, config):
    dense = copy.deepcopy(teacher)
    with pytest.raises(ConfigError, match="no compressed layers"):
        next(calibrate(dense, teacher, data, config))


@pytest.mark.parametrize("holdout", [96, 1000])
def test_too_few_images_are_refused(student, teacher, data, config, holdout):
    with pytest.raises(ConfigError, match=f"96 images: expected more than the {holdout} kept"):
        next(calibrate(student, teacher, data, replace(config, holdout=holdout)))
    assert not cached(student)


def test_a_shared_pool_is_trained_once_and_stays_shared(compressed, teacher, data, config):
    student = compressed(VQ_KIND)
    first, second = (block.ff.net[2] for block in student.transformer_blocks)
    assert first.pool is second.pool
    pool, before = first.pool, first.pool.detach().clone()
    records = list(calibrate(student, teacher, data, replace(config, steps=10)))
    assert records[-1].best
    assert first.pool is second.pool is pool
    assert pool.dtype == torch.float16
    assert not torch.equal(pool, before)
    assert len({id(layer.pool) for layer in layers_of(student)}) == 7


@pytest.mark.parametrize("codec", [None, VQ_KIND])
def test_a_calibrated_student_saves_and_loads_bit_equal(
    compressed, teacher, data, config, tmp_path, codec
):
    student = compressed(codec) if codec else compressed()
    list(calibrate(student, teacher, data, replace(config, steps=4, every=2)))
    scheduler: Any = make_scheduler()
    save_compressed(
        student,
        tmp_path / "student",
        scheduler_config=json.loads(scheduler.to_json_string()),
        provenance={"steps": config.steps},
        card="# Student\n",
    )
    loaded = load_compressed(tmp_path / "student")
    ours, theirs = state_of(student), state_of(loaded)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert value.dtype == theirs[name].dtype
        assert torch.equal(value, theirs[name]), name
    after = held_out_loss(loaded, teacher, data, config)
    assert after == held_out_loss(student, teacher, data, config)
