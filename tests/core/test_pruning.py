from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dpqlab.core import (
    CodebookCodec,
    Member,
    PoolConfig,
    PruneRecord,
    assign,
    budget,
    encode,
    fit_pool,
    kmeans,
    pack,
    prune,
    prune_path,
)
from dpqlab.core.budget import Holder, Prices, costs, distinct, ranking
from dpqlab.core.indexed import IndexedPools, ladder, search
from dpqlab.core.refitting import weighted_error
from dpqlab.errors import ConfigError

CASES = {
    "layers": st.integers(1, 2), "rows": st.integers(4, 40), "columns": st.integers(3, 14),
    "d": st.integers(1, 4), "k": st.integers(2, 12), "scaled": st.booleans(),
    "scope": st.sampled_from(["position", "group", "layer"]), "seed": st.integers(0, 999),
}  # fmt: skip
CONFIGS = {
    "form": st.sampled_from(["ragged", "indexed", "auto"]),
    "measure": st.sampled_from(["usage", "weighted", "removal"]),
    "refits": st.integers(0, 2), "merge": st.sampled_from([0.0, 0.05, 0.5]),
}  # fmt: skip
ALMOST = 1 + 1e-6  # distances are compared in float32


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def some_members(
    layers: int, rows: int, columns: int, d: int, k: int, scaled: bool, scope: Any, seed: int
) -> tuple[list[Member], CodebookCodec]:
    """Return layers that share a pool by kind, or one layer."""
    g = seeded(seed)
    codec = CodebookCodec(
        d=d, k=k, scope=scope, group=2 if scope == "group" else 1,
        across="kind" if layers > 1 else "layer", row_scale=scaled, iterations=3,
    )  # fmt: skip
    weights = [torch.randn(rows + i, columns, generator=g) for i in range(layers)]
    pool = fit_pool(weights, codec, generator=g)
    members: list[Member] = []
    for weight in weights:
        inputs = torch.randn(30, columns, generator=g)
        gram = inputs.T @ inputs / 30
        encoded = encode(weight, codec, pool)
        members.append(Member(weight=weight, encoded=encoded, moments=gram.diagonal(), gram=gram))
    return members, codec


def stored(record: PruneRecord) -> dict[str, int]:
    """Count the bits of what would be written."""
    pools = [encoded.pool for encoded in record.encoded]
    table = 0
    for pool in pools if pools[0].indexed else pools[:1]:
        table += 32 * len(pool.sizes) if len(set(pool.sizes)) > 1 else 0
        if pool.table is not None:
            table += 8 * len(pack(pool.table, pool.entry_bits))
    scales = [e.scale for e in record.encoded if e.scale is not None]
    return {
        "codes": sum(8 * len(pack(e.codes.flatten(), e.code_bits)) for e in record.encoded),
        "pool": 8 * pools[0].entries.numpy().nbytes,
        "table": table,
        "scale": sum(8 * scale.numpy().nbytes for scale in scales),
    }


def check(record: PruneRecord, members: list[Member]) -> None:
    """Everything that is true of any point of any path."""
    values = record.to_dict()
    bits = stored(record)
    assert {name: values[name] for name in bits} == bits
    numel = sum(member.weight.numel() for member in members)
    assert record.true_bits == sum(bits.values()) / numel
    assert json.loads(json.dumps(values)) == values
    assert record.weighted_error <= ALMOST * record.moved_error + 1e-12
    first = record.encoded[0].pool
    assert record.codewords == len(first.entries)
    for encoded in record.encoded:
        assert encoded.pool.entries is first.entries
        assert encoded.pool.indexed == (record.form == "indexed")
        sizes = torch.tensor(encoded.pool.sizes)
        assert bool((encoded.codes >= 0).all())
        assert bool((encoded.codes < sizes[encoded.scope_of]).all())
    now = [replace(m, encoded=e) for m, e in zip(members, record.encoded, strict=True)]
    assert record.weighted_error == weighted_error(now)


