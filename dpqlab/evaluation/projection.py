"""What a codec would cost on a model that is not here: arithmetic on shapes alone.

Everything but the codes costs less per weight in a larger model: a codebook of a column position is
shared by more rows, a scale or bias by more columns, and the ends outside the blocks are a smaller
part of the whole. That is why the same bits for each weight shrink a larger model further.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from dpqlab.core import CodebookCodec, code_bits, position_count
from dpqlab.errors import ConfigError

POOL_BITS = SCALE_BITS = BIAS_BITS = KEPT_BITS = 16


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """The shapes that decide a model's size.

    Parameters
    ----------
    name
        For reports.
    linears
        Shape (out, in) of every kind of Linear in a block, by the kind's name.
    blocks
        Number of blocks.
    parameters
        Of the whole model, each once; what is no block weight or block bias is kept in bf16.
    """

    name: str
    linears: Mapping[str, tuple[int, int]] = field(repr=False)
    blocks: int
    parameters: int

    @property
    def block_weights(self) -> int:
        """Weights of the blocks' Linears."""
        return self.blocks * sum(out * columns for out, columns in self.linears.values())

    @property
    def kept(self) -> int:
        """Parameters outside of the blocks' Linears."""
        biases = self.blocks * sum(out for out, _ in self.linears.values())
        return self.parameters - self.block_weights - biases


def dit_linears(width: int) -> dict[str, tuple[int, int]]:
    """Return the Linears of a DiT block under their names in diffusers."""
    attention = dict.fromkeys(("to_q", "to_k", "to_v", "to_out.0"), (width, width))
    return {f"attn1.{name}": shape for name, shape in attention.items()} | {
        "ff.net.0.proj": (4 * width, width),
        "ff.net.2": (width, 4 * width),
        "norm1.linear": (6 * width, width),
    }


DIT_XL_2 = Geometry(name="DiT-XL/2", linears=dit_linears(1152), blocks=28, parameters=674_834_720)
"""facebook/DiT-XL-2-256 with its one embedder, without the fixed table of positions, which is
computed (Peebles & Xie, arXiv 2212.09748, table 1)."""


@dataclass(frozen=True, kw_only=True)
class Projection:
    """Bits that a model would take: those of its blocks by part, and what is kept."""

    codes: int
    pool: int
    scale: int
    bias: int
    kept: int
    block_weights: int
    parameters: int

    @property
    def true_bits(self) -> float:
        """Stored bits of the blocks' Linears over their weights."""
        return (self.codes + self.pool + self.scale + self.bias) / self.block_weights

    @property
    def stored_bytes(self) -> float:
        """Bytes of all tensors."""
        return (self.codes + self.pool + self.scale + self.bias + self.kept) / 8

    @property
    def ratio_fp32(self) -> float:
        """Bytes of the model in fp32 over the stored bytes."""
        return 4 * self.parameters / self.stored_bytes


def project(codecs: Mapping[str, CodebookCodec], geometry: Geometry) -> Projection:
    """Work out what ``geometry`` would store.

    Parameters
    ----------
    codecs
        The codec of every kind in ``geometry.linears``, with whole codebooks (none pruned).

    Raises
    ------
    ConfigError
        If a kind has no codec.
    """
    missing = geometry.linears.keys() - codecs.keys()
    if missing:
        raise ConfigError(f"no codec for {', '.join(sorted(missing))} of {geometry.name}")
    codes = pool = scale = bias = 0
    for kinds in _sharing(codecs, geometry):
        codec = codecs[kinds[0]]
        layers = 1 if codec.across == "layer" else geometry.blocks  # of a kind, to one pool
        shapes = [geometry.linears[kind] for kind in kinds]
        rows = [(out, position_count(columns, codec.d)) for out, columns in shapes]
        m = rows[0][1]
        scopes = {"position": m, "group": math.ceil(m / codec.group)}.get(codec.scope, 1)
        k = min(codec.k, layers * sum(out * (m // scopes) for out, m in rows))
        codes += geometry.blocks * sum(out * m for out, m in rows) * code_bits(k)
        pool += geometry.blocks // layers * scopes * k * codec.d * POOL_BITS
        scale += geometry.blocks * sum(out for out, _ in rows) * SCALE_BITS * codec.row_scale
        bias += geometry.blocks * sum(out for out, _ in rows) * BIAS_BITS
    return Projection(
        codes=codes,
        pool=pool,
        scale=scale,
        bias=bias,
        kept=geometry.kept * KEPT_BITS,
        block_weights=geometry.block_weights,
        parameters=geometry.parameters,
    )


def _sharing(codecs: Mapping[str, CodebookCodec], geometry: Geometry) -> list[list[str]]:
    """Group the kinds of a block: those with one pool across the model come together."""
    groups: dict[str, list[str]] = {}
    for kind in geometry.linears:
        codec = codecs[kind]
        groups.setdefault(repr(codec) if codec.across == "model" else kind, []).append(kind)
    return list(groups.values())


def ratio_at(true_bits: float, geometry: Geometry) -> float:
    """Return fp32 bytes over stored bytes if the blocks took ``true_bits`` for each weight."""
    stored = true_bits * geometry.block_weights + KEPT_BITS * geometry.kept
    return 32 * geometry.parameters / stored
