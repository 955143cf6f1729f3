"""Folders that nobody should load: each is refused with one clear error, fast and small.

But for damage to the manifest itself, every case has a manifest that fits: the hashes are no
defence against whoever writes the file.
"""

from __future__ import annotations

import json
import os
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dpqlab.checkpoint.layout import (
    CARD,
    CONFIG,
    MANIFEST,
    MODEL_INDEX,
    SCHEDULER,
    SHARD_INDEX,
    SINGLE_SHARD,
)
from dpqlab.checkpoint.load import load_compressed
from dpqlab.errors import CheckpointError
from tests.bounded import bounded
from tests.checkpoint.forge import (
    BLOCK,
    KEY,
    OTHER_SHIFT,
    QUERY,
    SHIFT,
    UP,
    VALUE,
    Edit,
    bytes_edit,
    codec_edit,
    config_edit,
    file_edit,
    header_edit,
    json_edit,
    layer_edit,
    model_edit,
    scheduler_edit,
    seal,
    tensor_edit,
    value_edit,
)

OTHER_KEY = "transformer_blocks.1.attn1.to_k"
HUGE = 2**53


def fill(name: str, byte: int) -> Edit:
    return tensor_edit(lambda tensors: tensors[name].fill_(byte))


def retype(name: str, dtype: torch.dtype) -> Edit:
    return tensor_edit(lambda tensors: tensors.update({name: tensors[name].to(dtype)}))


def reshape(name: str, *shape: int) -> Edit:
    return tensor_edit(lambda tensors: tensors.update({name: tensors[name].view(*shape)}))


def header_length(length: int) -> Edit:
    return bytes_edit(SINGLE_SHARD, lambda data: length.to_bytes(8, "little") + data[8:])


def entry(**settings: Any) -> Edit:
    return header_edit(lambda header: header[f"{QUERY}.weight"].update(settings))


def overlapping(header: dict[str, Any]) -> None:
    first, second = f"{QUERY}.scale", "transformer_blocks.1.attn1.to_q.scale"
    header[first]["data_offsets"] = header[second]["data_offsets"]


def duplicate_key(data: bytes) -> bytes:
    return data.replace(b"{", b'{"num_layers": 2, ', 1)


def remove_layer(value: dict[str, Any]) -> None:
    del value["layers"][QUERY]


def move_pool(value: dict[str, Any]) -> None:
    value["layers"][OTHER_KEY]["pool_of"] = QUERY


def share_with_sharer(value: dict[str, Any]) -> None:
    value["layers"][KEY]["pool_of"] = OTHER_KEY


def many_layers(value: dict[str, Any]) -> None:
    value["layers"] |= {f"x.{i}": value["layers"][QUERY] for i in range(10_001)}


def both_shifts(**settings: Any) -> Edit:
    """An edit of all layers that use the indexed pool."""
    return config_edit(lambda c: [c["layers"][n].update(settings) for n in (SHIFT, OTHER_SHIFT)])


def both_codecs(value: dict[str, Any]) -> None:
    for name in (SHIFT, OTHER_SHIFT):
        value["layers"][name]["codec"]["across"] = "layer"


def padded_table(tensors: dict[str, torch.Tensor]) -> None:
    tensors[f"{OTHER_SHIFT}.table"][-1] |= 0x80


def embedder(index: int) -> str:
    return f"transformer_blocks.{index}.norm1.emb"


Q_WEIGHT, Q_POOL, Q_SCALE = f"{QUERY}.weight", f"{QUERY}.pool", f"{QUERY}.scale"

