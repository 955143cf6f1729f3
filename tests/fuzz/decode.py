"""A second decoder of stored layers: numpy, one bit after the other, written from the format alone.

It shares no code with dpqlab, so that both must be wrong in the same way to agree on a mistake.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

DTYPES = {"U8": np.uint8, "F16": np.float16, "F32": np.float32, "I32": np.int32}


def tensors_of(shard: bytes) -> dict[str, np.ndarray]:
    """Parse a safetensors file; bfloat16 becomes float32."""
    length = int.from_bytes(shard[:8], "little")
    header = json.loads(shard[8 : 8 + length])
    header.pop("__metadata__", None)
    found: dict[str, np.ndarray] = {}
    for name, entry in header.items():
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        data = shard[begin:end]
        if entry["dtype"] == "BF16":
            wide = np.frombuffer(data, np.uint16).astype(np.uint32) << 16
            found[name] = wide.view(np.float32).reshape(entry["shape"])
        else:
            found[name] = np.frombuffer(data, DTYPES[entry["dtype"]]).reshape(entry["shape"])
    return found


def integers(packed: np.ndarray, width: int, count: int) -> np.ndarray:
    """Read ``count`` numbers of ``width`` bits, least significant bit first: int64 (count,)."""
    if width == 0:
        return np.zeros(count, np.int64)
    bits = np.unpackbits(packed, bitorder="little")[: count * width].reshape(count, width)
    return bits.astype(np.int64) @ (1 << np.arange(width, dtype=np.int64))


def scopes_of(codec: dict[str, Any], positions: int) -> np.ndarray:
    """Return which codebook each position uses: int64 (positions,)."""
    size = {"position": 1, "group": codec.get("group") or 1, "layer": positions}[codec["scope"]]
    return np.arange(positions) // size


def decoded(config: bytes, shard: bytes, name: str) -> np.ndarray | None:
    """Return the weights of a codebook layer, float32 (out, in); None if it is none."""
    layers = json.loads(config)["quantization_config"]["layers"]
    entry = layers.get(name)
    if entry is None or entry["codec"]["family"] != "codebook":
        return None
    tensors, codec = tensors_of(shard), entry["codec"]
    rows, columns = entry["shape"]
    positions = -(-columns // codec["d"])  # the last sub-vector may reach beyond the row
    codes = integers(tensors[f"{name}.weight"], entry["code_bits"], rows * positions)
    scope, owner = scopes_of(codec, positions), entry.get("pool_of") or name
    pool = tensors[f"{owner}.pool"].astype(np.float32)
    table, count = None, len(pool)
    if "table_rows" in entry:
        width = max(len(pool) - 1, 0).bit_length()
        count = entry["table_rows"]
        table = integers(tensors[f"{name}.table"], width, count)
    sizes = tensors.get(f"{name if table is not None else owner}.sizes")
    if sizes is None:
        parts = int(scope[-1]) + 1
        sizes = np.full(parts, count // parts)
    base = np.concatenate([[0], np.cumsum(sizes)])
    at = base[scope][None] + codes.reshape(rows, positions)
    weight = pool[at if table is None else table[at]].reshape(rows, -1)[:, :columns]
    scale = tensors.get(f"{name}.scale")
    return weight if scale is None else weight * scale.astype(np.float32).reshape(rows, 1)
