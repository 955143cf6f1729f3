"""The original DiT's ``.pt`` files as folders of diffusers: names, and the few shapes that differ.

Peebles & Xie's code (arXiv 2212.09748) keeps queries, keys and values in one matrix, one embedder
of timestep and label for all blocks, and the position table among the weights; diffusers keeps
three matrices, a copy of the embedder in each block, and computes the table. Values are copied,
none is changed. This is the only place of dpqlab that reads a file of pickles, with PyTorch's
reader that builds tensors and nothing else.

What diffusers computes of the weights differs from the original in one convention, the frequencies
of the timestep's embedding (``docs/diffusers.md``), and in the epsilon of the last norm.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from dpqlab.checkpoint.atomic import staged_folder
from dpqlab.errors import CheckpointError, ConfigError

HEADS = {1152: 16, 1024: 16, 768: 12, 384: 6}
"""Attention heads of the published sizes XL, L, B and S, by width: no tensor tells."""
_RENAMED = {
    "x_embedder.proj": "pos_embed.proj",
    "final_layer.adaLN_modulation.1": "proj_out_1",
    "final_layer.linear": "proj_out_2",
}
_EMBEDDER = {
    "t_embedder.mlp.0": "timestep_embedder.linear_1",
    "t_embedder.mlp.2": "timestep_embedder.linear_2",
    "y_embedder.embedding_table": "class_embedder.embedding_table",
}
_BLOCK = {
    "adaLN_modulation.1": "norm1.linear",
    "attn.proj": "attn1.to_out.0",
    "mlp.fc1": "ff.net.0.proj",
    "mlp.fc2": "ff.net.2",
}
_QKV = ("attn1.to_q", "attn1.to_k", "attn1.to_v")
_IN_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)\.(weight|bias)")
_NEAR = 1e-5  # of positions, which one computes in float64 and the other need not
SHARD = "2GB"


@dataclass(frozen=True, kw_only=True, eq=False)
class Converted:
    """A DiT as diffusers has it: the arguments of its class, and its ``state_dict``."""

    config: dict[str, Any]
    state: dict[str, Tensor]


def read_original(path: Path) -> dict[str, Tensor]:
    """Read the weights of an original DiT; of a checkpoint of its training, the averaged ones.

    Raises
    ------
    CheckpointError
        If it cannot be read as tensors alone.
    """
    try:
        found: Any = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}") from None
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"{path} is no file of tensors alone, as torch.save makes it ({reason[:200]}); of a "
            "training's checkpoint, save the entry 'ema' by itself"
        ) from None
    whole = cast("dict[Any, Any]", found) if isinstance(found, dict) else {}
    state: Any = whole.get("ema", whole)
    if not isinstance(state, dict) or not state:
        raise CheckpointError(f"{path} is no state dict: expected tensors by name")
    tensors = cast("dict[Any, Any]", state)
    odd = [name for name, value in tensors.items() if not isinstance(value, Tensor)]
    if odd:
        raise CheckpointError(f"{path} has more than tensors: {str(odd[0])[:80]!r} is none")
    return {str(name): tensor for name, tensor in tensors.items()}


def convert_original(state: Mapping[str, Tensor], *, heads: int | None = None) -> Converted:
    """Name and shape the weights of an original DiT as diffusers does.

    Parameters
    ----------
    state
        Of a DiT with class labels and a null class.
    heads
        Of attention; known of the published widths.

    Raises
    ------
    CheckpointError
        If a tensor is missing, unknown, or of a shape that does not fit the others.
    ConfigError
        If the number of heads is needed, or does not divide the width.
    """
    left = dict(state)
    config = _config_of(left, heads)
    left.pop("pos_embed")  # computed by diffusers; compared in _config_of
    made: dict[str, Tensor] = {}
    for old, new in _RENAMED.items():
        for leaf in ("weight", "bias"):
            made[f"{new}.{leaf}"] = _taken(left, f"{old}.{leaf}")
    shared = {
        f"{new}.{leaf}": _taken(left, f"{old}.{leaf}")
        for old, new in _EMBEDDER.items()
        for leaf in (("weight",) if old.startswith("y_") else ("weight", "bias"))
    }
    for block in range(config["num_layers"]):
        target = f"transformer_blocks.{block}"
        made |= {f"{target}.norm1.emb.{name}": tensor for name, tensor in shared.items()}
        for name, tensor in _block(left, block):
            made[f"{target}.{name}"] = tensor
    if left:
        raise CheckpointError(
            f"{min(left)} is no tensor of a DiT ({len(left)} unknown in all): expected the "
            "weights of the original class-conditional model"
        )
    _check_shapes(config, made)
    return Converted(config=config, state=made)


def write_dense(converted: Converted, out: Path, card: str, *, dtype: torch.dtype) -> None:
    """Write the folder of a ``DiTTransformer2DModel``, whole or not at all.

    Parameters
    ----------
    converted
        What to write.
    out
        The folder; its parent must exist.
    card
        README.md.
    dtype
        To round the weights to.

    Raises
    ------
    CheckpointError
        If it cannot be written.
    """
    model = _skeleton(converted.config)
    # copies: diffusers saves no tensors that share memory, as the embedders here do
    model.load_state_dict(
        {name: tensor.to(dtype, copy=True) for name, tensor in converted.state.items()}, assign=True
    )
    needed = sum(tensor.numel() for tensor in converted.state.values()) * dtype.itemsize
    try:
        with staged_folder(out) as staging:
            model.save_pretrained(staging, max_shard_size=SHARD)
            (staging / "README.md").write_text(card, encoding="utf-8")
    except OSError as error:
        raise CheckpointError(
            f"could not write {out}: {error.strerror} ({needed} bytes are needed beside it)"
        ) from error


def _config_of(state: Mapping[str, Tensor], heads: int | None) -> dict[str, Any]:
    kernel = _known(state, "x_embedder.proj.weight", 4)
    positions = _known(state, "pos_embed", 3)
    last = _known(state, "final_layer.linear.weight", 2)
    table = _known(state, "y_embedder.embedding_table.weight", 2)
    blocks = {int(found[1]) for name in state if (found := _IN_BLOCK.fullmatch(name))}
    if not blocks or blocks != set(range(len(blocks))):
        raise CheckpointError(f"the blocks are {sorted(blocks)[:8]}: expected 0, 1, 2, ...")
    width, channels, patch, _ = kernel.shape
    number = heads or HEADS.get(width)
    if number is None:
        raise ConfigError(
            f"the width is {width}, which is none of the published DiTs: expected the number of "
            "attention heads beside it (--heads)"
        )
    if number < 1 or width % number:
        raise ConfigError(f"the number of heads is {number}: expected one that divides {width}")
    side = math.isqrt(positions.shape[1])
    _check_positions(positions, side)
    return {
        "num_attention_heads": number,
        "attention_head_dim": width // number,
        "in_channels": channels,
        "out_channels": last.shape[0] // patch**2,
        "num_layers": len(blocks),
        "sample_size": side * patch,
        "patch_size": patch,
        "num_embeds_ada_norm": table.shape[0] - 1,
        "norm_type": "ada_norm_zero",
        "activation_fn": "gelu-approximate",
        "attention_bias": True,
        "norm_elementwise_affine": False,
        "norm_eps": 1e-6,
    }


def _skeleton(config: dict[str, Any]) -> Any:
    import diffusers

    library: Any = diffusers
    with torch.device("meta"):
        return library.DiTTransformer2DModel(**config)


def _known(state: Mapping[str, Tensor], name: str, dimensions: int) -> Tensor:
    tensor = state.get(name)
    if tensor is None:
        raise CheckpointError(f"{name} is missing: expected the weights of an original DiT")
    if tensor.ndim != dimensions or not tensor.numel():
        raise CheckpointError(
            f"{name} has shape {tuple(tensor.shape)}: expected {dimensions} dimensions"
        )
    return tensor


def _check_positions(positions: Tensor, side: int) -> None:
    """Refuse a table that diffusers would compute otherwise: one that was trained, say."""
    from diffusers.models import embeddings

    library: Any = embeddings
    tokens, width = positions.shape[1:]
    fits = side**2 == tokens and width % 4 == 0
    table = (
        library.get_2d_sincos_pos_embed(width, side, base_size=side, output_type="pt")
        if fits
        else None
    )
    if table is None or (positions[0].double() - table.double()).abs().max() > _NEAR:
        raise CheckpointError(
            f"pos_embed, shape {tuple(positions.shape)}, is not the table of sines that diffusers "
            "computes: expected a square of patches, and positions that were not trained"
        )


def _taken(left: dict[str, Tensor], name: str) -> Tensor:
    if name not in left:
        raise CheckpointError(f"{name} is missing: expected the weights of an original DiT")
    return left.pop(name)


def _block(left: dict[str, Tensor], block: int) -> Iterator[tuple[str, Tensor]]:
    for leaf in ("weight", "bias"):
        whole = _taken(left, f"blocks.{block}.attn.qkv.{leaf}")
        if whole.shape[0] % 3:
            raise CheckpointError(
                f"blocks.{block}.attn.qkv.{leaf} has {whole.shape[0]} rows: expected three parts"
            )
        for name, part in zip(_QKV, whole.chunk(3), strict=True):
            yield f"{name}.{leaf}", part
        for old, new in _BLOCK.items():
            yield f"{new}.{leaf}", _taken(left, f"blocks.{block}.{old}.{leaf}")


def _check_shapes(config: dict[str, Any], made: Mapping[str, Tensor]) -> None:
    model = _skeleton(config)
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for name in sorted(wanted.keys() | made.keys()):
        found = tuple(made[name].shape) if name in made else None
        if wanted.get(name) != found:
            raise CheckpointError(
                f"{name} would have shape {found}: a DiT of this width and depth has "
                f"{wanted.get(name)}"
            )
        if not made[name].is_floating_point():
            raise CheckpointError(f"{name} would be {made[name].dtype}: expected floats")