CASES: dict[str, tuple[Edit, str]] = {
    # --- the safetensors container
    "empty shard": (file_edit(SINGLE_SHARD, b""), "too short for a safetensors file"),
    "header only eight bytes": (file_edit(SINGLE_SHARD, bytes(8)), "a header of 0 bytes"),
    "header length 1": (header_length(1), "a header of 1 bytes"),
    "header length 1e8": (header_length(10**8), "a header of 100000000 bytes"),
    "header length 2**63": (header_length(2**63), "claims a header of 9223372036854775808"),
    "header length 2**64-1": (header_length(2**64 - 1), "claims a header of"),
    "truncated payload": (bytes_edit(SINGLE_SHARD, lambda d: d[:-1]), "bytes of tensors"),
    "trailing payload": (bytes_edit(SINGLE_SHARD, lambda d: d + b"x"), "bytes of tensors"),
    "pickle": (file_edit(SINGLE_SHARD, b"\x80\x04" + bytes(100)), "claims a header of"),
    "zip": (file_edit(SINGLE_SHARD, b"PK\x03\x04" + bytes(100)), "claims a header of"),
    "gguf": (file_edit(SINGLE_SHARD, b"GGUF" + bytes(100)), "claims a header of"),
    "header is a list": (
        file_edit(SINGLE_SHARD, (2).to_bytes(8, "little") + b"[]"),
        "lacks the metadata",
    ),
    "header is no JSON": (
        bytes_edit(SINGLE_SHARD, lambda d: d[:8] + b"[" * 50 + d[58:]),
        "not valid JSON",
    ),
    "100k brackets": (
        file_edit(SINGLE_SHARD, (100_000).to_bytes(8, "little") + b"[" * 100_000),
        "not valid JSON",
    ),
    "no metadata": (header_edit(lambda h: h.pop("__metadata__")), "lacks the metadata"),
    "foreign metadata": (
        header_edit(lambda h: h["__metadata__"].update(auto_map="evil.py")),
        "lacks the metadata",
    ),
    "overlapping offsets": (header_edit(overlapping), "overlap or leave a gap"),
    "reversed offsets": (entry(data_offsets=[128, 0]), "its shape and dtype need others"),
    "negative offsets": (entry(data_offsets=[-128, 0]), "malformed"),
    "float offsets": (entry(data_offsets=[0.0, 128.0]), "malformed"),
    "three offsets": (entry(data_offsets=[0, 1, 2]), "malformed"),
    "offset 2**53": (entry(data_offsets=[HUGE, HUGE + 128]), "beyond 2\\*\\*53"),
    "shape overflow": (entry(shape=[HUGE, HUGE]), "its shape and dtype need others"),
    "a million dimensions": (entry(shape=[HUGE] * 400_000), "malformed shape"),
    "negative shape": (entry(shape=[-1, -128]), "malformed"),
    "bool shape": (entry(shape=[True]), "malformed"),
    "empty entry": (header_edit(lambda h: h.update({Q_WEIGHT: {}})), "lacks 'data_offsets'"),
    "extra key in an entry": (entry(hook="evil"), "unknown key 'hook'"),
    "float8 codes": (entry(dtype="F8_E4M3"), "dtype 'F8_E4M3', which is never stored"),
    "signed codes": (entry(dtype="I8"), "dtype 'I8', which is never stored"),
    "unhashable dtype": (entry(dtype=["U8"]), "dtype is a list: expected str"),
    # --- which tensors there are
    "missing tensor": (tensor_edit(lambda t: t.pop(Q_SCALE)), "to_q.scale' and 0 more"),
    "extra tensor": (tensor_edit(lambda t: t.update(x=torch.zeros(1))), "unexpected tensor 'x'"),
    "path traversal in a name": (
        tensor_edit(lambda t: t.update({"../../etc/passwd": torch.zeros(1)})),
        "unexpected tensor",
    ),
    "float codes": (retype(Q_WEIGHT, torch.float32), r"is F32 .*: expected U8"),
    "float32 pool": (retype(Q_POOL, torch.float32), r"is F32 .*: expected F16"),
    "kept tensor in another dtype": (retype("proj_out_1.weight", torch.float32), "expected BF16"),
    "bias in another dtype": (retype(f"{QUERY}.bias", torch.bfloat16), "expected F16"),
    "transposed kept tensor": (reshape("proj_out_1.weight", 32, 64), r"expected BF16 \(64, 32\)"),
    "codes with two dimensions": (reshape(Q_WEIGHT, 2, -1), "expected U8"),
    "pool of another geometry": (reshape(Q_POOL, -1, 8), "expected F16"),
    "tied copy stored again": (
        tensor_edit(
            lambda t: t.update(
                {f"{embedder(1)}.timestep_embedder.linear_1.bias": torch.zeros(32).bfloat16()}
            )
        ),
        "unexpected tensor",
    ),
    # --- values
    "code beyond the codebook": (fill(Q_WEIGHT, 0xFF), "256 codes that lie beyond"),
    "code equal to k": (value_edit(Q_WEIGHT, 0, 0x0A), "1 codes that lie beyond"),
    "code beyond k = 200 in bytes": (
        value_edit(f"{BLOCK}.ff.net.2.weight", 3, 200),
        "1 codes that lie beyond",
    ),
    "code beyond a short codebook": (fill(f"{VALUE}.weight", 0xFF), "codes that lie beyond"),
    "NaN codeword": (value_edit(Q_POOL, 5, float("nan")), "to_q.pool holds NaN or infinity"),
    "infinite codeword": (value_edit(Q_POOL, 5, float("-inf")), "to_q.pool holds NaN"),
    "NaN scale": (value_edit(Q_SCALE, 5, float("nan")), "to_q.scale holds NaN"),
    "NaN bias": (value_edit(f"{QUERY}.bias", 5, float("nan")), "to_q.bias holds NaN"),
    "NaN in a kept tensor": (value_edit("proj_out_2.bias", 0, float("nan")), "proj_out_2.bias"),
    "finite times finite": (
        tensor_edit(lambda t: (t[Q_POOL].fill_(300), t[Q_SCALE].fill_(300))),
        "reaches 90000: expected at most 65504",
    ),
    "huge round-to-nearest scale": (value_edit(f"{UP}.scale", 0, 60_000), "reaches 420000"),
    "sizes that do not add up": (value_edit(f"{VALUE}.sizes", 0, 79), "sizes are not the sizes"),
    "negative size": (
        tensor_edit(lambda t: t[f"{VALUE}.sizes"].copy_(torch.tensor([-1, 145, 80]))),
        "sizes are not the sizes",
    ),
    "zero size": (
        tensor_edit(lambda t: t[f"{VALUE}.sizes"].copy_(torch.tensor([0, 112, 112]))),
        "sizes are not the sizes",
    ),
    "size beyond the code width": (
        tensor_edit(lambda t: t[f"{VALUE}.sizes"].copy_(torch.tensor([1, 1, 222]))),
        "sizes are not the sizes",
    ),
    "table entry beyond the pool": (
        value_edit(f"{SHIFT}.table", 0, 0x3F),
        r"norm1\.linear\.table holds 1 entries that lie beyond the pool of 50",
    ),
    "table entries beyond the pool": (
        fill(f"{OTHER_SHIFT}.table", 0x3F),
        r"1\.norm1\.linear\.table holds \d+ entries that lie beyond the pool",
    ),
    "bits behind a table": (tensor_edit(padded_table), "table has bits behind its last entry"),
    "table of integers": (retype(f"{SHIFT}.table", torch.int32), r"is I32 .*: expected U8"),
    "table with two dimensions": (reshape(f"{SHIFT}.table", 2, -1), "expected U8"),
    "missing table": (tensor_edit(lambda t: t.pop(f"{SHIFT}.table")), "table' and 0 more"),
    "missing sizes of a table": (
        tensor_edit(lambda t: t.pop(f"{OTHER_SHIFT}.sizes")),
        "sizes' and 0 more",
    ),
    "sizes that do not fill their table": (
        value_edit(f"{OTHER_SHIFT}.sizes", 0, 4),
        "fill a table of 73",
    ),
    "code beyond a short codebook of a table": (
        fill(f"{OTHER_SHIFT}.weight", 0x99),
        "codes that lie beyond",
    ),
    # --- quantization_config
    "newer version": (config_edit(lambda c: c.update(format_version=2)), "use a newer dpqlab"),
    "version as text": (config_edit(lambda c: c.update(format_version="1")), "format_version '1'"),
    "version true": (config_edit(lambda c: c.update(format_version=True)), "format_version"),
    "no version": (config_edit(lambda c: c.pop("format_version")), "lacks 'format_version'"),
    "other method": (config_edit(lambda c: c.update(quant_method="gguf")), "expected dpqlab"),
    "not an object": (json_edit(CONFIG, lambda v: v.update(quantization_config=3)), "is 3"),
    "no quantization_config": (
        json_edit(CONFIG, lambda v: v.pop("quantization_config")),
        "no quantization_config",
    ),
    "trust in the config": (
        config_edit(lambda c: c.update(trust_remote_code=True)),
        "unknown key 'trust_remote_code'",
    ),
    "rest_dtype": (config_edit(lambda c: c.update(rest_dtype="int8")), "rest_dtype is 'int8'"),
    "no layers": (config_edit(lambda c: c.update(layers={})), "number of layers is 0"),
    "10001 layers": (config_edit(many_layers), "number of layers is 10013"),
    "layer that is no Linear": (
        config_edit(lambda c: c["layers"].update({f"{BLOCK}.attn1": c["layers"][QUERY]})),
        "no Linear of the model",
    ),
    "layer of a tied copy": (
        config_edit(
            lambda c: c["layers"].update(
                {f"{embedder(1)}.timestep_embedder.linear_2": c["layers"][QUERY]}
            )
        ),
        "no Linear of the model",
    ),
    "layer name with a path": (
        config_edit(lambda c: c["layers"].update({"../x": c["layers"][QUERY]})),
        "expected a dotted name",
    ),
    "layer name with markup": (
        config_edit(lambda c: c["layers"].update({"<script>": c["layers"][QUERY]})),
        "expected a dotted name",
    ),
    "layer left out": (config_edit(remove_layer), "expected BF16"),
    "layer shape": (layer_edit(QUERY, shape=[36, 32]), "the model's has"),
    "layer shape of floats": (layer_edit(QUERY, shape=[32.0, 32]), "expected \\[out, in\\]"),
    "layer shape of bools": (layer_edit(QUERY, shape=[True, 32]), "expected \\[out, in\\]"),
    "layer shape zero": (layer_edit(QUERY, shape=[0, 32]), "a size of the weight is 0"),
    "layer shape huge": (layer_edit(QUERY, shape=[2**20, 2**20]), "the number of weights is"),
    "layer shape 2**52": (layer_edit(QUERY, shape=[2**52, 1]), "a size of the weight is"),
    "layer without its bias": (layer_edit(QUERY, bias=False), "bias False: the model's has"),
    "layer bias as number": (layer_edit(QUERY, bias=1), "bias is 1: expected bool"),
    "layer with an unknown key": (layer_edit(QUERY, x=1), "unknown key 'x'"),
    "code bits": (layer_edit(QUERY, code_bits=5), "code_bits is 5: expected 4 to 4"),
    "code bits 2**53": (layer_edit(QUERY, code_bits=HUGE), "code_bits is 9007199254740992"),
    "pool rows": (layer_edit(QUERY, pool_rows=72), r"is F16 \(80, 4\): expected F16 \(72, 4\)"),
    "pool rows that do not divide": (layer_edit(QUERY, pool_rows=79), "cannot be divided so"),
    "pool rows beyond k": (layer_edit(QUERY, pool_rows=88), "pool_rows is 88"),
    "pool rows huge": (layer_edit(QUERY, pool_rows=HUGE), "pool_rows is 9007199254740992"),
    "pool rows below the scopes": (layer_edit(QUERY, pool_rows=7), "pool_rows is 7"),
    "ragged without sizes": (layer_edit(QUERY, ragged=True), r"to_q\.sizes' and 0 more"),
    "ragged with one codebook": (layer_edit(KEY, ragged=True), "cannot be divided so|no layer"),
    "table rows": (layer_edit(SHIFT, table_rows=72), r"is U8 \(60,\): expected U8 \(54,\)"),
    "table rows that do not divide": (layer_edit(SHIFT, table_rows=79), "cannot be divided so"),
    "table rows beyond k": (layer_edit(SHIFT, table_rows=88), "table_rows is 88: expected 8 to 80"),
    "table rows below the scopes": (layer_edit(SHIFT, table_rows=7), "table_rows is 7"),
    "table rows huge": (layer_edit(SHIFT, table_rows=HUGE), "table_rows is 9007199254740992"),
    "table rows null": (layer_edit(SHIFT, table_rows=None), "table_rows is None: expected int"),
    "table rows true": (layer_edit(SHIFT, table_rows=True), "table_rows is True: expected int"),
    "table of a scalar codec": (layer_edit(UP, table_rows=8), "unknown key 'table_rows'"),
    "table that is not stored": (layer_edit(QUERY, table_rows=80), r"to_q\.table' and 0 more"),
    "owner without its table": (
        config_edit(lambda c: c["layers"][SHIFT].pop("table_rows")),
        "code_bits is 4: expected 3 to 3",
    ),
    "sharer without its table": (
        config_edit(lambda c: c["layers"][OTHER_SHIFT].pop("table_rows")),
        "no layer with a pool of its own",
    ),
    "indexed pool of nothing": (both_shifts(pool_rows=0), "pool_rows is 0: expected 1 to 65536"),
    "indexed pool huge": (both_shifts(pool_rows=65_537), "pool_rows is 65537"),
    "indexed pool beyond its tables": (both_shifts(pool_rows=154), "name 153 at most"),
    "indexed pool of two sizes": (layer_edit(SHIFT, pool_rows=51), "no layer with a pool"),
    "shared pool of a codec that shares nothing": (config_edit(both_codecs), "that layers share"),
    "pool of nobody": (layer_edit(QUERY, pool_of="nobody"), "no layer with a pool of its own"),
    "pool of itself": (layer_edit(QUERY, pool_of=QUERY), "no layer with a pool of its own"),
    "pool of another codec": (config_edit(move_pool), "the same codec"),
    "pools in a circle": (config_edit(share_with_sharer), "no layer with a pool of its own"),
    "pool of null": (layer_edit(QUERY, pool_of=None), "pool_of is null|pool_of is None"),
    "d = 2**31": (codec_edit(QUERY, d=2**31), "d must lie in"),
    "d beyond the row": (codec_edit(QUERY, d=64), "d is 64: expected 1 to 32"),
    "d = 0": (codec_edit(QUERY, d=0), "d must lie in"),
    "k = 2**31": (codec_edit(QUERY, k=2**31), "k must lie in"),
    "k as text": (codec_edit(QUERY, k="10"), "k must be int"),
    "k true": (codec_edit(QUERY, k=True), "k must be int"),
    "unknown scope": (codec_edit(QUERY, scope="kind"), "unknown scope"),
    "unknown across": (codec_edit(QUERY, across="world"), "unknown across"),
    "across the model by position": (codec_edit(QUERY, across="model"), "across='model'"),
    "codec without across": (
        config_edit(lambda c: c["layers"][QUERY]["codec"].pop("across")),
        "exactly the keys",
    ),
    "unknown family": (codec_edit(QUERY, family="pickle"), "unknown codec family"),
    "family as a list": (codec_edit(QUERY, family=["codebook"]), "unknown codec family"),
    "codec with an unknown key": (codec_edit(QUERY, x=1), "exactly the keys"),
    "codec of another scope": (codec_edit(QUERY, scope="layer"), "pool_rows is 80"),
    "group beyond the row": (codec_edit(VALUE, group=HUGE), "group is 9007199254740992"),
    "scalar bits": (codec_edit(UP, bits=2), "code_bits is 3: expected 2 to 2"),
    "scalar bits 2**40": (codec_edit(UP, bits=2**40), "bits must lie in"),
    "scalar group": (codec_edit(UP, group_size=HUGE), "group_size is 9007199254740992"),
    "scalar with a pool": (layer_edit(UP, pool_rows=3), "unknown key 'pool_rows'"),
    "tied to nothing": (config_edit(lambda c: c.update(tied=[["x", ["y"]]])), "does not have"),
    "tied to another kind": (
        config_edit(lambda c: c.update(tied=[["proj_out_1", ["proj_out_2"]]])),
        "differ in kind",
    ),
    "tied to itself": (
        config_edit(lambda c: c.update(tied=[[embedder(0), [embedder(0)]]])),
        "named twice",
    ),
    "tied in another order": (
        config_edit(lambda c: c.update(tied=[[embedder(1), [embedder(0)]]])),
        "in another order",
    ),
    "tied to a part of itself": (
        config_edit(lambda c: c.update(tied=[[BLOCK, [f"{BLOCK}.norm1"]]])),
        "differ in kind",
    ),
    "tied malformed": (config_edit(lambda c: c.update(tied=[[1, 2, 3]])), "tied group"),
    "tied a number": (config_edit(lambda c: c.update(tied=[3])), "tied group"),
    "tied left out": (config_edit(lambda c: c.update(tied=[])), "missing"),
    "provenance nested": (config_edit(lambda c: c["provenance"].update(a={})), "neither a string"),
    "provenance key": (config_edit(lambda c: c["provenance"].update({"\n": 1})), "has the key"),
    "provenance long": (config_edit(lambda c: c["provenance"].update(a="x" * 5000)), "length of"),
    # --- the model's config
    "10**6 blocks": (model_edit(num_layers=10**6), "num_layers is 1000000"),
    "0 blocks": (model_edit(num_layers=0), "num_layers is 0"),
    "blocks true": (model_edit(num_layers=True), "num_layers is True: expected int"),
    "blocks null": (model_edit(num_layers=None), "num_layers is None: expected int"),
    "more blocks than stored": (model_edit(num_layers=3), "missing"),
    "decoded bytes": (
        model_edit(num_attention_heads=128, attention_head_dim=128),
        "bytes in float32: expected at most",
    ),
    "huge table of positions": (
        model_edit(sample_size=4096, patch_size=1, attention_head_dim=64),
        "number of patches is 16777216: expected 1 to 16384",
    ),
    "huge table of classes": (
        model_edit(num_embeds_ada_norm=10**7, attention_head_dim=64),
        "bytes in float32",
    ),
    "odd width": (model_edit(attention_head_dim=15), "cannot build the model"),
    "unknown activation": (model_edit(activation_fn="__import__"), "activation_fn is"),
    "unknown norm": (model_edit(norm_type="layer_norm"), "norm_type is"),
    "auto_map": (model_edit(auto_map={"AutoModel": "evil.Evil"}), "unknown key 'auto_map'"),
    "foreign class": (model_edit(_class_name="UNet2DModel"), "_class_name is 'UNet2DModel'"),
    "version with a newline": (model_edit(_diffusers_version="1\n2"), "expected a version"),
    "patch beyond the image": (model_edit(patch_size=16), "patch_size is 16"),
    "config is a list": (file_edit(CONFIG, "[]"), "no quantization_config"),
    "duplicate key": (bytes_edit(CONFIG, duplicate_key), "same key twice"),
    "config with NaN": (model_edit(dropout=float("nan")), "NaN is not JSON"),
    "config with 1e999": (
        bytes_edit(CONFIG, lambda d: d.replace(b'"dropout": 0.0', b'"dropout": 1e999')),
        "1e999 is not finite",
    ),
    "config with a long number": (
        bytes_edit(
            CONFIG, lambda d: d.replace(b'"num_layers": 2', b'"num_layers": ' + b"9" * 5000)
        ),
        "beyond 2\\*\\*53",
    ),
    "config with latin-1": (bytes_edit(CONFIG, lambda d: d + b"\xff"), "not valid JSON"),
    "config of brackets": (file_edit(CONFIG, "[" * 200_000), "not valid JSON"),
    "config of 20 MB": (file_edit(CONFIG, " " * 20_000_000), "expected at most 8388608"),
    # --- scheduler and pipeline
    "foreign scheduler": (scheduler_edit(_class_name="Evil"), "_class_name is 'Evil'"),
    "scheduler of 10**9 steps": (scheduler_edit(num_train_timesteps=10**9), "expected"),
    "scheduler steps as text": (scheduler_edit(num_train_timesteps="9"), "expected int"),
    "scheduler nested": (scheduler_edit(x={"y": 1}), "expected a plain value"),
    "scheduler list of text": (scheduler_edit(trained_betas=["x"]), "expected numbers"),
    "scheduler text": (scheduler_edit(beta_schedule="os.system('x')"), "expected a word"),
    "scheduler key": (scheduler_edit(__class__="x"), "expected"),
    "foreign pipeline": (
        json_edit(MODEL_INDEX, lambda v: v.update(_class_name="Evil")),
        "names other classes",
    ),
    "pipeline module": (
        json_edit(MODEL_INDEX, lambda v: v.update(transformer=["evil", "Evil"])),
        "names other classes",
    ),
    "pipeline with a custom file": (
        json_edit(MODEL_INDEX, lambda v: v.update(custom_pipeline="evil.py")),
        "unknown key 'custom_pipeline'",
    ),
    # --- files
    "python file": (
        file_edit("transformer/modeling.py"),
        "unknown entry 'transformer/modeling.py'",
    ),
    "hidden file": (file_edit(".gitattributes"), "unknown entry '.gitattributes'"),
    "unknown folder": (file_edit("vae/config.json"), "unknown entry 'vae'"),
    "second shard": (
        file_edit("transformer/diffusion_pytorch_model-00001-of-00002.safetensors"),
        "not one complete set",
    ),
    "index without shards": (file_edit(SHARD_INDEX, "{}"), "not one complete set"),
    "pickle beside": (file_edit("transformer/diffusion_pytorch_model.bin"), "unknown entry"),
}


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 100