@given(budget=st.floats(0.05, 2.0), **CASES, **CONFIGS)
@settings(max_examples=25)
def test_the_promise_of_a_budget(budget: float, **case: Any) -> None:
    config = PoolConfig(budget=budget, **{name: case.pop(name) for name in CONFIGS})
    members, codec = some_members(**case)
    try:
        record = prune(members, config, codec, generator=seeded())
    except ConfigError as refusal:
        found = re.search(r"take (\S+) or more", str(refusal))
        assert found is not None
        assert float(found[1]) >= 0.999 * budget
        if config.form == "indexed":
            enough = replace(config, budget=1.001 * float(found[1]))
            check(prune(members, enough, codec, generator=seeded()), members)
        return
    check(record, members)
    assert record.pool + record.table <= budget * record.codes
    assert record.share <= budget
    again = prune(members, config, codec, generator=seeded())
    assert again == record
    for one, other in zip(again.encoded, record.encoded, strict=True):
        assert one.codes.equal(other.codes)
        assert one.pool.entries.equal(other.pool.entries)


@given(**CASES, **CONFIGS)
@settings(max_examples=8)
def test_what_holds_along_a_path(**case: Any) -> None:
    config = PoolConfig(**{name: case.pop(name) for name in CONFIGS})
    members, codec = some_members(**case)
    records = list(prune_path(members, config, codec, generator=seeded()))
    for record in records:
        check(record, members)
    ragged = [record for record in records if record.form == "ragged"]
    for before, after in pairwise(ragged):
        assert after.codewords < before.codewords
        assert ALMOST * after.moved_error >= before.weighted_error
        if config.refits == 0:
            assert ALMOST * after.weighted_error >= before.weighted_error
        assert after.merged + after.removed + after.codewords == ragged[0].codewords
    if ragged:
        assert ragged[0].codewords == len(members[0].encoded.pool.entries)
        assert ragged[-1].codewords == len(members[0].encoded.pool.sizes)
    assert records
    assert {record.form for record in records} >= {config.form} - {"auto"}


def test_tables_that_cost_more_than_codebooks_leave_one_point() -> None:
    members, codec = some_members(2, 4, 3, 1, 3, False, "layer", 0)
    config = PoolConfig(form="indexed", merge=0.0, refits=0)
    (only,) = prune_path(members, config, codec, generator=seeded())
    assert only.codewords == 1
    assert only.share == 1.0


def test_an_indexed_pool_does_not_depend_on_what_was_made_before_it(layer: Member) -> None:
    pools = [IndexedPools([layer], PoolConfig(), CODEC, seeded(), kmeans, assign) for _ in range(2)]
    assert pools[0].fitted(0.6) is not None
    found = [made.fitted(0.2) for made in pools]
    (one,), (other,) = (fitted[0] for fitted in found if fitted is not None)
    assert one.encoded.pool.entries.equal(other.encoded.pool.entries)
    assert one.encoded.codes.equal(other.encoded.codes)


