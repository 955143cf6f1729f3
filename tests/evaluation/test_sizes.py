from __future__ import annotations

import pytest

from dpqlab.core.ledger import KeptTensor, LayerLedger, ModelLedger
from dpqlab.errors import CheckpointError, ConfigError
from dpqlab.evaluation.sizes import size_figures, weight_bytes

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


def test_weights_are_what_the_transformer_folder_holds(tmp_path):
    (tmp_path / "transformer").mkdir()
    with pytest.raises(CheckpointError, match="safetensors"):
        weight_bytes(tmp_path)
    for name, size in (("a-1.safetensors", 100), ("a-2.safetensors", 50), ("config.json", 9)):
        (tmp_path / "transformer" / name).write_bytes(bytes(size))
    (tmp_path / "feature_net.safetensors").write_bytes(bytes(1000))
    assert weight_bytes(tmp_path) == 150
