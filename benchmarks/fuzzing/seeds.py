"""Good folders to start from: as small as can be, and together with everything that is ever stored.

Small ones, since what an input costs is mostly the number of its layers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import nn

from dpqlab.checkpoint.documents import dump_json
from dpqlab.checkpoint.layout import CONFIG, MANIFEST, SHARD_INDEX, SINGLE_SHARD, shard_names
from dpqlab.checkpoint.manifest import FileRecord, manifest_bytes, sha256_of
from dpqlab.checkpoint.save import save_compressed
from dpqlab.core import CodebookCodec, Pool, ScalarCodec, encode
from dpqlab.diffusion.dit import make_dit
from dpqlab.nn.embedder import tie_embedders_
from dpqlab.nn.plan import Plan
from dpqlab.nn.surgery import compress_

Files = dict[str, bytes]

DIT: dict[str, Any] = {
    "num_attention_heads": 2,
    "attention_head_dim": 8,
    "num_layers": 1,
    "in_channels": 1,
    "out_channels": 1,
    "sample_size": 8,
    "patch_size": 4,
    "num_embeds_ada_norm": 3,
}
SCHEDULER_CONFIG = {"_class_name": "DDIMScheduler", "num_train_timesteps": 1000, "beta_end": 0.02}
PROVENANCE = {"source": "random weights", "seed": 0, "loss": 0.5}

ALONE = Plan.for_blocks(
    {
        "attn1.to_q": CodebookCodec(d=4, k=10, row_scale=True, iterations=2),
        "attn1.to_v": CodebookCodec(d=4, k=80, scope="group", group=3, iterations=2),  # ragged
        "ff.net.0.proj": ScalarCodec(bits=3, group_size=12),
        "ff.net.2": CodebookCodec(d=3, k=200, scope="layer", iterations=2),
        "*": None,
    }
)
"""Layers with pools of their own, one of each sort."""

SHARED = Plan.for_blocks(
    {
        "attn1.to_k": CodebookCodec(d=4, k=16, scope="layer", across="kind", iterations=2),
        "norm1.linear": CodebookCodec(d=4, k=10, across="kind", row_scale=True, iterations=2),
        "*": None,
    }
)
"""Layers that share a pool: as it is, and through tables (:func:`index_`)."""


def dense_dit(settings: Mapping[str, Any]) -> nn.Module:
    """Make a small random DiT; its blocks have one embedder."""
    torch.manual_seed(0)
    model: Any = make_dit(DIT | dict(settings)).eval()
    for block in model.transformer_blocks[1:]:
        block.norm1.emb.load_state_dict(model.transformer_blocks[0].norm1.emb.state_dict())
    for name, parameter in model.named_parameters():
        if name.endswith("linear.weight"):  # adaLN-Zero starts as zeros
            nn.init.normal_(parameter, std=0.2)
    tie_embedders_(model)
    return model


def index_(model: nn.Module, leaf: str = "norm1.linear") -> None:
    """Let the layers called ``leaf`` of two blocks pick from 36 codewords, each by its table."""
    first = None
    for block, shortest in enumerate((10, 3)):
        layer: Any = model.get_submodule(f"transformer_blocks.{block}.{leaf}")
        sizes = torch.tensor([0, shortest] + [10] * (layer.positions - 1))
        generator = torch.Generator().manual_seed(0)
        table = torch.randint(36, (int(sizes.sum()),), generator=generator)
        pool = Pool(entries=layer.pool.detach()[:36], base=sizes.cumsum(0), table=table)
        encoded = encode(layer.decode(), layer.codec, pool)
        layer.set_pool_(encoded, pool_parameter=first)
        first = layer.pool


def make_seeds(folder: Path) -> dict[str, Path]:
    """Write the seeds into ``folder``; return theirs by name."""
    folder.mkdir(exist_ok=True)
    seeds = {name: folder / name for name in ("alone", "shared", "sharded")}
    alone = dense_dit({})
    compress_(alone, ALONE)
    shared = dense_dit({"num_layers": 2})
    compress_(shared, SHARED)
    index_(shared)
    for name, model in (("alone", alone), ("shared", shared), ("sharded", alone)):
        save_compressed(
            model,
            seeds[name],
            scheduler_config=SCHEDULER_CONFIG,
            provenance=PROVENANCE,
            card="x",
        )
    divide(seeds["sharded"], 3)
    return seeds


def divide(folder: Path, shards: int) -> None:
    """Divide the one shard of a folder, which is far below the size at which saving would."""
    tensors = load((folder / SINGLE_SHARD).read_bytes())
    names, paths = sorted(tensors), shard_names(shards)
    where = {name: paths[i * shards // len(names)] for i, name in enumerate(names)}
    for path in paths:
        part = {name: tensors[name] for name in names if where[name] == path}
        (folder / path).write_bytes(save(part, metadata={"format": "pt"}))
    (folder / SINGLE_SHARD).unlink()
    index = {
        "metadata": {"total_size": sum(tensor.nbytes for tensor in tensors.values())},
        "weight_map": {name: path.rpartition("/")[2] for name, path in where.items()},
    }
    (folder / SHARD_INDEX).write_bytes(dump_json(index))
    (folder / MANIFEST).write_bytes(sealed(read_files(folder)))


def read_files(folder: Path) -> Files:
    """Return the content of all files of a folder, by path."""
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def sealed(files: Files) -> bytes:
    """Return a manifest that fits these files."""
    records = {
        path: FileRecord(size=len(data), sha256=sha256_of(data))
        for path, data in files.items()
        if path != MANIFEST
    }
    return manifest_bytes(records)


def model_config(files: Files) -> dict[str, Any]:
    """Return the settings of the model of good files."""
    config: dict[str, Any] = json.loads(files[CONFIG])
    del config["quantization_config"]
    return config
