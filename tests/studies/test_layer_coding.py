from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from dpqlab.core import CodebookCodec
from dpqlab.errors import CheckpointError, ConfigError
from dpqlab.studies.layer_coding import code_layer
from dpqlab.studies.layer_weights import INDEX, LayerWeights

CODEC = CodebookCodec(d=4, k=4, iterations=8)


def write_model(folder, *, weights=None, index=None):
    """A folder with two blocks of two layers in two shards; returns it."""
    generator = torch.Generator().manual_seed(0)
    shards, places = {}, {}
    for block in range(2):
        tensors = weights or {
            "attn1.to_q.weight": torch.randn(12, 10, generator=generator),
            "attn1.to_q.bias": torch.zeros(12),
            "ff.net.2.weight": torch.randn(6, 8, generator=generator).bfloat16(),
            "norm1.emb.class_embedder.embedding_table.weight": torch.zeros(3, 3),
        }
        name = f"shard-{block}.safetensors"
        shards[name] = {f"transformer_blocks.{block}.{k}": v for k, v in tensors.items()}
        places |= dict.fromkeys(shards[name], name)
    (folder / INDEX).parent.mkdir(parents=True)
    (folder / "model_index.json").write_text("{}")
    for name, tensors in shards.items():
        save_file(tensors, (folder / INDEX).with_name(name))
    (folder / INDEX).write_text(json.dumps({"weight_map": index or places}))
    return folder


@pytest.fixture
def layers(tmp_path):
    return LayerWeights.open(write_model(tmp_path))


def test_the_layers_of_a_folder(layers):
    assert (layers.blocks, layers.kinds) == (2, ("attn1.to_q", "ff.net.2"))
    assert layers.weight(1, "ff.net.2").dtype == torch.float32
    assert layers.has_bias(0, "attn1.to_q")
    assert not layers.has_bias(0, "ff.net.2")
    for block, kind in ((2, "ff.net.2"), (-1, "ff.net.2"), (0, "ff.net.9")):
        with pytest.raises(ConfigError, match="expected block 0 to 1"):
            layers.weight(block, kind)


def test_the_bundled_model_is_that_of_the_pipeline():
    layers = LayerWeights.open("fashion-dit")
    assert layers.blocks == 8
    assert len(layers.kinds) == 7
    assert layers.weight(3, "attn1.to_q").shape == (384, 384)


@pytest.mark.parametrize("place", ["../x.safetensors", "/etc/passwd", "", 7])
def test_an_index_that_leads_elsewhere_is_refused(tmp_path, place):
    folder = write_model(tmp_path, index={"transformer_blocks.0.a.weight": place})
    with pytest.raises(CheckpointError, match="no plain file name"):
        LayerWeights.open(folder)


def test_no_blocks_no_layers(tmp_path):
    folder = write_model(tmp_path, index={"proj_out.weight": "shard-0.safetensors"})
    with pytest.raises(CheckpointError, match="expected a full-precision DiT"):
        LayerWeights.open(folder)


def test_what_is_rebuilt_is_what_the_codes_stand_for(layers):
    coding = code_layer(layers, 0, "attn1.to_q", CODEC)
    assert coding.positions == 3  # 10 columns: the last sub-vector is filled up
    for row, position in ((0, 0), (11, 1), (5, 2)):
        words = coding.replacement(row, position)[: 10 - 4 * position]
        piece = coding.rebuilt[row, 4 * position : 4 * position + 4]
        torch.testing.assert_close(words[: len(piece)], piece)
        nearest = int(coding.distances(row, position).argmin())
        assert nearest == int(coding.codes[row, position])
    assert coding.subvector(5, 2)[2:].tolist() == [0, 0]
    missed = (coding.rebuilt - coding.weight).square().sum() / coding.weight.square().sum()
    assert coding.relative_error == pytest.approx(float(missed), rel=1e-5)
    with pytest.raises(ConfigError, match="no sub-vector 3 in row 0"):
        coding.subvector(0, 3)


def test_every_stored_bit_is_counted(layers):
    coding = code_layer(layers, 0, "attn1.to_q", CODEC)
    assert coding.bits == {
        "codes": 12 * 3 * 2,
        "table": 0,
        "pool": 3 * 4 * 4 * 16,
        "scale": 0,
        "bias": 12 * 16,
    }
    assert coding.true_bits == pytest.approx((72 + 768 + 192) / 120)
    codec = CodebookCodec(d=4, k=4, scope="layer", across="kind", row_scale=True)
    shared = code_layer(layers, 1, "attn1.to_q", codec)
    assert (shared.bits["pool"], shared.bits["scale"], shared.sharers) == (128, 192, 2)
    assert code_layer(layers, 0, "ff.net.2", CODEC).bits["bias"] == 0


def test_distances_with_a_row_scale_are_those_of_the_search(layers):
    codec = CodebookCodec(d=2, k=4, scope="layer", row_scale=True)
    coding = code_layer(layers, 0, "attn1.to_q", codec)
    for row in range(12):
        nearest = int(coding.distances(row, 1).argmin())
        assert nearest == int(coding.codes[row, 1])


def test_layers_of_all_kinds_do_not_share_here(layers):
    codec = CodebookCodec(d=2, k=4, scope="layer", across="model")
    with pytest.raises(ConfigError, match="one kind of layer"):
        code_layer(layers, 0, "ff.net.2", codec)
