"""Weights that are read when they are needed give what weights in memory give."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from dpqlab.core import (
    CodebookCodec,
    LazyWeight,
    Member,
    PoolConfig,
    encode,
    fit_pool,
    prune,
)

KIND = CodebookCodec(d=4, k=8, scope="layer", across="kind", row_scale=True, iterations=3)
POSITION = replace(KIND, scope="position", row_scale=False)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def weights() -> list[torch.Tensor]:
    return [torch.randn(48, 16, generator=seeded(i)) * (1 + i) for i in range(3)]


def counted(dense: list[torch.Tensor], reads: Counter[int]) -> list[Callable[[], torch.Tensor]]:
    """Readers that count how often each weight is read."""

    def reader(index: int) -> Callable[[], torch.Tensor]:
        def read() -> torch.Tensor:
            reads[index] += 1
            return dense[index].clone()

        return read

    return [reader(index) for index in range(len(dense))]


@pytest.mark.parametrize("codec", [KIND, POSITION], ids=lambda c: c.describe())
@pytest.mark.parametrize("reservoir", [10_000, 200])
def test_a_pool_is_fitted_to_lazy_weights_in_one_pass(codec: CodebookCodec, reservoir: int) -> None:
    dense, reads = weights(), Counter[int]()
    lazy = [LazyWeight(shape=(48, 16), read=read) for read in counted(dense, reads)]
    expected = fit_pool(dense, codec, generator=seeded(), reservoir=reservoir)
    found = fit_pool(lazy, codec, generator=seeded(), reservoir=reservoir)
    assert torch.equal(found.entries, expected.entries)
    assert torch.equal(found.base, expected.base)
    assert reads == {0: 1, 1: 1, 2: 1}


@pytest.mark.parametrize("form", ["ragged", "indexed"])
@pytest.mark.parametrize("measure", ["usage", "weighted", "removal"])
@pytest.mark.parametrize("codec", [KIND, POSITION], ids=lambda c: c.describe())
def test_lazy_members_are_pruned_to_the_same_codes(
    codec: CodebookCodec, measure: Any, form: Any
) -> None:
    dense, reads = weights(), Counter[int]()
    config = PoolConfig(budget=0.8, measure=measure, form=form, refits=2)
    pool = fit_pool(dense, codec, generator=seeded())
    moments = torch.rand(16, generator=seeded()) + 0.1
    held = [Member(weight=w, encoded=encode(w, codec, pool), moments=moments) for w in dense]
    lazy = [
        replace(member, weight=torch.empty(48, 16, device="meta"), read=read)
        for member, read in zip(held, counted(dense, reads), strict=True)
    ]
    expected, found = (
        prune(members, config, codec, generator=seeded()) for members in (held, lazy)
    )
    assert found == expected
    for mine, other in zip(found.encoded, expected.encoded, strict=True):
        assert torch.equal(mine.codes, other.codes)
        assert torch.equal(mine.pool.entries, other.pool.entries)
        assert _same(mine.pool.table, other.pool.table)
        assert _same(mine.scale, other.scale)
    assert min(reads[i] for i in range(3)) > 1


def _same(first: torch.Tensor | None, second: torch.Tensor | None) -> bool:
    if first is None or second is None:
        return first is second
    return torch.equal(first, second)
