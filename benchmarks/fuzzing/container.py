"""Safetensors files taken apart and put together again, without a library that would refuse to.

What is written is whatever one asks for: :func:`joined` makes a container that is well formed
around tensors that need not be; :func:`with_header` puts any header before the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Part:
    """One tensor of a file: its name, dtype and shape as the header has them, and its bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: bytes


def header_of(shard: bytes) -> tuple[dict[str, Any], int]:
    """Return the header of a file, and where its tensors begin.

    Raises
    ------
    ValueError
        If it has no header that is a JSON object of tensors.
    """
    length = int.from_bytes(shard[:8], "little")
    header = json.loads(shard[8 : 8 + length])
    if not isinstance(header, dict):
        raise ValueError("the header is no object")
    return header, 8 + length


def parts_of(shard: bytes) -> list[Part]:
    """Take a good file apart."""
    header, start = header_of(shard)
    header.pop("__metadata__", None)
    return [
        Part(
            name=name,
            dtype=entry["dtype"],
            shape=tuple(entry["shape"]),
            data=shard[start + entry["data_offsets"][0] : start + entry["data_offsets"][1]],
        )
        for name, entry in header.items()
    ]


def joined(parts: Sequence[Part]) -> bytes:
    """Put tensors together, one behind the other; of two with one name the header has the last."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for part in parts:
        offsets = [at, at := at + len(part.data)]
        header[part.name] = {"dtype": part.dtype, "shape": part.shape, "data_offsets": offsets}
    return with_header(header, b"".join(part.data for part in parts))


def with_header(header: Any, data: bytes) -> bytes:
    """Put a header, of whatever JSON, before the bytes of tensors."""
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data
