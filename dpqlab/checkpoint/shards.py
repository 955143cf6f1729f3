"""Safetensors files: what their headers say, checked before their content is read.

The reference parser reads the content; the header is read here as well, since what matters is not
that a file is well formed but that it holds exactly the tensors that the config leads one to
expect.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from dpqlab.checkpoint.documents import (
    Json,
    as_object,
    check_extent,
    closed,
    dump_json,
    parse_json,
    shown,
)
from dpqlab.checkpoint.layout import (
    SHARD_INDEX,
    opened,
    read_bytes,
    read_exactly,
    shard_names,
)
from dpqlab.checkpoint.manifest import FileRecord, check_hash
from dpqlab.checkpoint.schema import TensorSpec
from dpqlab.errors import CheckpointError

SHARD_BYTES = 15_000_000
"""Tensor bytes to a shard: with its header it stays below 16 MB, unless one tensor is larger."""

MAX_HEADER = 8 * 2**20
_METADATA = {"format": "pt"}
_NAMES = {
    torch.uint8: "U8",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float32: "F32",
    torch.int32: "I32",
}


def pack_shards(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, bytes]]:
    """Serialize tensors into as few shards as fit, names in order; the index too if it needs one.

    One shard is in memory at a time. ``tensors`` may be mapped from files: each is read once.

    Yields
    ------
    str, bytes
        Path and content, deterministic.
    """
    from safetensors.torch import save

    groups: list[list[str]] = [[]]
    used = 0
    for name in sorted(tensors):
        size = tensors[name].nbytes
        if used and used + size > SHARD_BYTES:
            groups.append([])
            used = 0
        groups[-1].append(name)
        used += size
    paths = shard_names(len(groups))
    for path, names in zip(paths, groups, strict=True):
        shard = {name: tensors[name].detach().cpu().contiguous() for name in names}
        yield path, save(shard, metadata=_METADATA)
    if len(groups) > 1:
        where = {name: path for path, names in zip(paths, groups, strict=True) for name in names}
        total = sum(tensor.nbytes for tensor in tensors.values())
        yield SHARD_INDEX, dump_json(_index(where, total))


def check_headers(
    folder: Path, paths: list[str], expected: Mapping[str, TensorSpec], index: bytes | None
) -> None:
    """Check that the shards at ``paths`` hold exactly the ``expected`` tensors; read headers only.

    ``index`` is the content of the shard index, None for a single shard.

    Raises
    ------
    CheckpointError
        For a malformed header, or a tensor that is unexpected, missing, repeated, or of another
        dtype or shape than expected.
    """
    where: dict[str, str] = {}
    for path in paths:
        for name, spec in read_header(folder, path).items():
            if name in where:
                raise CheckpointError(f"{path} repeats the tensor {shown(name)} of {where[name]}")
            if name not in expected:
                raise CheckpointError(f"{path} holds the unexpected tensor {shown(name)}")
            if spec != expected[name]:
                raise CheckpointError(
                    f"{path}: {name} is {spec.dtype} {spec.shape}: expected "
                    f"{expected[name].dtype} {expected[name].shape}"
                )
            where[name] = path
    missing = expected.keys() - where.keys()
    if missing:
        raise CheckpointError(
            f"the tensor {min(missing)!r} and {len(missing) - 1} more are missing"
        )
    if index is not None and parse_json(index, SHARD_INDEX) != _index(where, _total(expected)):
        raise CheckpointError(f"{SHARD_INDEX} does not describe the shards beside it")


def read_header(folder: Path, path: str) -> dict[str, TensorSpec]:
    """Read and check the header of one safetensors file: dtypes, shapes, offsets, file size."""
    with opened(folder, path) as (descriptor, size):
        if size < 8:
            raise CheckpointError(f"{path} has {size} bytes: too short for a safetensors file")
        length = int.from_bytes(read_exactly(descriptor, 8, path), "little")
        if not 2 <= length <= min(MAX_HEADER, size - 8):
            raise CheckpointError(
                f"{path} claims a header of {length} bytes: the file has {size}, "
                f"and at most {MAX_HEADER} are read"
            )
        data = read_exactly(descriptor, length, path)
    check_extent(data, f"the header of {path}")
    header = as_object(parse_json(data, f"the header of {path}"))
    if header is None or header.pop("__metadata__", None) != _METADATA:
        raise CheckpointError(f"the header of {path} lacks the metadata {_METADATA}")
    specs: dict[str, TensorSpec] = {}
    spans: list[tuple[int, int]] = []
    for name, value in header.items():
        specs[name], span = _entry(value, f"{path}: the tensor {shown(name)}")
        spans.append(span)
    end = 0
    for begin, stop in sorted(spans):
        if begin != end:
            raise CheckpointError(f"{path}: tensors overlap or leave a gap at byte {end}")
        end = stop
    if end != size - 8 - length:
        raise CheckpointError(
            f"{path} has {size - 8 - length} bytes of tensors: its header speaks of {end}"
        )
    return specs


def read_shard(folder: Path, path: str, record: FileRecord | None) -> dict[str, Tensor]:
    """Read one shard into memory and parse it, if its bytes have the recorded hash.

    What is parsed are the very bytes that were hashed: the file cannot be swapped in between, nor
    shrink under a memory map.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    size = (folder / path).lstat().st_size if record is None else record.size
    data = read_bytes(folder, path, size)
    if record is not None:
        check_hash(path, hashlib.sha256(data).hexdigest(), record)
    try:
        return load(data)
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise CheckpointError(f"{path} is not a safetensors file: {shown(error, 200)}") from None


def _entry(value: Json, what: str) -> tuple[TensorSpec, tuple[int, int]]:
    fields = closed(value, what, {"dtype": str, "shape": list, "data_offsets": list})
    numbers = (*fields["shape"], *fields["data_offsets"])
    # few dimensions: the product of a million sizes would take for ever
    if (
        len(numbers) > 8
        or len(fields["data_offsets"]) != 2
        or any(type(n) is not int or n < 0 for n in numbers)
    ):
        raise CheckpointError(f"{what} has a malformed shape or malformed offsets")
    if fields["dtype"] not in _NAMES.values():
        raise CheckpointError(
            f"{what} has the dtype {shown(fields['dtype'])}, which is never stored"
        )
    spec = TensorSpec(dtype=fields["dtype"], shape=tuple(fields["shape"]))
    begin, end = fields["data_offsets"]
    if end - begin != spec.nbytes:
        raise CheckpointError(f"{what} has {end - begin} bytes: its shape and dtype need others")
    return spec, (begin, end)


def check_loaded(tensors: Mapping[str, Tensor], expected: Mapping[str, TensorSpec]) -> None:
    """Check what the reference parser read against what the headers said a moment before."""
    if {name: spec_of(tensor) for name, tensor in tensors.items()} != expected:
        raise CheckpointError("the weight files changed while they were read: try again")


def spec_of(tensor: Tensor) -> TensorSpec:
    """Return what a header would say of a tensor; the dtype is empty if it is never stored."""
    return TensorSpec(dtype=_NAMES.get(tensor.dtype, ""), shape=tuple(tensor.shape))


def _total(expected: Mapping[str, TensorSpec]) -> int:
    return sum(spec.nbytes for spec in expected.values())


def _index(where: Mapping[str, str], total: int) -> dict[str, Json]:
    names = {name: path.rpartition("/")[2] for name, path in where.items()}
    return {"metadata": {"total_size": total}, "weight_map": names}
