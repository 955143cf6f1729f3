"""Mutations of a small compressed folder that know its structure, and what must hold afterwards.

A mutation is a series of choices; whoever makes them, hypothesis or a plain generator of random
numbers, passes ``choose``. Hashes are made to fit afterwards in nine of ten cases: they are no
defence against whoever writes the file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from dpqlab.checkpoint.layout import CONFIG, MANIFEST, MODEL_INDEX, SCHEDULER, SINGLE_SHARD
from dpqlab.checkpoint.manifest import FileRecord, manifest_bytes, sha256_of
from dpqlab.nn.linear import CompressedLinear
from tests.fuzz.decode import decoded

Files = dict[str, bytes]
Choose = Callable[[Sequence[Any]], Any]

DOCUMENTS = (CONFIG, SCHEDULER, MODEL_INDEX)
TARGETS = (CONFIG, CONFIG, "header", "header", "payload", "payload", "payload", "bytes", SCHEDULER)
VALUES: tuple[Any, ...] = (
    *(0, 1, -1, 2, 3, 7, 8, 16, 255, 256, 2**16, 2**31, 2**53, 2**64, 10**400, 0.5, -0.0, 1e308),
    *(float("nan"), float("inf"), True, False, None, "", "x", "../../x", "/etc/passwd", "<script>"),
    *("U8", "F16", "BF16", "I32", "F8_E4M3", "float32", "a" * 5000, "\x00", "\ud800"),
    *([], {}, [[]], [0], [1, 2], [2**31, 2**31], {"x": {}}, ["x", ["y"]], [-1], [0.5], [None]),
)
BYTES = (0, 1, 0x0A, 0x7B, 0x7C, 0x7F, 0x80, 0xFB, 0xFC, 0xFF)


def read_files(folder: Path) -> Files:
    """Return the content of all files of a folder, by path."""
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def mutated(good: Files, choose: Choose) -> Files:
    """Return the files with one to three things changed."""
    files = dict(good)
    for _ in range(choose((1, 1, 2, 3))):
        target = choose(TARGETS)
        if target in DOCUMENTS:
            files[target] = _json(files[target], choose)
        elif target == "header":
            files[SINGLE_SHARD] = _header(files[SINGLE_SHARD], choose)
        elif target == "payload":
            files[SINGLE_SHARD] = _payload(files[SINGLE_SHARD], choose)
        else:
            path = choose((CONFIG, SINGLE_SHARD, MANIFEST, MODEL_INDEX, SCHEDULER))
            files[path] = _raw(files[path], choose)
    if choose(range(10)):
        files[MANIFEST] = sealed(files)
    return files


def sealed(files: Files) -> bytes:
    """Return a manifest that fits these files."""
    records = {
        path: FileRecord(size=len(data), sha256=sha256_of(data))
        for path, data in files.items()
        if path != MANIFEST
    }
    return manifest_bytes(records)


def write_files(folder: Path, files: Files, before: Files) -> None:
    """Write those of ``files`` that differ from what the folder holds."""
    for path, data in files.items():
        if data is not before.get(path):
            (folder / path).write_bytes(data)


def disagreement(model: nn.Module, files: Files) -> str | None:
    """Compare every compressed layer with numpy's reading of the files; name what differs."""
    for name, module in model.named_modules(remove_duplicate=False):
        if not isinstance(module, CompressedLinear):
            continue
        ours = module.decode(torch.float32).numpy()
        theirs = decoded(files[CONFIG], files[SINGLE_SHARD], name)
        if theirs is None:
            continue  # a tied copy, compared under its first name
        if not (np.isfinite(ours).all() and np.array_equal(ours, theirs)):
            return name
    return None


def _json(data: bytes, choose: Choose) -> bytes:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return data
    return _dumped(_edited(value, choose))


def _dumped(value: Any) -> bytes:
    return json.dumps(value).encode()


def _edited(value: Any, choose: Choose) -> Any:
    """Walk down to somewhere, and change, remove, copy or nudge what is there."""
    if isinstance(value, dict | list) and value and choose((True, True, True, False)):
        keys = list(value) if isinstance(value, dict) else range(len(value))
        key, action = choose(keys), choose(("down", "down", "down", "drop", "copy", "add"))
        if action == "down":
            value[key] = _edited(value[key], choose)
        elif action == "drop":
            del value[key]
        elif action == "copy":
            value[choose(keys)] = value[key]
        elif isinstance(value, dict):
            value[choose(("x", "../x", "pool_of", "table_rows", "auto_map", ""))] = choose(VALUES)
        else:
            value.append(choose(VALUES))
        return value
    if type(value) is int:
        return choose((value + 1, value - 1, value * 2, -value, 2.0, *VALUES))
    return choose(VALUES)


def _header(data: bytes, choose: Choose) -> bytes:
    length = int.from_bytes(data[:8], "little")
    if choose(range(12)) == 0:
        return choose((0, 1, length + 1, 10**8, 2**63, 2**64 - 1)).to_bytes(8, "little") + data[8:]
    text = _json(data[8 : 8 + length], choose)
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def _payload(data: bytes, choose: Choose) -> bytes:
    start = min(len(data), 8 + int.from_bytes(data[:8], "little"))
    if start >= len(data):
        return data
    at = choose(range(start, len(data)))
    return data[:at] + bytes([choose(BYTES)]) + data[at + 1 :]


def _raw(data: bytes, choose: Choose) -> bytes:
    if not data:
        return b"x"
    at, action = choose(range(len(data))), choose(("cut", "flip", "insert", "repeat", "drop"))
    if action == "cut":
        return data[:at]
    if action == "flip":
        return data[:at] + bytes([data[at] ^ (1 << choose(range(8)))]) + data[at + 1 :]
    if action == "insert":
        return data[:at] + choose((b"\x00", b"\xff", b"[", b"{", b'"', b"\n" * 100)) + data[at:]
    return data[:at] + data[at : at + 16] * (2 if action == "repeat" else 0) + data[at + 16 :]
