"""Any single byte that changes, anywhere in a folder, is noticed."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from dpqlab.checkpoint.layout import MANIFEST, SINGLE_SHARD
from dpqlab.checkpoint.load import load_compressed
from dpqlab.checkpoint.manifest import read_manifest, verify
from dpqlab.errors import CheckpointError


def flipped(data: bytes, position: int, mask: int) -> bytes:
    changed = bytearray(data)
    changed[position] ^= mask
    return bytes(changed)


def files_of(folder: Path) -> list[str]:
    found = (file for file in folder.rglob("*") if file.is_file())
    return sorted(file.relative_to(folder).as_posix() for file in found)


def test_every_byte_of_the_manifest_counts(folder: Path) -> None:
    file = folder / MANIFEST
    data = file.read_bytes()
    source = random.Random(0)
    for position in range(len(data)):
        file.write_bytes(flipped(data, position, source.randrange(1, 256)))
        with pytest.raises(CheckpointError):
            read_manifest(folder)


def test_upper_case_hexadecimal_digits_are_no_way_around(folder: Path) -> None:
    file = folder / MANIFEST
    data = file.read_bytes()
    letters = [
        i for i, byte in enumerate(data) if byte in b"abcdef" and data[i - 1] in b"0123456789"
    ]
    assert letters
    for position in letters[:50]:
        file.write_bytes(flipped(data, position, 0x20))
        with pytest.raises(CheckpointError):
            read_manifest(folder)


def test_sampled_bytes_of_every_file_count(folder: Path) -> None:
    source = random.Random(1)
    paths = files_of(folder)
    assert len(paths) == 6
    for path in paths:
        file = folder / path
        data = file.read_bytes()
        for position in source.sample(range(len(data)), min(100, len(data))):
            file.write_bytes(flipped(data, position, source.randrange(1, 256)))
            with pytest.raises(CheckpointError):
                verify(folder)
        file.write_bytes(data)
    verify(folder)


def test_loading_refuses_flipped_bytes(folder: Path) -> None:
    source = random.Random(2)
    for path in files_of(folder):
        file = folder / path
        data = file.read_bytes()
        tries = 40 if path == SINGLE_SHARD else 6
        for position in source.sample(range(len(data)), min(tries, len(data))):
            file.write_bytes(flipped(data, position, 1 << source.randrange(8)))
            with pytest.raises(CheckpointError):
                load_compressed(folder)
        file.write_bytes(data)
    load_compressed(folder)


@pytest.mark.parametrize("path", [MANIFEST, SINGLE_SHARD, "transformer/config.json"])
def test_truncated_and_grown_files_are_refused(folder: Path, path: str) -> None:
    file = folder / path
    data = file.read_bytes()
    for changed in (data[:-1], data[: len(data) // 2], b"", data + b"\0", data + data):
        file.write_bytes(changed)
        with pytest.raises(CheckpointError):
            load_compressed(folder)


@pytest.mark.slow
def test_ten_thousand_flips_are_refused(folder: Path) -> None:
    source = random.Random(3)
    contents = {path: (folder / path).read_bytes() for path in files_of(folder)}
    for _ in range(10_000):
        path = source.choice(list(contents))
        data = contents[path]
        position = source.randrange(len(data))
        (folder / path).write_bytes(flipped(data, position, source.randrange(1, 256)))
        with pytest.raises(CheckpointError):
            verify(folder)
        (folder / path).write_bytes(data)