@pytest.mark.parametrize("case", sorted(CASES))
def test_refused_with_one_clear_error(case: str, folder: Path) -> None:
    edit, message = CASES[case]
    edit(folder)
    with bounded(3), pytest.raises(CheckpointError, match=message) as caught:
        load_compressed(folder)
    text = str(caught.value)
    assert text.isprintable()
    assert len(text) < 700


@pytest.mark.parametrize(
    "case",
    [
        "10**6 blocks",
        "decoded bytes",
        "header length 1e8",
        "header length 2**63",
        "shape overflow",
        "pool rows huge",
        "table rows huge",
        "indexed pool huge",
        "config of 20 MB",
        "huge table of positions",
        "100k brackets",
        "a million dimensions",
        "layer shape huge",
    ],
)
def test_bombs_cost_neither_time_nor_memory(case: str, folder: Path) -> None:
    edit, _ = CASES[case]
    edit(folder)
    tracemalloc.start()
    try:
        # traced, which takes several times as long
        with bounded(6), pytest.raises(CheckpointError):
            load_compressed(folder)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 64 * 2**20


def link(path: str) -> Edit:
    def edit(folder: Path) -> None:
        target = folder.parent / "target"
        shutil.move(folder / path, target)
        (folder / path).symlink_to(target)

    return edit


