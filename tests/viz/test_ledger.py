from __future__ import annotations

import pytest

from dpqlab.core import KeptTensor, LayerLedger, ModelLedger
from dpqlab.errors import ConfigError
from dpqlab.viz.ledger import ledger_bars


def ledger() -> ModelLedger:
    layer = LayerLedger(
        name="a",
        kind="a",
        shape=(100, 100),
        codec="PQ",
        codes=8_000_000,
        table=800_000,
        pool=3_200_000,
        scale=0,
        bias=1_600_000,
        weights=10_000,
    )
    kept = KeptTensor(name="b", bits=16_000_000, numel=10, reason="", in_blocks=False)
    return ModelLedger(layers=(layer,), kept=(kept,))


def test_bars_are_megabytes_by_part() -> None:
    figure = ledger_bars({"one": ledger(), "two": ledger()})
    bars = {trace.name: list(trace.x) for trace in figure.data}
    assert bars == {
        "codes": [1.0, 1.0],
        "codebooks": [0.5, 0.5],
        "biases": [0.2, 0.2],
        "kept in bf16": [2.0, 2.0],
    }
    assert figure.layout.barmode == "stack"
    assert "megabytes" in figure.layout.xaxis.title.text
    assert [note.text for note in figure.layout.annotations] == ["3.70", "3.70"]


def test_nothing_to_draw() -> None:
    with pytest.raises(ConfigError, match="at least one"):
        ledger_bars({})
