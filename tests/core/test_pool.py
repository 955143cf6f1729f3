from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dpqlab.core import (
    CodebookCodec,
    Encoded,
    Pool,
    PoolConfig,
    decode,
    encode,
    pack,
    scope_of_positions,
)
from dpqlab.errors import ConfigError, ShapeError


def indexed_pool(
    sizes: list[int], entries: int, d: int, generator: torch.Generator
) -> tuple[Pool, Pool]:
    """Return a pool with a table, and the ragged pool that stands for the same codewords."""
    words = torch.randn(entries, d, generator=generator).half()
    base = torch.tensor([0, *sizes]).cumsum(0)
    table = torch.randint(entries, (sum(sizes),), generator=generator)
    return (
        Pool(entries=words, base=base, table=table),
        Pool(entries=words[table], base=base),
    )


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=5), entries=st.integers(1, 20),
    d=st.integers(1, 5), rows=st.integers(1, 6), seed=st.integers(0, 99),
)  # fmt: skip
def test_a_table_only_says_where_codewords_are(
    sizes: list[int], entries: int, d: int, rows: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    indexed, ragged = indexed_pool(sizes, entries, d, generator)
    scope_of = scope_of_positions("position", len(sizes))
    codes = torch.stack([torch.randint(k, (rows,), generator=generator) for k in sizes], dim=1)
    rebuilt = [
        decode(
            Encoded(
                codes=codes, pool=pool, scope_of=scope_of, scale=None, shape=(rows, d * len(sizes))
            )
        )
        for pool in (indexed, ragged)
    ]
    assert rebuilt[0].equal(rebuilt[1])
    assert indexed.codewords.equal(ragged.codewords)
    assert indexed.entries[indexed.entry_indices(codes, scope_of)].equal(
        ragged.entries[ragged.entry_indices(codes, scope_of)]
    )
    weight = torch.randn(rows, d * len(sizes), generator=generator)
    codec = CodebookCodec(d=d, k=9)
    assert encode(weight, codec, indexed).codes.equal(encode(weight, codec, ragged).codes)


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=5), entries=st.integers(1, 300),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_bits_of_tables_are_those_of_the_bytes(sizes: list[int], entries: int, seed: int) -> None:
    indexed, ragged = indexed_pool(sizes, entries, 2, torch.Generator().manual_seed(seed))
    offsets = 32 * len(sizes) if len(set(sizes)) > 1 else 0
    assert indexed.table is not None
    assert indexed.table_bits == offsets + 8 * len(pack(indexed.table, indexed.entry_bits))
    assert ragged.table_bits == offsets
    assert indexed.sizes == ragged.sizes == sizes
    assert indexed.indexed
    assert not ragged.indexed


def test_impossible_pools() -> None:
    words, base = torch.zeros(4, 2), torch.tensor([0, 2, 5])
    with pytest.raises(ShapeError, match="from 0 to the 4 entries"):
        Pool(entries=words, base=base)
    with pytest.raises(ShapeError, match="4 rows of the table"):
        Pool(entries=words, base=base, table=torch.zeros(4, dtype=torch.int64))
    with pytest.raises(ShapeError, match=r"from 0 to 3: got 0\.\.4"):
        Pool(entries=words, base=base, table=torch.tensor([0, 1, 2, 3, 4]))


@pytest.mark.parametrize(
    "settings",
    [
        {"budget": 0.0},
        {"budget": float("inf")},
        {"merge": -0.1},
        {"refits": -1},
        {"measure": "size"},
        {"form": "sparse"},
    ],
)
def test_impossible_settings(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        PoolConfig(**settings)


def test_settings_as_json() -> None:
    assert PoolConfig(**PoolConfig(budget=0.5).to_dict()) == PoolConfig(budget=0.5)
