"""One file written whole or not at all, with an error that says what it would have needed."""

from __future__ import annotations

from pathlib import Path

from dpqlab.checkpoint.atomic import replace_file
from dpqlab.errors import CheckpointError


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that a reader finds the old one or the new one, whatever happens.

    Raises
    ------
    CheckpointError
        If it cannot be written; what was there is unchanged.
    """
    try:
        replace_file(path, data)
    except OSError as error:
        raise CheckpointError(
            f"could not write {path}: {error.strerror or error} ({len(data)} bytes are needed); "
            "what was there is unchanged"
        ) from error
