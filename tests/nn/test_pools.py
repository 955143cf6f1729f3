"""Compressing with a budget for the pool, and with column moments."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from dpqlab.core import CodebookCodec, PoolConfig, ScalarCodec, decode
from dpqlab.errors import ConfigError
from dpqlab.nn.linear import CompressedLinear
from dpqlab.nn.plan import Coding, Plan, Rule
from dpqlab.nn.pools import spread
from dpqlab.nn.surgery import Compression, compress_, ledger_of_model
from dpqlab.nn.targets import targets_of
from tests.tiny import tiny_dit

PQ = CodebookCodec(d=4, k=16, row_scale=True, iterations=2)
GROUPED = CodebookCodec(d=4, k=16, scope="group", group=3, iterations=2)
KIND = replace(PQ, across="kind")
MODEL = CodebookCodec(d=4, k=256, scope="layer", across="model", iterations=2)
RTN = ScalarCodec(bits=2, group_size=16)
SQUEEZE = PoolConfig(budget=0.6, refits=1)


def moments_of(model: nn.Module, plan: Plan, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        target.name: torch.rand(target.linear.in_features, generator=generator).square() + 0.01
        for target in targets_of(model, plan)
    }


def plan_of(coding: Coding | CodebookCodec, **settings: Any) -> Plan:
    """Three kinds of different shapes with a pool, one without."""
    kinds = dict.fromkeys(("attn1.to_q", "norm1.linear", "ff.net.2"), coding)
    return Plan.for_blocks({**kinds, "ff.net.0.proj": RTN}, **settings)


def run(
    coding: Coding, *, moments: bool = False, weighted: bool = False, seed: int = 0
) -> tuple[nn.Module, Compression]:
    model = tiny_dit()
    plan = plan_of(coding, weighted=weighted)
    given = moments_of(model, plan) if moments else None
    return model, compress_(model, plan, moments=given, seed=seed)


def shares(compressed: dict[str, CompressedLinear], result: Compression) -> dict[int, float]:
    """Bits of pool and tables over the bits of the codes, of every pool."""
    spent: dict[int, int] = {}
    codes: dict[int, int] = {}
    for ledger in result.ledger.layers:
        if ledger.name in compressed:
            key = id(compressed[ledger.name].pool)
            spent[key] = spent.get(key, 0) + ledger.pool + ledger.table
            codes[key] = codes.get(key, 0) + ledger.codes
    return {key: spent[key] / codes[key] for key in spent}


@pytest.mark.parametrize("form", ["ragged", "indexed", "auto"])
@pytest.mark.parametrize(
    ("codec", "budget"),  # one codeword a scope must fit: these layers have 32 rows
    [(PQ, 2.5), (GROUPED, 1.0), (KIND, 1.2), (MODEL, 0.2)],
    ids=lambda value: value.describe() if isinstance(value, CodebookCodec) else "",
)
def test_pools_stay_within_their_budget(codec: CodebookCodec, budget: float, form: Any) -> None:
    budget = budget if form == "ragged" else min(budget, 0.5)
    config = replace(SQUEEZE, form=form, budget=budget)
    model, result = run(Coding(codec=codec, pool=config), moments=True)
    compressed = {name: m for name, m in model.named_modules() if isinstance(m, CompressedLinear)}
    pools = {id(layer.pool) for layer in compressed.values()}
    assert len(pools) == {"layer": 6, "kind": 3, "model": 1}[codec.across]
    assert all(0 < share <= budget for share in shares(compressed, result).values())
    assert any(0 < record.codewords_kept < record.codewords_made for record in result.layers)
    for record in result.layers:
        if record.name not in compressed:
            assert (record.codewords_made, record.codewords_kept) == (0, 0)
            continue
        layer = compressed[record.name]
        assert record.codewords_kept == len(layer.pool) <= record.codewords_made
        assert torch.equal(layer.decode(), decode(layer.encoded()))
        assert (layer.table is not None) == (form == "indexed") or form == "auto"
        assert 0 < record.relative_error < 1
        assert record.weighted_error is not None
        assert 0 < record.weighted_error < 1


@pytest.mark.parametrize("codec", [PQ, KIND, MODEL], ids=lambda c: c.describe())
def test_the_result_does_not_depend_on_the_order_of_the_layers(codec: CodebookCodec) -> None:
    model = tiny_dit()
    turned = copy.deepcopy(model)
    blocks = turned.transformer_blocks
    blocks._modules = dict(reversed(blocks._modules.items()))
    for block in blocks._modules.values():
        block._modules = dict(reversed(block._modules.items()))
        block.attn1._modules = dict(reversed(block.attn1._modules.items()))
    pool = replace(SQUEEZE, form="indexed")
    plan = Plan.for_blocks(
        {"attn1.to_[qk]": Coding(codec=codec, pool=pool), "ff.net.2": Coding(codec=codec)},
        weighted=True,
    )
    moments = moments_of(model, plan)
    first = compress_(model, plan, moments=moments)
    second = compress_(turned, plan, moments=dict(reversed(moments.items())))
    mine, other = model.state_dict(), turned.state_dict()
    assert mine.keys() == other.keys()
    assert all(torch.equal(mine[key], other[key]) for key in mine)
    assert [r.name for r in first.layers] != [r.name for r in second.layers]
    for name in (record.name for record in first.layers):
        a, b = model.get_submodule(name), turned.get_submodule(name)
        assert torch.equal(a.decode(), b.decode())
    total = ledger_of_model(turned).true_bits_per_weight
    assert total == pytest.approx(ledger_of_model(model).true_bits_per_weight)


def test_codebooks_are_squeezed_from_what_k_means_makes_anyway() -> None:
    whole, squeezed = (run(Coding(codec=PQ, pool=pool))[1].layers for pool in (None, SQUEEZE))
    for before, after in zip(whole, squeezed, strict=True):
        assert before.codewords_made == before.codewords_kept == after.codewords_made
        if after.codewords_made:
            assert after.ledger.true_bits < before.ledger.true_bits


def test_rules_with_other_budgets_do_not_share() -> None:
    model = tiny_dit()
    rules = [
        Rule(pattern=f"transformer_blocks.{i}.attn1.*", codec=MODEL, pool=replace(SQUEEZE, merge=m))
        for i, m in ((0, 0.05), (1, 0.0))
    ]
    compress_(model, Plan(rules=tuple(rules)))
    first, second = model.transformer_blocks
    assert first.attn1.to_q.pool is first.attn1.to_k.pool
    assert first.attn1.to_q.pool is not second.attn1.to_q.pool


def test_a_budget_that_cannot_be_met_names_the_layers() -> None:
    with pytest.raises(ConfigError, match=r"blocks\.0\.\S+ and the 1 layers that share .* budget"):
        run(Coding(codec=KIND, pool=replace(SQUEEZE, budget=1e-4)))


def missed(dense: nn.Module, model: nn.Module, moments: dict[str, torch.Tensor]) -> float:
    """The weighted error of all layers, straight from its definition."""
    total = 0.0
    dense = copy.deepcopy(dense).requires_grad_(False)
    for name, values in moments.items():
        lost = dense.get_submodule(name).weight - model.get_submodule(name).decode()
        total += float((lost.square() * values).sum())
    return total


@pytest.mark.parametrize("codec", [GROUPED, MODEL], ids=lambda c: c.describe())
def test_moments_weight_k_means_if_the_plan_says_so(codec: CodebookCodec) -> None:
    plan = Plan.for_blocks({"attn1.to_q": codec, "ff.net.2": codec})
    dense = tiny_dit()
    generator = torch.Generator().manual_seed(3)
    moments = {
        name: 10 ** (3 * torch.rand(values.shape, generator=generator))
        for name, values in moments_of(dense, plan).items()
    }
    states = []
    errors = []
    for given, weighted in ((None, False), (moments, False), (moments, True)):
        model = tiny_dit()
        result = compress_(model, replace(plan, weighted=weighted), moments=given)
        states.append(model.transformer_blocks[0].attn1.to_q.pool)
        errors.append(missed(dense, model, moments))
        for record in result.layers:
            assert (record.weighted_error is None) == (given is None)
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[1], states[2])
    assert errors[2] < errors[1] == errors[0]


def test_the_weighted_error_is_that_of_the_definition() -> None:
    dense = tiny_dit()
    model, result = run(Coding(codec=PQ), moments=True)
    plan = plan_of(PQ)
    moments = moments_of(dense, plan)
    for record in result.layers:
        weight, m = dense.get_submodule(record.name).weight.detach(), moments[record.name]
        expected = missed(dense, model, {record.name: m}) / float((weight.square() * m).sum())
        assert record.weighted_error == pytest.approx(expected, rel=1e-4)


def test_moments_steer_pruning() -> None:
    dense = tiny_dit()
    name = "transformer_blocks.0.ff.net.2"
    plan = Plan(rules=(Rule(pattern=name, codec=GROUPED, pool=replace(SQUEEZE, refits=2)),))
    moments = {name: 10 ** (4 * torch.rand(128, generator=torch.Generator().manual_seed(0)))}
    errors = []
    for given in (None, moments):
        model = tiny_dit()
        compress_(model, plan, moments=given)
        errors.append(missed(dense, model, moments))
    assert errors[1] < errors[0]


def test_moments_of_layers_that_are_kept_are_ignored() -> None:
    model = tiny_dit()
    linears = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    moments = {name: torch.ones(linear.in_features) for name, linear in linears.items()}
    result = compress_(model, Plan.for_blocks({"attn1.to_q": PQ}), moments=moments)
    assert len(result.layers) == 2


def test_spread_is_the_mean_over_the_real_columns() -> None:
    assert spread(torch.tensor([1.0, 3.0, 5.0, 7.0, 10.0]), 2).tolist() == [2.0, 6.0, 10.0]
