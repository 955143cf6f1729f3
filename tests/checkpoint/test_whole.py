"""A file is written whole, or what was there stays and the error says what was needed."""

from __future__ import annotations

from pathlib import Path

import pytest

from dpqlab.checkpoint.whole import write_whole
from dpqlab.errors import CheckpointError
from tests.checkpoint.test_atomic import file_size_limit


def test_it_creates_and_replaces(tmp_path: Path) -> None:
    for data in (b"old", b"new"):
        write_whole(tmp_path / "file", data)
        assert (tmp_path / "file").read_bytes() == data
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_disk_that_is_full_is_said_with_the_bytes(tmp_path: Path) -> None:
    write_whole(tmp_path / "file", b"old")
    with (
        file_size_limit(1000),
        pytest.raises(CheckpointError, match=r"could not write .*file: .* \(5000 bytes are needed"),
    ):
        write_whole(tmp_path / "file", b"x" * 5000)
    assert (tmp_path / "file").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