def pipe(path: str) -> Edit:
    def edit(folder: Path) -> None:
        (folder / path).unlink()
        os.mkfifo(folder / path)

    return edit


def directory(path: str) -> Edit:
    def edit(folder: Path) -> None:
        (folder / path).unlink()
        (folder / path).mkdir()

    return edit


@pytest.mark.parametrize(
    "path", [MANIFEST, CARD, CONFIG, SCHEDULER, SINGLE_SHARD, "transformer", "scheduler"]
)
def test_symbolic_links_are_refused(folder: Path, path: str) -> None:
    link(path)(folder)
    with pytest.raises(CheckpointError, match=r"is not a plain file|is not a folder"):
        load_compressed(folder)


@pytest.mark.parametrize("make", [pipe, directory])
@pytest.mark.parametrize("path", [MANIFEST, CONFIG, SINGLE_SHARD])
def test_pipes_and_folders_in_place_of_files_are_refused_at_once(
    folder: Path, path: str, make: Callable[[str], Edit]
) -> None:
    make(path)(folder)
    with pytest.raises(CheckpointError, match=f"{path} is not a plain file"):
        load_compressed(folder)  # to open a pipe would wait for ever


@pytest.mark.parametrize("path", [MANIFEST, CARD, MODEL_INDEX, CONFIG, SCHEDULER, SINGLE_SHARD])
def test_missing_files_are_refused(folder: Path, path: str) -> None:
    (folder / path).unlink()
    with pytest.raises(CheckpointError, match=r"lacks|not one complete set"):
        load_compressed(folder)


