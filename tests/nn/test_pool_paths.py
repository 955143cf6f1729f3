"""Paths of a model's pools, one record a point."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from dpqlab.core import CodebookCodec, PoolConfig
from dpqlab.nn import Plan, compress_, ledger_of_model
from dpqlab.nn.pool_paths import at_budget, path_steps, prune_to_
from dpqlab.nn.targets import targets_of
from tests.tiny import tiny_dit

CODECS = {
    "attn1.to_q": CodebookCodec(d=2, k=8, across="kind", iterations=2),
    "ff.net.2": CodebookCodec(d=4, k=16, scope="layer", iterations=2),
}
PLAN = Plan.for_blocks(CODECS)
CONFIG = PoolConfig(form="ragged", refits=0, merge=0.0)


@pytest.fixture(scope="module")
def walked():
    model = tiny_dit()
    weights = {t.name: t.linear.weight.detach().clone() for t in targets_of(model, PLAN)}
    compress_(model, PLAN)
    inputs = {name: torch.ones(weight.shape[1]) for name, weight in weights.items()}
    steps = list(path_steps(model, weights, inputs, CONFIG))
    return model, steps


def test_the_share_that_is_done_rises_to_one(walked):
    _, steps = walked
    done = [step.done for step in steps]
    assert done == sorted(done)
    assert done[-1] == pytest.approx(1)
    paths = [step.path for step in steps if step.path is not None]
    # one pool for the queries of both blocks, one for each of the other layers
    assert [len(path.names) for path in paths] == [2, 1, 1]
    assert len(steps) == sum(len(path.records) + 1 for path in paths)
    names = [name for path in paths for name in path.names]
    assert len(names) == len(set(names)) == 4


def test_a_pruned_model_stores_what_its_budget_says(walked):
    model, steps = walked
    paths = [step.path for step in steps if step.path is not None]
    whole = ledger_of_model(model)
    everything = at_budget(paths, whole, float("inf"))
    assert everything is not None
    assert everything.true_bits == pytest.approx(whole.true_bits_per_weight)
    budget = 1.01 * max(path.smallest for path in paths)
    half = at_budget(paths, whole, budget)
    assert half is not None
    assert half.share <= budget
    prune_to_(model, paths, budget)
    pruned = ledger_of_model(model)
    assert pruned.true_bits_per_weight == pytest.approx(half.true_bits)
    assert half.true_bits < everything.true_bits
    assert half.weighted_error > everything.weighted_error
    queries = [model.get_submodule(name) for name in paths[0].names]
    assert queries[0].pool is queries[1].pool
    assert at_budget(paths, whole, min(path.smallest for path in paths) / 2) is None
    assert replace(half, budget=float("inf")).to_dict()["budget"] is None
