from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dpqlab.core import (
    CodebookCodec,
    KeptTensor,
    LayerLedger,
    ModelLedger,
    Pool,
    ScalarCodec,
    encode,
    fit_pool,
    ledger_of_encoded,
    pack,
    scalar_encode,
)
from dpqlab.errors import ConfigError


def stored(tensor: torch.Tensor | None) -> int:
    return 0 if tensor is None else 8 * tensor.numpy().nbytes


@given(
    rows=st.integers(1, 20), columns=st.integers(1, 20), d=st.integers(1, 6), k=st.integers(2, 40),
    scale=st.booleans(), scope=st.sampled_from(["position", "layer"]),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_bits_are_those_of_the_tensors(
    rows: int, columns: int, d: int, k: int, scale: bool, scope: Any
) -> None:
    weight = torch.randn(rows, columns)
    codec = CodebookCodec(d=d, k=k, scope=scope, row_scale=scale, iterations=1)
    generator = torch.Generator().manual_seed(0)
    encoded = encode(weight, codec, fit_pool([weight], codec, generator=generator))
    ledger = ledger_of_encoded("layer", encoded, bias_bits=16 * rows)
    assert ledger.codes == stored(pack(encoded.codes.reshape(-1), encoded.code_bits))
    assert ledger.pool == stored(encoded.pool.entries)
    assert ledger.scale == stored(encoded.scale)
    assert ledger.total == ledger.codes + ledger.pool + ledger.scale + 16 * rows + ledger.table
    assert ledger.true_bits == ledger.total / weight.numel()
    assert ledger_of_encoded("layer", encoded, 0, owns_pool=False).pool == 0


def test_scalar_bits_are_those_of_the_tensors() -> None:
    encoded = scalar_encode(torch.randn(7, 30), ScalarCodec(bits=3, group_size=8))
    ledger = ledger_of_encoded("layer", encoded, 0, kind="ff", codec="RTN")
    assert ledger.codes == stored(pack(encoded.codes.reshape(-1), 3))
    assert ledger.scale == stored(encoded.scale)
    assert (ledger.kind, ledger.codec, ledger.pool) == ("ff", "RTN", 0)


def test_ragged_codebooks_cost_a_table() -> None:
    weight = torch.randn(3, 20)
    codec = CodebookCodec(d=4, k=8, scope="group", group=2)
    pool = fit_pool([weight], codec, generator=torch.Generator())
    assert ledger_of_encoded("layer", encode(weight, codec, pool), 0).table == 3 * 32


def test_every_layer_pays_for_a_table_of_its_own() -> None:
    weight = torch.randn(6, 8)
    codec = CodebookCodec(d=4, k=3)
    table = torch.tensor([0, 4, 2, 1, 3])
    pool = Pool(entries=torch.randn(5, 4).half(), base=torch.tensor([0, 2, 5]), table=table)
    encoded = encode(weight, codec, pool)
    owner, other = (ledger_of_encoded("l", encoded, 0, owns_pool=owns) for owns in (True, False))
    assert owner.table == other.table == 2 * 32 + stored(pack(table, 3))
    assert (owner.pool, other.pool) == (5 * 4 * 16, 0)


def layer(name: str, bias: int = 0) -> LayerLedger:
    return LayerLedger(
        name=name, kind="ff", shape=(10, 20), codec="c", codes=200, table=0, pool=100, scale=160,
        bias=bias, weights=200,
    )  # fmt: skip


def test_model_counts_everything_once() -> None:
    kept = (
        KeptTensor(name="blocks.0.out.weight", bits=1600, numel=100, reason="kept", in_blocks=True),
        KeptTensor(name="blocks.0.out.bias", bits=160, numel=10, reason="kept", in_blocks=True),
        KeptTensor(name="embed.weight", bits=801, numel=50, reason="outside", in_blocks=False),
    )
    model = ModelLedger(layers=(layer("a"), layer("b", bias=160)), kept=kept)
    assert model.true_bits_per_weight == (460 + 620 + 1600 + 160) / (200 + 200 + 100)
    assert model.compressed_weights == 400
    assert model.stored_bytes == -(-(460 + 620 + 1600 + 160 + 801) // 8)
    assert model.parameters == 400 + 10 + 160
    assert model.fp32_bytes == 2 * model.bf16_bytes == 4 * 570
    assert json.loads(json.dumps(model.to_dict())) == model.to_dict()


def test_empty_model() -> None:
    assert ModelLedger(layers=()).true_bits_per_weight == 0.0


def test_impossible_ledgers() -> None:
    with pytest.raises(ConfigError, match="ledger of a"):
        layer("a", bias=-1)