def test_missing_and_foreign_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is not a folder"):
        load_compressed(tmp_path / "missing")
    with pytest.raises(CheckpointError, match="lacks"):
        load_compressed(tmp_path)
    with pytest.raises(CheckpointError, match="is not a folder"):
        load_compressed(Path("/dev/null"))


def manifest_edit(change: Callable[[dict[str, Any]], None]) -> Edit:
    def edit(folder: Path) -> None:
        value = json.loads((folder / MANIFEST).read_bytes())
        change(value)
        (folder / MANIFEST).write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (manifest_edit(lambda m: m.update(version=2)), "unknown format or version"),
        (manifest_edit(lambda m: m["files"].pop(CARD)), "does not match its own SHA-256"),
        (manifest_edit(lambda m: m["files"][CARD].update(size=HUGE)), "a size is"),
        (manifest_edit(lambda m: m["files"][CARD].update(sha256="0" * 63)), "64 hexadecimal"),
        (manifest_edit(lambda m: m["files"][CARD].update(sha256="0" * 64)), "its own SHA-256"),
        (manifest_edit(lambda m: m["files"].update({"../x": {}})), "lacks"),
        (manifest_edit(lambda m: m.update(trusted=True)), "unknown key 'trusted'"),
        (lambda f: (f / MANIFEST).write_bytes((f / MANIFEST).read_bytes() + b"\n"), "its own"),
        (lambda f: (f / MANIFEST).write_bytes(b""), "not valid JSON"),
    ],
)
def test_damaged_manifests_are_refused(folder: Path, edit: Edit, message: str) -> None:
    edit(folder)
    with pytest.raises(CheckpointError, match=message):
        load_compressed(folder)