@pytest.fixture
def layer() -> Member:
    weight = torch.randn(512, 32, generator=seeded(1)) * (1 + torch.arange(32) // 8)
    codec = CodebookCodec(d=4, k=16, row_scale=True)
    encoded = encode(weight, codec, fit_pool([weight], codec, generator=seeded()))
    return Member(weight=weight, encoded=encoded)


CODEC = CodebookCodec(d=4, k=16, row_scale=True)


def test_auto_takes_the_better_form(layer: Member) -> None:
    found = {
        form: prune([layer], PoolConfig(form=form, budget=0.2), CODEC, generator=seeded())
        for form in ("ragged", "indexed", "auto")
    }
    best = min((found["ragged"], found["indexed"]), key=lambda record: record.weighted_error)
    assert found["auto"] == best
    assert best.form == "indexed"


def test_a_budget_that_is_met_already_takes_nothing(layer: Member) -> None:
    record = prune([layer], PoolConfig(budget=2.0), CODEC, generator=seeded())
    assert (record.merged, record.removed, record.codewords) == (0, 0, 8 * 16)
    assert record.weighted_error < weighted_error([layer])
    bare = prune([layer], PoolConfig(budget=2.0, refits=0), CODEC, generator=seeded())
    assert bare.encoded[0].pool.entries.equal(layer.encoded.pool.entries)
    assert record.weighted_error < bare.weighted_error <= weighted_error([layer])


def test_a_ragged_budget_is_used_up(layer: Member) -> None:
    """One codeword more would not have fitted."""
    record = prune([layer], PoolConfig(form="ragged", refits=1), CODEC, generator=seeded())
    assert record.share <= 0.25
    assert record.pool + record.table + 16 * 4 > 0.25 * record.codes


def test_errors_without_moments_are_those_of_the_weights(layer: Member) -> None:
    record = prune([layer], PoolConfig(), CODEC, generator=seeded())
    assert record.output_error is None
    assert record.weighted_error == record.weight_error
    known = prune([replace(layer, gram=torch.eye(32))], PoolConfig(), CODEC, generator=seeded())
    assert known.output_error == pytest.approx(record.weight_error)


def test_moments_lower_the_error_of_the_output() -> None:
    members, codec = some_members(1, 60, 12, 2, 12, True, "position", 3)
    scaled = torch.logspace(-1, 1, 12)
    gram = members[0].gram
    assert gram is not None
    gram = gram * scaled * scaled[:, None]
    blind = Member(weight=members[0].weight, encoded=members[0].encoded, gram=gram)
    config = PoolConfig(budget=0.5)
    seen = replace(blind, moments=gram.diagonal())
    errors = [prune([m], config, codec, generator=seeded()).output_error for m in (blind, seen)]
    assert errors[1] < 0.9 * errors[0]  # pyright: ignore


def test_layers_with_pools_of_their_own_can_share_an_indexed_one() -> None:
    members = [some_members(1, 99, 8, 4, 8, False, "position", seed)[0][0] for seed in (1, 2)]
    codec = CodebookCodec(d=4, k=8)
    record = prune(members, PoolConfig(budget=0.6), codec, generator=seeded())
    check(record, members)
    assert record.form == "indexed"
    assert record.encoded[0].pool.table is not record.encoded[1].pool.table
    with pytest.raises(ConfigError, match="prune each by itself"):
        prune(members, PoolConfig(form="ragged"), codec, generator=seeded())


def test_equal_codewords_merge_and_cost_nothing() -> None:
    weight = torch.randn(64, 4, generator=seeded())[torch.arange(256) % 64]
    codec = CodebookCodec(d=4, k=100, init="sample")
    encoded = encode(weight, codec, fit_pool([weight], codec, generator=seeded()))
    config = PoolConfig(form="ragged", merge=0.0, refits=0)
    member = Member(weight=weight, encoded=encoded)
    whole, merged, *_ = prune_path([member], config, codec, generator=seeded())
    assert (whole.codewords, merged.codewords, merged.removed) == (100, 100 - merged.merged, 0)
    assert merged.merged > 0
    assert merged.weighted_error == whole.weighted_error


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4), seed=st.integers(0, 999),
    limit=st.floats(0, 3),
)  # fmt: skip
@settings(max_examples=50)
def test_redundant_codewords_merge_greedily(sizes: list[int], seed: int, limit: float) -> None:
    g = seeded(seed)
    scope = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    words = torch.randint(-2, 3, (len(scope), 2), generator=g) / 2
    worth = torch.randint(0, 5, (len(scope),), generator=g).double()
    kept: list[int] = []
    for i in sorted(range(len(scope)), key=lambda i: (-float(worth[i]), i)):
        rivals = [j for j in kept if scope[j] == scope[i]]
        if all(float((words[i] - words[j]).square().sum()) > limit for j in rivals):
            kept.append(i)
    assert distinct(words.half(), scope, worth, limit).nonzero()[:, 0].tolist() == sorted(kept)


