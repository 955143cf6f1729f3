"""One model, one plan: what is expected is what comes."""

from __future__ import annotations

import copy

import pytest

from dpqlab.core import CodebookCodec
from dpqlab.errors import ConfigError
from dpqlab.nn import Plan, compress_
from dpqlab.nn.accounting import ledger_of_model
from dpqlab.nn.expectation import expect_
from tests.tiny import tiny_dit

PLAN = Plan.for_blocks(
    {"attn1.*": CodebookCodec(d=4, k=8), "*": CodebookCodec(d=4, k=16, scope="layer")}
)


def test_sizes_are_those_that_come() -> None:
    model = tiny_dit()
    expected = expect_(copy.deepcopy(model).to("meta"), PLAN)
    compress_(model, PLAN)
    found = ledger_of_model(model)
    assert expected.ledger.true_bits_per_weight == found.true_bits_per_weight
    kept = sum(tensor.bits for tensor in found.kept)
    assert expected.bytes == (kept + sum(layer.total for layer in found.layers)) // 8
    assert expected.seconds == pytest.approx(sum(expected.layer_seconds.values()))
    assert set(expected.layer_seconds) == {layer.name for layer in found.layers}
    assert expected.workspace.layer in expected.layer_seconds


def test_a_plan_for_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="matches no"):
        expect_(tiny_dit(), Plan.for_blocks({"nothing": CodebookCodec(d=4, k=8)}))