def test_the_manifest_lists_what_is_there(folder: Path, original: Path) -> None:
    shutil.copy(original / CARD, folder / "x")
    (folder / "x").rename(folder / CARD)
    load_compressed(folder)
    (folder / CARD).write_text("# Tinny")  # seven bytes as well
    with pytest.raises(CheckpointError, match=r"README\.md does not match its SHA-256"):
        load_compressed(folder)
    load_compressed(folder, verify=False)


def test_without_verification_everything_else_is_still_checked(folder: Path) -> None:
    CASES["code equal to k"][0](folder)
    with pytest.raises(CheckpointError, match="beyond"):
        load_compressed(folder, verify=False)


def test_padding_bits_are_refused(folder: Path) -> None:
    # 3-bit codes of a 128 x 32 weight fill bytes exactly; an odd geometry does not
    from dpqlab.checkpoint.save import stored_form
    from dpqlab.checkpoint.values import check_values
    from dpqlab.core import CodebookCodec
    from dpqlab.nn.plan import Plan, Rule
    from dpqlab.nn.surgery import compress_

    model = torch.nn.ModuleDict({"x": torch.nn.Linear(6, 3)})
    codec = CodebookCodec(d=2, k=6, scope="layer")
    compress_(model, Plan(rules=(Rule(pattern="x", codec=codec),)))
    config, tensors = stored_form(model)
    check_values(config, tensors)
    tensors["x.weight"][-1] |= 0x80
    with pytest.raises(CheckpointError, match="bits behind its last code"):
        check_values(config, tensors)


