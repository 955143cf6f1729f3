"""What is timed: the Linears of a DiT, coded as the presets code them, with random weights.

Speed does not depend on the values of weights, but it does on everything else: shapes, the codec,
who shares a pool, how many bytes there are. Codes are drawn uniformly, which is the worst case for
caches; pools and scales have the sizes that the preset leaves at these shapes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dpqlab.core import CodebookCodec, code_bits, packed_size, position_count, scope_of_positions
from dpqlab.errors import ConfigError
from dpqlab.kernels.coded import CodedWeight, runs_of_positions
from dpqlab.nn.presets import preset


@dataclass(frozen=True, kw_only=True)
class LayerKind:
    """The same Linear of every block: name within the block, (out, in), how many there are."""

    name: str
    shape: tuple[int, int]
    blocks: int

    @property
    def weights(self) -> int:
        """Weights of all blocks together."""
        return self.shape[0] * self.shape[1] * self.blocks


def layer_kinds(width: int, blocks: int) -> tuple[LayerKind, ...]:
    """Return the Linears of a DiT of some width by their names in diffusers' model."""
    square = ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0")
    shapes = dict.fromkeys(square, (width, width)) | {
        "ff.net.0.proj": (4 * width, width),
        "ff.net.2": (width, 4 * width),
        "norm1.linear": (6 * width, width),
    }
    return tuple(LayerKind(name=n, shape=s, blocks=blocks) for n, s in shapes.items())


DIT_XL_2 = layer_kinds(1152, 28)
MODULATION = "norm1.linear"


def codec_of(name: str, kind: LayerKind) -> CodebookCodec:
    """Return the codec that a preset uses for a kind of layer.

    Raises
    ------
    ConfigError
        If the preset has none with codebooks for it.
    """
    codec, _ = preset(name).codec_for(f"transformer_blocks.0.{kind.name}", nn.Linear)
    if not isinstance(codec, CodebookCodec):
        raise ConfigError(f"preset {name!r} has no codebooks for {kind.name}: choose another")
    return codec


def coded_layers(
    name: str, kind: LayerKind, *, device: str, seed: int = 0
) -> tuple[CodedWeight, ...]:
    """Draw one coded weight a block, as preset ``name`` codes a kind of layer.

    Layers share a pool where the preset says so. Codebooks have their full ``k``: at the shapes of
    DiT-XL/2 the pools of all presets lie within their budgets.
    """
    codec = codec_of(name, kind)
    generator = torch.Generator().manual_seed(seed)
    shared = None
    layers: list[CodedWeight] = []
    for _ in range(kind.blocks):
        if shared is None or codec.across == "layer":
            shared = _pool(codec, kind.shape[1], generator).to(device)
        layers.append(_layer(codec, kind.shape, shared, generator))
    return tuple(layers)


def stored_bytes(weight: CodedWeight) -> int:
    """Return the bytes of codes and scales of one layer; its pool is counted apart."""
    return weight.codes.numel() + (0 if weight.scale is None else 2 * weight.shape[0])


def pool_bytes(layers: Iterable[CodedWeight]) -> int:
    """Return the bytes of the distinct pools of some layers."""
    pools = {weight.pool.data_ptr(): weight.pool.nbytes for weight in layers}
    return sum(pools.values())


def _pool(codec: CodebookCodec, columns: int, generator: torch.Generator) -> Tensor:
    m = position_count(columns, codec.d)
    scopes = int(scope_of_positions(codec.scope, m, codec.group)[-1]) + 1
    entries = torch.randn(scopes * codec.k, codec.d, generator=generator) / columns**0.5
    return entries.to(torch.float16)


def _layer(
    codec: CodebookCodec, shape: tuple[int, int], pool: Tensor, generator: torch.Generator
) -> CodedWeight:
    (out, columns), device = shape, pool.device
    m = position_count(columns, codec.d)
    scope_of = scope_of_positions(codec.scope, m, codec.group)
    base = torch.arange(int(scope_of[-1]) + 2) * codec.k
    first, size = runs_of_positions(base, scope_of)
    bits = code_bits(codec.k)
    if codec.k != 1 << bits:
        raise ConfigError(f"k={codec.k} is no power of two: random bytes are no codes of it")
    stream = torch.randint(256, (packed_size(out * m, bits),), generator=generator)
    scale = None
    if codec.row_scale:
        scale = (0.5 + torch.rand(out, generator=generator)).to(device, torch.float16)
    return CodedWeight(
        codes=stream.to(torch.uint8).to(device),
        pool=pool,
        first=first.to(device),
        size=size.to(device),
        table=None,
        scale=scale,
        shape=shape,
        code_bits=bits,
    )
