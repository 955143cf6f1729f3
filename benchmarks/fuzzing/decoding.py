"""A second decoder of stored layers: numpy, one bit after the other, written from the format alone.

It shares no code with dpqlab, so that both must be wrong in the same way to agree on a mistake.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks.fuzzing.container import parts_of

DTYPES: dict[str, Any] = {"U8": np.uint8, "F16": np.float16, "F32": np.float32, "I32": np.int32}


def tensors_of(shard: bytes) -> dict[str, np.ndarray]:
    """Parse a safetensors file; bfloat16 becomes float32."""
    found: dict[str, np.ndarray] = {}
    for part in parts_of(shard):
        if part.dtype == "BF16":
            wide = np.frombuffer(part.data, np.uint16).astype(np.uint32) << 16
            found[part.name] = wide.view(np.float32).reshape(part.shape)
        else:
            found[part.name] = np.frombuffer(part.data, DTYPES[part.dtype]).reshape(part.shape)
    return found


def decoded(entry: Mapping[str, Any], name: str, tensors: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the weights of a layer, float32 (out, in).

    Parameters
    ----------
    entry
        What ``quantization_config`` says of it.
    name
        Its name.
    tensors
        All that the weight files hold.

    Raises
    ------
    IndexError
        For a code or an entry of a table that points beyond what there is.
    """
    if entry["codec"]["family"] == "scalar":
        return _scalar(entry, name, tensors)
    codec, owner = entry["codec"], entry.get("pool_of") or name
    rows, columns = entry["shape"]
    positions = -(-columns // codec["d"])  # the last sub-vector may reach beyond the row
    codes = integers(tensors[f"{name}.weight"], entry["code_bits"], rows * positions)
    codes = codes.reshape(rows, positions)
    scope = scopes_of(codec, positions)
    pool = tensors[f"{owner}.pool"].astype(np.float32)
    table, count = None, len(pool)
    if "table_rows" in entry:
        count = entry["table_rows"]
        width = max(1, (len(pool) - 1).bit_length())
        table = integers(tensors[f"{name}.table"], width, count)
    sizes = tensors.get(f"{name if table is not None else owner}.sizes")
    if sizes is None:
        parts = int(scope[-1]) + 1
        sizes = np.full(parts, count // parts)
    if bool((codes >= sizes[scope]).any()):
        raise IndexError(f"{name} has a code beyond its codebook")
    base = np.concatenate([[0], np.cumsum(sizes)])
    at = base[scope][None] + codes
    weight = pool[at if table is None else table[at]].reshape(rows, -1)[:, :columns]
    scale = tensors.get(f"{name}.scale")
    return weight if scale is None else weight * scale.astype(np.float32).reshape(rows, 1)


def integers(packed: np.ndarray, width: int, count: int) -> np.ndarray:
    """Read ``count`` numbers of ``width`` bits, least significant bit first: int64 (count,).

    Raises
    ------
    ValueError
        If bits behind the last number are set.
    """
    bits = np.unpackbits(packed, bitorder="little")
    if bits[count * width :].any():
        raise ValueError("bits behind the last number are set")
    return bits[: count * width].reshape(count, width) @ (1 << np.arange(width, dtype=np.int64))


def scopes_of(codec: Mapping[str, Any], positions: int) -> np.ndarray:
    """Return which codebook each position uses: int64 (positions,)."""
    size = {"position": 1, "group": codec.get("group") or 1, "layer": positions}[codec["scope"]]
    return np.arange(positions) // size


def _scalar(entry: Mapping[str, Any], name: str, tensors: Mapping[str, np.ndarray]) -> np.ndarray:
    """Round to nearest: odd multiples of a scale, one for each group of a row."""
    rows, columns = entry["shape"]
    bits, group = entry["codec"]["bits"], entry["codec"]["group_size"]
    codes = integers(tensors[f"{name}.weight"], bits, rows * columns).reshape(rows, columns)
    scale = tensors[f"{name}.scale"].astype(np.float32)[:, np.arange(columns) // group]
    return scale * (2 * codes + 1 - 2**bits).astype(np.float32)
