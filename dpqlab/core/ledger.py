"""What everything costs, in bits: the only source of sizes that dpqlab prints."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch

from dpqlab.core.formats import Encoded, EncodedScalar
from dpqlab.core.pool import OFFSET_BITS
from dpqlab.errors import ConfigError

__all__ = ["OFFSET_BITS", "KeptTensor", "LayerLedger", "ModelLedger", "ledger_of_encoded"]


@dataclass(frozen=True, kw_only=True)
class LayerLedger:
    """Stored bits of one compressed layer.

    Attributes
    ----------
    name, kind, codec
        Module name, its name without the block's number, and the codec in words.
    shape
        ``(out, in)``.
    codes, table, pool, scale, bias
        Bits of each part. Codes are whole packed bytes. A pool that several layers share is counted
        at its owner and 0 elsewhere. ``table`` is what it takes to find a codeword: the codebooks'
        sizes where they differ, and of an indexed pool the packed table, which every layer has of
        its own.
    weights
        Number of weights, ``out * in``.
    """

    name: str
    kind: str
    shape: tuple[int, int]
    codec: str
    codes: int
    table: int
    pool: int
    scale: int
    bias: int
    weights: int

    def __post_init__(self) -> None:
        parts = (self.codes, self.table, self.pool, self.scale, self.bias)
        if min(parts) < 0 or self.weights != self.shape[0] * self.shape[1]:
            raise ConfigError(
                f"ledger of {self.name}: bits {parts}, {self.weights} weights, {self.shape}"
            )

    @property
    def total(self) -> int:
        """All stored bits."""
        return self.codes + self.table + self.pool + self.scale + self.bias

    @property
    def true_bits(self) -> float:
        """All stored bits over the number of weights."""
        return self.total / self.weights


@dataclass(frozen=True, kw_only=True)
class KeptTensor:
    """A tensor stored as it is.

    Attributes
    ----------
    name
        Parameter name.
    bits
        Stored bits of the whole tensor.
    numel
        Number of values.
    reason
        Why it was kept.
    in_blocks
        Whether it belongs to a Linear inside the blocks, and so counts towards true bits.
    """

    name: str
    bits: int
    numel: int
    reason: str
    in_blocks: bool

    @property
    def weights(self) -> int:
        """Values that count as weights in true bits: none for a bias."""
        return 0 if self.name.rpartition(".")[2] == "bias" else self.numel


@dataclass(frozen=True, kw_only=True)
class ModelLedger:
    """Stored bits of a model: compressed layers, and tensors kept as they are (each once)."""

    layers: tuple[LayerLedger, ...]
    kept: tuple[KeptTensor, ...] = ()

    @property
    def true_bits_per_weight(self) -> float:
        """All stored bits of the blocks' Linears over the number of their weights (0 if none)."""
        inside = [tensor for tensor in self.kept if tensor.in_blocks]
        bits = sum(part.total for part in self.layers) + sum(tensor.bits for tensor in inside)
        weights = self.compressed_weights + sum(tensor.weights for tensor in inside)
        return bits / weights if weights else 0.0

    @property
    def compressed_weights(self) -> int:
        """Number of weights in compressed layers."""
        return sum(layer.weights for layer in self.layers)

    @property
    def parameters(self) -> int:
        """Number of values of the uncompressed model, biases included."""
        compressed = sum(layer.weights + layer.shape[0] * (layer.bias > 0) for layer in self.layers)
        return compressed + sum(tensor.numel for tensor in self.kept)

    @property
    def stored_bytes(self) -> int:
        """Bytes of all tensors of the compressed model, without file headers."""
        bits = sum(layer.total for layer in self.layers) + sum(tensor.bits for tensor in self.kept)
        return -(-bits // 8)

    @property
    def fp32_bytes(self) -> int:
        """Bytes of the uncompressed model in float32."""
        return 4 * self.parameters

    @property
    def bf16_bytes(self) -> int:
        """Bytes of the uncompressed model in bfloat16."""
        return 2 * self.parameters

    def to_dict(self) -> dict[str, Any]:
        """Return everything, computed totals included, as JSON values."""
        layers = [
            asdict(layer) | {"shape": list(layer.shape), "total": layer.total}
            for layer in self.layers
        ]
        return {
            "layers": layers,
            "kept": [asdict(tensor) for tensor in self.kept],
            "true_bits_per_weight": self.true_bits_per_weight,
            "compressed_weights": self.compressed_weights,
            "stored_bytes": self.stored_bytes,
            "fp32_bytes": self.fp32_bytes,
            "bf16_bytes": self.bf16_bytes,
        }


def ledger_of_encoded(
    name: str,
    encoded: Encoded | EncodedScalar,
    bias_bits: int,
    owns_pool: bool = True,
    *,
    kind: str = "",
    codec: str = "",
) -> LayerLedger:
    """Count an encoded weight.

    Parameters
    ----------
    name
        Module name.
    encoded
        The weight.
    bias_bits
        Bits of the whole bias vector, 0 without one.
    owns_pool
        Whether the pool is counted here; False for all but the first layer that shares it. With a
        ragged pool the sizes go with it; the table of an indexed one is each layer's own.
    kind, codec
        Words for the ledger; by default what ``encoded`` itself tells.
    """
    if isinstance(encoded, EncodedScalar):
        codec = codec or f"RTN {encoded.bits}-bit g={encoded.group_size}"
        table = pool = 0
    else:
        book = encoded.pool
        codec = codec or f"d={book.d} k={max(book.sizes)} scopes={len(book.sizes)}"
        pool = _bits(book.entries) if owns_pool else 0
        table = book.table_bits if owns_pool or book.indexed else 0
    return LayerLedger(
        name=name,
        kind=kind,
        shape=encoded.shape,
        codec=codec,
        codes=8 * encoded.packed_bytes,
        table=table,
        pool=pool,
        scale=0 if encoded.scale is None else _bits(encoded.scale),
        bias=bias_bits,
        weights=encoded.shape[0] * encoded.shape[1],
    )


def _bits(tensor: torch.Tensor) -> int:
    return 8 * tensor.numel() * tensor.element_size()
