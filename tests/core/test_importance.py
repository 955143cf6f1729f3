from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dpqlab.core import (
    CodebookCodec,
    Encoded,
    Member,
    Pool,
    encode,
    fit_pool,
    importance,
    scope_of_positions,
)
from dpqlab.core.importance import importance_of_members
from dpqlab.errors import ConfigError

CASES = {
    "rows": st.integers(1, 12), "columns": st.integers(1, 14), "d": st.integers(1, 4),
    "sizes": st.integers(1, 6), "scope": st.sampled_from(["position", "group", "layer"]),
    "scaled": st.booleans(), "indexed": st.booleans(), "seed": st.integers(0, 999),
}  # fmt: skip


def random_case(
    rows: int, columns: int, d: int, sizes: int, scope: Any, scaled: bool, indexed: bool, seed: int
) -> Member:
    """Return a layer with random codewords, codebooks of 1 to ``sizes`` codes, random codes."""
    g = torch.Generator().manual_seed(seed)
    m = -(-columns // d)
    scope_of = scope_of_positions(scope, m, 2 if scope == "group" else 1)
    k = torch.randint(1, sizes + 1, (int(scope_of[-1]) + 1,), generator=g)
    base = torch.cat([torch.zeros(1, dtype=torch.int64), k.cumsum(0)])
    total = int(base[-1])
    entries = torch.randn(total, d, generator=g).half()
    table = torch.randint(total, (total,), generator=g) if indexed else None
    draws = torch.rand(rows, m, generator=g)
    scale = torch.randn(rows, generator=g).half() if scaled else None
    if scale is not None:
        scale[0] = 0
    encoded = Encoded(
        codes=(draws * k[scope_of]).long(),
        pool=Pool(entries=entries, base=base, table=table),
        scope_of=scope_of,
        scale=scale,
        shape=(rows, columns),
    )
    moments = torch.rand(columns, generator=g) * (torch.rand(columns, generator=g) > 0.2)
    return Member(weight=torch.randn(rows, columns, generator=g), encoded=encoded, moments=moments)


def sub_vector_error(member: Member, r: int, g: int, entry: int) -> float:
    """Weighted error of one sub-vector if it were coded by an entry, in plain arithmetic."""
    encoded = member.encoded
    d, columns = encoded.pool.d, encoded.shape[1]
    scale = 1.0 if encoded.scale is None else float(encoded.scale[r])
    total = 0.0
    for i in range(d):
        j = g * d + i
        if j < columns:
            moment = 1.0 if member.moments is None else float(member.moments[j])
            value = scale * float(encoded.pool.entries[entry, i])
            total += moment * (float(member.weight[r, j]) - value) ** 2
    return total


def brute_force_removal(member: Member, gone: int) -> float:
    """Really take one entry away, and move what used it."""
    encoded, pool = member.encoded, member.encoded.pool
    rows = list(range(len(pool.entries))) if pool.table is None else pool.table.tolist()
    runs = pool.base.tolist()
    rise = 0.0
    for s in range(len(runs) - 1):
        book = rows[runs[s] : runs[s + 1]]
        if gone in book and all(entry == gone for entry in book):
            return math.inf
    for g, s in enumerate(encoded.scope_of.tolist()):
        book = rows[runs[s] : runs[s + 1]]
        for r in range(encoded.shape[0]):
            if book[int(encoded.codes[r, g])] == gone:
                rest = [sub_vector_error(member, r, g, entry) for entry in book if entry != gone]
                rise += min(rest) - sub_vector_error(member, r, g, gone)
    return rise


@given(**CASES)
@settings(max_examples=60)
def test_removal_is_what_removing_costs(**case: Any) -> None:
    member = random_case(**case)
    found = importance(member.weight, member.encoded, "removal", member.moments)
    expected = [brute_force_removal(member, e) for e in range(len(member.encoded.pool.entries))]
    torch.testing.assert_close(
        found, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-9
    )


@given(**CASES)
@settings(max_examples=40)
def test_usage_counts_sub_vectors(**case: Any) -> None:
    member = random_case(**case)
    encoded, pool = member.encoded, member.encoded.pool
    plain, heavy = [0.0] * len(pool.entries), [0.0] * len(pool.entries)
    entries = pool.entry_indices(encoded.codes, encoded.scope_of)
    assert member.moments is not None
    for r, row in enumerate(entries.tolist()):
        scale = 1.0 if encoded.scale is None else float(encoded.scale[r])
        for g, entry in enumerate(row):
            plain[entry] += 1
            moments = member.moments[g * pool.d : g * pool.d + pool.d].double()
            heavy[entry] += scale**2 * float(moments.sum()) / pool.d
    assert importance(member.weight, encoded, "usage", member.moments).tolist() == plain
    torch.testing.assert_close(
        importance(member.weight, encoded, "weighted", member.moments),
        torch.tensor(heavy, dtype=torch.float64),
    )


def test_small_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    member = random_case(9, 14, 2, 5, "position", True, True, 3)
    whole = importance(member.weight, member.encoded, "removal", member.moments)
    monkeypatch.setattr("dpqlab.core.refitting.CHUNK_BYTES", 1)
    assert importance(member.weight, member.encoded, "removal", member.moments).equal(whole)


def test_no_moments_count_all_columns_alike() -> None:
    member = random_case(8, 11, 4, 5, "group", True, False, 1)
    for measure in ("usage", "weighted", "removal"):
        ones = importance(member.weight, member.encoded, measure, torch.ones(11))
        assert importance(member.weight, member.encoded, measure).equal(ones)


def test_members_add_up() -> None:
    weights = [torch.randn(20, 8), torch.randn(30, 8)]
    codec = CodebookCodec(d=4, k=8, across="kind", row_scale=True)
    pool = fit_pool(weights, codec, generator=torch.Generator().manual_seed(0))
    members = [Member(weight=w, encoded=encode(w, codec, pool)) for w in weights]
    for measure in ("usage", "weighted", "removal"):
        apart = sum(importance(m.weight, m.encoded, measure) for m in members)
        assert importance_of_members(members, measure).equal(apart)
    assert float(importance_of_members(members, "usage").sum()) == 50 * 2


def test_unknown_measures_are_refused() -> None:
    member = random_case(3, 4, 2, 2, "layer", False, False, 0)
    with pytest.raises(ConfigError, match="expected one of usage, weighted, removal"):
        importance(member.weight, member.encoded, "size")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match="not negative"):
        replace(member, moments=-torch.ones(4))
