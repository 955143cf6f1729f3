"""What stored tensors may contain: codes that exist, finite numbers, products that stay finite."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from dpqlab.checkpoint.schema import LayerEntry, QuantizationConfig
from dpqlab.core import ScalarCodec, check_padding, code_bits, scope_of_positions, unpack
from dpqlab.errors import CheckpointError
from dpqlab.nn.linear import codes_beyond

LARGEST_WEIGHT = 65_504.0
"""The largest float16: decoded weights are finite in every dtype a model can be loaded in."""


def check_values(config: QuantizationConfig, tensors: Mapping[str, Tensor]) -> None:
    """Check the content of all tensors, whose names, dtypes and shapes are right already.

    Raises
    ------
    CheckpointError
        For a value that is not finite, a code beyond its codebook, padding bits that are not zero,
        or scales and codewords whose product is beyond float16.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{name} holds NaN or infinity: the file is damaged or malicious")
    for name, entry in config.layers.items():
        _check_magnitude(name, entry, tensors)
        _check_codes(name, entry, tensors)


def base_of(entry: LayerEntry, owner: str, tensors: Mapping[str, Tensor]) -> Tensor:
    """Return where each codebook begins in the pool: int64 (S + 1,).

    Raises
    ------
    CheckpointError
        If stored codebook sizes are not positive or do not add up to the pool.
    """
    if not entry.ragged:
        return torch.arange(entry.scopes + 1) * (entry.pool_rows // entry.scopes)
    sizes = tensors[f"{owner}.sizes"].long()
    largest = int(sizes.max())
    if (
        int(sizes.min()) < 1
        or int(sizes.sum()) != entry.pool_rows
        or code_bits(largest) != entry.code_bits
        or largest == int(sizes.min())
    ):
        raise CheckpointError(
            f"{owner}.sizes are not the sizes of codebooks that fill a pool of "
            f"{entry.pool_rows} codewords with codes of {entry.code_bits} bits"
        )
    return torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])


def _check_magnitude(name: str, entry: LayerEntry, tensors: Mapping[str, Tensor]) -> None:
    scale = _largest(tensors.get(f"{name}.scale"))
    if isinstance(entry.codec, ScalarCodec):
        largest = scale * (2**entry.codec.bits - 1)
    else:
        largest = scale * _largest(tensors[f"{entry.pool_of or name}.pool"])
    if largest > LARGEST_WEIGHT:
        raise CheckpointError(
            f"{name}: scale times codeword reaches {largest:.6g}: expected at most {LARGEST_WEIGHT}"
        )


def _check_codes(name: str, entry: LayerEntry, tensors: Mapping[str, Tensor]) -> None:
    packed = tensors[f"{name}.weight"]
    count = entry.shape[0] * entry.positions
    if not check_padding(packed, entry.code_bits, count):
        raise CheckpointError(f"{name}.weight has bits behind its last code: the file is damaged")
    if isinstance(entry.codec, ScalarCodec):
        return  # every code of the width is a point of the grid
    base = base_of(entry, entry.pool_of or name, tensors)
    scope_of = scope_of_positions(entry.codec.scope, entry.positions, entry.codec.group)
    codes = unpack(packed, entry.code_bits, count).view(entry.shape[0], entry.positions)
    excess = codes_beyond(codes, base, scope_of)
    if excess:
        raise CheckpointError(
            f"{name}.weight holds {excess} codes that lie beyond their codebook: "
            "the file is damaged"
        )


def _largest(tensor: Tensor | None) -> float:
    return 1.0 if tensor is None else float(tensor.float().abs().max())
