"""Which measure predicts damage: the judge, the groups, and a run from end to end."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import spearmanr

from benchmarks import importance
from benchmarks.importance import (
    MEASURES,
    Judge,
    against,
    groups_of,
    main,
    neutral,
    pooled,
    rank_correlation,
    trajectories,
)
from benchmarks.record import read
from dpqlab.core import CodebookCodec, Pool, PoolConfig
from dpqlab.diffusion import models
from dpqlab.diffusion.pipeline import PixelDiTPipeline
from dpqlab.diffusion.schedules import make_scheduler
from dpqlab.nn import CompressedLinear, Plan, compress_
from dpqlab.nn.plan import Coding
from tests.tiny import tiny_dit

POOL = PoolConfig(form="ragged", refits=1)
CODING = Coding(codec=CodebookCodec(d=2, k=16, across="kind", iterations=2), pool=POOL)


@pytest.fixture(autouse=True)
def small_machine(one_thread: None) -> None:
    """One thread."""


@pytest.fixture
def teacher() -> Any:
    """The full-precision model."""
    return tiny_dit().requires_grad_(False)


def test_the_halves_of_the_classes_do_not_meet(teacher):
    first = trajectories(teacher, images=3, steps=2, seed=0, second_half=False)
    second = trajectories(teacher, images=7, steps=2, seed=1, second_half=True)
    assert first.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert second.labels.tolist() == [5, 5, 6, 6, 7, 7, 8, 8, 9, 9, 5, 5, 6, 6]
    assert (len(first.noisy), len(second.timesteps)) == (6, 14)


def test_the_judge_counts_images_and_finds_nothing_wrong_with_the_teacher(teacher):
    judge = Judge(teacher, images=3, steps=2)
    errors = judge.errors(teacher)
    assert errors.noise == (0.0, 0.0, 0.0)
    assert [batch.labels.tolist() for batch in judge.batches] == [
        [5, 5, 10, 10], [6, 6, 10, 10], [7, 7, 10, 10]
    ]  # fmt: skip
    worse = tiny_dit().requires_grad_(False)
    compress_(worse, Plan.for_blocks(CODING.codec))
    assert min(judge.errors(worse).noise) > 0
    assert min(judge.errors(worse).blocks) > 0


def test_ratios_are_paired():
    ratio, error = against([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
    assert (ratio, error) == (2.0, 0.0)
    assert against([2.0, 4.0, 7.0], [1.0, 2.0, 3.0])[1] > 0


def test_rank_correlation_is_spearmans():
    a, b = torch.rand(2, 12, generator=torch.Generator().manual_seed(0)).tolist()
    found: Any = spearmanr(a, b)
    assert rank_correlation(a, b) == pytest.approx(found.statistic)


def test_neutral_groups_leave_one_codeword_a_scope():
    sizes = torch.tensor([6, 1, 2, 5, 8, 1, 3, 4, 9])
    base = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
    pool = Pool(entries=torch.zeros(int(base[-1]), 2), base=base)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        gone = neutral(pool, generator)
        left = [int((~gone[a:b]).sum()) for a, b in itertools.pairwise(base)]
        assert min(left) >= 1
        assert sum(a != b for a, b in zip(left, sizes.tolist(), strict=True)) <= 1


def test_what_is_removed_can_be_put_back(teacher):
    student = tiny_dit().requires_grad_(False)
    compress_(student, Plan.for_blocks(CODING.codec))
    layers = {n: m for n, m in student.named_modules() if isinstance(m, CompressedLinear)}
    before = {name: layer.decode() for name, layer in layers.items()}
    moments = {name: torch.ones(layer.in_features) for name, layer in layers.items()}
    groups = groups_of(student, teacher, moments)
    assert len(groups) == 7
    for group in groups:
        gone = torch.zeros(len(group.pool.entries), dtype=torch.bool)
        gone[1::2] = True
        group.set_(group.without(gone))
        assert len({id(layer.pool) for layer in group.layers.values()}) == 1
        group.set_([member.encoded for member in group.members])
    for name, layer in layers.items():
        assert torch.equal(layer.decode(), before[name])


def test_plans_change_their_pools_alone():
    plan = Plan.for_blocks(CODING)
    (rule,) = [r for r in pooled(plan, measure="removal", budget=0.125).rules if r.codec]
    assert rule.pool == replace(POOL, measure="removal", budget=0.125)
    assert all(rule.pool is None for rule in pooled(plan).rules)


def test_a_run_from_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "ASSETS", tmp_path / "assets")
    PixelDiTPipeline(tiny_dit(), make_scheduler()).save_pretrained(tmp_path / "assets/fashion-dit")
    monkeypatch.setattr(importance, "preset", lambda name: Plan.for_blocks(CODING, name=name))
    main([
        "--quick", "--presets", "tiny", "--budgets", "2", "1", "--groups", "2",
        "--results", str(tmp_path),
    ])  # fmt: skip
    records = read("importance", tmp_path)
    rows = [record["row"] for record in records]
    assert rows[:3] == [f"tiny, budget 2, merge 0, {measure}" for measure in MEASURES]
    assert rows[3:6] == [f"tiny, budget 2, merge 0.05, {measure}" for measure in MEASURES]
    assert len(rows) == 3 * 3 + 3 + 3 * 2
    assert all(record["details"]["standard_error"] >= 0 for record in records)
    assert all(len(r["details"]["by_kind"]) == 7 for r in records[9:])
    for record in records[:9]:
        assert record["value"] > 0
        assert 0 < record["details"]["weight_error"] < 1
