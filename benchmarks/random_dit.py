"""A full-precision diffusers folder of random weights in the geometry of DiT-XL/2, block by block.

Compression takes as long, and stores as many bytes, whatever the weights are; what they draw does
not matter here. Memory stays below that of two blocks.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

XL_2: dict[str, Any] = {
    "_class_name": "DiTTransformer2DModel",
    "_diffusers_version": "0.42.1",
    "num_attention_heads": 16,
    "attention_head_dim": 72,
    "in_channels": 4,
    "out_channels": 8,
    "num_layers": 28,
    "dropout": 0.0,
    "norm_num_groups": 32,
    "attention_bias": True,
    "sample_size": 32,
    "patch_size": 2,
    "activation_fn": "gelu-approximate",
    "num_embeds_ada_norm": 1000,
    "upcast_attention": False,
    "norm_type": "ada_norm_zero",
    "norm_elementwise_affine": False,
    "norm_eps": 1e-5,
}
"""The config of DiT-XL/2 at 256 pixels: 674.8 M parameters, the embedder counted once."""

LICENCE_NOTE = "---\nlicense: mit\n---\n\nRandom weights: they draw nothing.\n"
_STEM = "diffusion_pytorch_model"
_STD = 0.02


def write_random_dit(folder: Path, *, layers: int = 28, seed: int = 0, **changes: Any) -> Path:
    """Write such a folder: float32, one shard a block, a copy of the embedder in each.

    Parameters
    ----------
    folder
        Of the pipeline; must not exist.
    layers
        Number of blocks; DiT-XL/2 has 28.
    seed
        Of the weights.
    changes
        To :data:`XL_2`.
    """
    from diffusers import DDIMScheduler

    config = XL_2 | {"num_layers": layers} | changes
    inside = folder / "transformer"
    inside.mkdir(parents=True)
    (inside / "config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")
    index = {
        "_class_name": "DiTPipeline",
        "_diffusers_version": "0.42.1",
        "scheduler": ["diffusers", "DDIMScheduler"],
        "transformer": ["diffusers", "DiTTransformer2DModel"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", "utf-8")
    (folder / "README.md").write_text(LICENCE_NOTE, "utf-8")
    DDIMScheduler().save_pretrained(folder / "scheduler")
    _write_shards(inside, config, torch.Generator().manual_seed(seed))
    return folder


def _write_shards(inside: Path, config: dict[str, Any], generator: torch.Generator) -> None:
    from safetensors.torch import save_file

    count = config["num_layers"] + 1
    where: dict[str, str] = {}
    size = 0
    for number, shapes in enumerate(_shards(config), start=1):
        name = f"{_STEM}-{number:05}-of-{count:05}.safetensors"
        tensors: dict[str, torch.Tensor] = {}
        for tensor, shape in shapes.items():
            copied = ".norm1.emb." in tensor
            source = torch.Generator().manual_seed(_seed_of(tensor)) if copied else generator
            tensors[tensor] = torch.randn(shape, generator=source) * _STD
        save_file(tensors, inside / name, metadata={"format": "pt"})
        where |= dict.fromkeys(tensors, name)
        size += sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": where}
    (inside / f"{_STEM}.safetensors.index.json").write_text(json.dumps(index) + "\n", "utf-8")


def _shards(config: dict[str, Any]) -> Iterator[dict[str, torch.Size]]:
    """Yield the shapes of what stands outside the blocks, then of each block."""
    from diffusers import DiTTransformer2DModel

    with torch.device("meta"):
        model: Any = DiTTransformer2DModel.from_config(config)
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    prefix = "transformer_blocks."
    yield {name: shape for name, shape in shapes.items() if not name.startswith(prefix)}
    for block in range(config["num_layers"]):
        inside = f"{prefix}{block}."
        yield {name: shape for name, shape in shapes.items() if name.startswith(inside)}


def _seed_of(name: str) -> int:
    """Return a seed that is the same for the copies of one tensor in all blocks."""
    return sum(name.split(".norm1.emb.")[1].encode())