def test_shards_are_checked_as_one_set(
    model: torch.nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dpqlab.checkpoint import shards
    from dpqlab.checkpoint.save import save_compressed
    from tests.checkpoint.forge import SCHEDULER_CONFIG

    monkeypatch.setattr(shards, "SHARD_BYTES", 30_000)
    folder = tmp_path / "x"
    save_compressed(model, folder, scheduler_config=SCHEDULER_CONFIG, provenance={}, card="")
    first, second, *_ = sorted((folder / "transformer").glob("*.safetensors"))
    index = json.loads((folder / SHARD_INDEX).read_bytes())

    def attempt(message: str) -> None:
        seal(folder)
        with pytest.raises(CheckpointError, match=message):
            load_compressed(folder)

    original = second.read_bytes()
    second.write_bytes(first.read_bytes())
    attempt("repeats the tensor")
    second.write_bytes(original)
    name = next(iter(index["weight_map"]))
    forged = json.loads(json.dumps(index))
    forged["weight_map"][name] = "../../secret.safetensors"
    (folder / SHARD_INDEX).write_text(json.dumps(forged))
    attempt("does not describe the shards")
    (folder / SHARD_INDEX).unlink()
    attempt("not one complete set")
    (folder / SHARD_INDEX).write_text(json.dumps(index))
    second.unlink()
    attempt("not one complete set")
