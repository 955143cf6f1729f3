from __future__ import annotations

import pytest

from dpqlab.core.ledger import KeptTensor, LayerLedger, ModelLedger
from dpqlab.errors import ConfigError
from dpqlab.evaluation.sizes import ledger_parts, size_figures

LAYER = LayerLedger(
    name="block.linear", kind="linear", shape=(8, 16), codec="PQ d=4 k=16", codes=128, table=0,
    pool=1024, scale=128, bias=128, weights=128,
)  # fmt: skip
KEPT = KeptTensor(name="end.weight", bits=16 * 40, numel=40, reason="outside", in_blocks=False)


def test_every_figure_names_its_denominator():
    ledger = ModelLedger(layers=(LAYER,), kept=(KEPT,))
    found = size_figures(ledger, 300)
    parameters = 128 + 8 + 40
    assert found == {
        "true_bits": (128 + 1024 + 128 + 128) / 128,
        "bytes_on_disk": 300,
        "ratio_fp32": 4 * parameters / 300,
        "ratio_bf16": 2 * parameters / 300,
    }


def test_no_bytes_are_refused():
    with pytest.raises(ConfigError, match="bytes_on_disk is 0"):
        size_figures(ModelLedger(layers=(LAYER,)), 0)


def test_parts_are_all_that_is_stored():
    ledger = ModelLedger(layers=(LAYER,), kept=(KEPT,))
    assert sum(ledger_parts(ledger).values()) == 8 * ledger.stored_bytes
