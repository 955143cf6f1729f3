"""Rows of codes as columns of words, and which rows share a table."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dpqlab.core import unpack
from dpqlab.errors import ShapeError
from dpqlab.kernels import table_layout
from dpqlab.kernels.coded import CodedWeight
from dpqlab.kernels.table_layout import Prepared, prepare
from tests.kernels.random_weights import random_weight


def codes_of(weight: CodedWeight) -> Tensor:
    count = weight.shape[0] * weight.positions
    return unpack(weight.codes, weight.code_bits, count).view(-1, weight.positions)


def codes_in(prepared: Prepared) -> Tensor:
    """The codes of all rows, (total, m), bit by bit from the words."""
    places = torch.arange(32)
    bits = (prepared.words[:, None].long() >> places[:, None]) & 1  # (W, 32, stride)
    bits = bits.flatten(0, 1)[: prepared.positions * prepared.code_bits]
    values = bits.view(prepared.positions, prepared.code_bits, -1)
    codes = (values << torch.arange(prepared.code_bits)[:, None]).sum(1).t()
    return torch.cat([codes[g.row : g.row + g.rows] for g in prepared.groups])


@pytest.mark.parametrize(
    ("columns", "d", "k"),
    [(32, 4, 256), (40, 4, 32), (24, 2, 512), (21, 4, 5), (7, 1, 2), (9, 2, 60_000), (66, 2, 100)],
)
def test_words_hold_the_codes_of_each_row(columns: int, d: int, k: int) -> None:
    weights = [random_weight((rows, columns), d, k, scopes="layer") for rows in (5, 40)]
    prepared = prepare(weights, [None, None])
    assert torch.equal(codes_in(prepared), torch.cat([codes_of(w) for w in weights]))


def test_rows_are_repacked_chunk_by_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = random_weight((61, 21), 4, 5)
    whole = prepare([weight], [None]).words
    monkeypatch.setattr(table_layout, "_CHUNK", 8 * weight.positions)
    assert torch.equal(prepare([weight], [None]).words, whole)


def test_narrow_codes_take_the_largest_width() -> None:
    weights = [random_weight((9, 24), 4, k, scopes="layer") for k in (256, 5)]
    prepared = prepare(weights, [None, None])
    assert prepared.code_bits == 8
    assert torch.equal(codes_in(prepared), torch.cat([codes_of(w) for w in weights]))


def test_words_take_the_memory_of_the_codes() -> None:
    weights = [random_weight((6912, 144), d, k) for d, k in ((4, 256), (4, 32), (8, 64))]
    for weight in weights:
        prepared = prepare([weight], [None])
        used = prepared.words.numel() * 4
        assert used <= weight.codes.numel() + 4 * weight.shape[0]


def test_layers_with_the_same_codebooks_share_a_table() -> None:
    a = random_weight((40, 24), 4, 9)
    b = replace(random_weight((8, 24), 4, 9), pool=a.pool, first=a.first.clone(), size=a.size)
    other = random_weight((33, 24), 4, 9)
    prepared = prepare([a, b, other, a], [None] * 4)
    found = [(g.table, g.row, g.rows, g.out) for g in prepared.groups]
    assert found == [(0, 0, 48, 0), (1, 64, 33, 48), (0, 128, 40, 81)]
    assert len(prepared.first) == 2
    assert len(prepared.pool) == len(a.pool) + len(other.pool)


def test_a_single_pool_is_not_copied() -> None:
    a = random_weight((40, 24), 4, 9)
    prepared = prepare([a, replace(a, codes=a.codes.flip(0))], [None, None])
    assert prepared.pool.data_ptr() == a.pool.data_ptr()


def test_entries_point_into_the_joined_pool() -> None:
    weights = [
        random_weight((8, 24), 4, 9),
        random_weight((8, 24), 4, 7, extras=("table",)),
        random_weight((8, 24), 4, 3, scopes="layer"),
    ]
    prepared = prepare(weights, [None] * 3)
    assert prepared.indices is not None
    for i, weight in enumerate(weights):
        for g in range(6):
            for c in range(int(weight.size[g])):
                entry = int(weight.first[g]) + c
                entry = entry if weight.table is None else int(weight.table[entry])
                at = int(prepared.indices[int(prepared.first[i, g]) + c])
                assert torch.equal(prepared.pool[at], weight.pool[entry])


def test_rows_without_scale_or_bias_are_filled_in() -> None:
    weights = [random_weight((3, 8), 4, 5, extras=("scale",)), random_weight((2, 8), 4, 5)]
    prepared = prepare(weights, [None, torch.tensor([7.0, 8.0])])
    assert weights[0].scale is not None
    assert prepared.scale is not None
    assert prepared.bias is not None
    assert torch.equal(prepared.scale, torch.cat([weights[0].scale, torch.ones(2).half()]))
    assert prepared.bias.tolist() == [0, 0, 0, 7, 8]
    assert prepare(weights[1:], [None]).scale is None


def test_the_exponent_bounds_all_codewords() -> None:
    weight = random_weight((3, 8), 4, 5)
    prepared = prepare([weight], [None])
    largest = float(weight.pool.float().abs().sum(1).max())
    assert 2.0 ** (prepared.exponent - 1) <= largest < 2.0**prepared.exponent


def test_layers_that_do_not_go_together_are_refused() -> None:
    weights = [random_weight((3, 8), 4, 5), random_weight((3, 12), 4, 5)]
    with pytest.raises(ShapeError, match="prepare them apart"):
        prepare(weights, [None, None])
    with pytest.raises(ShapeError, match="a bias or None for each"):
        prepare(weights[:1], [])