def test_redundancy_in_tiles_is_that_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    g = seeded()
    words, worth = torch.randn(900, 3, generator=g), torch.rand(900, generator=g).double()
    for scope in (torch.zeros(900, dtype=torch.int64), torch.arange(900) % 3):
        whole = distinct(words, scope, worth, 0.2)
        monkeypatch.setattr(budget, "_TILE", 5000)
        assert distinct(words, scope, worth, 0.2).equal(whole)
        some = distinct(words, scope, worth, 0.2, most=50)
        assert 50 < int(some.sum()) < int(whole.sum())
        assert not bool((some & ~whole).any())
        monkeypatch.undo()


def test_the_numbers_of_entries_that_are_tried() -> None:
    assert ladder(1) == [1]
    assert ladder(9) == [1, 2, 3, 4, 6, 8]
    assert ladder(200_000)[-2:] == [49_152, 65_536]


@given(count=st.integers(1, 40), bottom=st.integers(0, 45), fits=st.integers(0, 45))
@settings(max_examples=100)
def test_the_search_finds_the_bottom(count: int, bottom: int, fits: int) -> None:
    sizes = [3 * i for i in range(count)]
    tried: list[int] = []

    def error(size: int) -> float:
        tried.append(size)
        return abs(size - 3 * bottom) if size <= 3 * fits else math.inf

    search(sizes, error)
    assert min(bottom, fits, count - 1) * 3 in tried
    assert len(set(tried)) == len(tried) <= 9


@given(
    sizes=st.lists(st.integers(1, 6), min_size=2, max_size=5), seed=st.integers(0, 999),
    indexed=st.booleans(),
)  # fmt: skip
@settings(max_examples=30)
def test_costs_are_known_without_encoding(sizes: list[int], seed: int, indexed: bool) -> None:
    scope = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    ranks = ranking(torch.rand(len(scope), generator=seeded(seed)).double(), scope)
    holders = [Holder(scopes=len(sizes) - 1, codes=(35, 7)), Holder(scopes=1, codes=(11,))]
    prices = Prices(pool=640, row=5) if indexed else Prices(codeword=64)
    spent, codes = costs(ranks, holders, prices)
    for count in range(len(sizes), len(scope) + 1):
        kept = torch.bincount(scope[ranks.order[:count]], minlength=len(sizes)).tolist()
        assert min(kept) >= 1
        expected, coded = (640 if indexed else 64 * count), 0
        for own, layers in ((kept[:-1], (35, 7)), (kept[-1:], (11,))):
            expected += 32 * len(own) if len(set(own)) > 1 else 0
            expected += 8 * -(-5 * sum(own) // 8) if indexed else 0
            width = max(1, (max(own) - 1).bit_length())
            coded += sum(8 * -(-n * width // 8) for n in layers)
        assert (int(spent[count - 1]), int(codes[count - 1])) == (expected, coded)


def test_refusals(layer: Member) -> None:
    with pytest.raises(ConfigError, match="no members"):
        prune([], PoolConfig(), CODEC, generator=seeded())
    with pytest.raises(ConfigError, match="moments of some members only"):
        prune(
            [layer, replace(layer, moments=torch.ones(32))],
            PoolConfig(), CODEC, generator=seeded(),
        )  # fmt: skip
    with pytest.raises(ConfigError, match="got d=4"):
        prune([layer], PoolConfig(), CodebookCodec(d=8, k=16), generator=seeded())
    record = prune([layer], PoolConfig(form="indexed"), CODEC, generator=seeded())
    pruned = replace(layer, encoded=record.encoded[0])
    with pytest.raises(ConfigError, match="got an indexed pool"):
        prune([pruned], PoolConfig(), CODEC, generator=seeded())
