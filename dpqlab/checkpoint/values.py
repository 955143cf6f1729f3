"""What stored tensors may contain: codes that exist, finite numbers, products that stay finite."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from dpqlab.checkpoint.schema import LayerEntry, QuantizationConfig
from dpqlab.core import ScalarCodec, check_padding, code_bits, scope_of_positions, unpack
from dpqlab.errors import CheckpointError
from dpqlab.nn.codebook_tensors import codes_beyond

LARGEST_WEIGHT = 65_504.0
"""The largest float16: decoded weights are finite in every dtype a model can be loaded in."""


def check_values(config: QuantizationConfig, tensors: Mapping[str, Tensor]) -> None:
    """Check the content of all tensors, whose names, dtypes and shapes are right already.

    Raises
    ------
    CheckpointError
        For a value that is not finite, a code beyond its codebook, an entry of a table beyond the
        pool, padding bits that are not zero, or scales and codewords whose product is beyond
        float16.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{name} holds NaN or infinity: the file is damaged or malicious")
    for name, entry in config.layers.items():
        _check_magnitude(name, entry, tensors)
        _check_table(name, entry, tensors)
        _check_codes(name, entry, tensors)


def base_of(name: str, entry: LayerEntry, tensors: Mapping[str, Tensor]) -> Tensor:
    """Return where each codebook of a layer begins, in its table or pool: int64 (S + 1,).

    Raises
    ------
    CheckpointError
        If stored codebook sizes are not positive or do not add up to the table or pool.
    """
    if not entry.ragged:
        return torch.arange(entry.scopes + 1) * (entry.rows // entry.scopes)
    owner = entry.book_of(name)
    sizes = tensors[f"{owner}.sizes"].long()
    largest = int(sizes.max())
    if (
        int(sizes.min()) < 1
        or int(sizes.sum()) != entry.rows
        or code_bits(largest) != entry.code_bits
        or largest == int(sizes.min())
    ):
        raise CheckpointError(
            f"{owner}.sizes are not the sizes of codebooks that fill a "
            f"{'pool' if entry.table_rows is None else 'table'} of {entry.rows} codewords with "
            f"codes of {entry.code_bits} bits"
        )
    return torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])


def table_of(name: str, entry: LayerEntry, tensors: Mapping[str, Tensor]) -> Tensor | None:
    """Return the table of the layer ``name``, unpacked to int64 (T,), or None without one."""
    if entry.table_rows is None:
        return None
    return unpack(tensors[f"{name}.table"], entry.entry_bits, entry.table_rows)


def _check_table(name: str, entry: LayerEntry, tensors: Mapping[str, Tensor]) -> None:
    table = table_of(name, entry, tensors)
    if table is None or entry.table_rows is None:
        return
    if not check_padding(tensors[f"{name}.table"], entry.entry_bits, entry.table_rows):
        raise CheckpointError(f"{name}.table has bits behind its last entry: the file is damaged")
    excess = int((table >= entry.pool_rows).sum())
    if excess:
        raise CheckpointError(
            f"{name}.table holds {excess} entries that lie beyond the pool of {entry.pool_rows} "
            "codewords: the file is damaged"
        )


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
    base = base_of(name, entry, tensors)
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
