"""SHA256SUMS: the hashes of a folder's files as coreutils' ``sha256sum`` writes and checks them."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path, PurePosixPath

from dpqlab.errors import CheckpointError

SUMS = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-f]{64}) [ *](\S.*)")
_LONGEST = 1 << 20  # bytes of the list


def read_sums(folder: Path) -> dict[str, str]:
    """Read the list: SHA-256 by path with ``/``.

    Raises
    ------
    CheckpointError
        If a line is malformed, names a file twice, or names one outside the folder.
    """
    path = folder / SUMS
    if path.stat().st_size > _LONGEST:
        raise CheckpointError(f"{path} has over {_LONGEST} bytes: expected a list of hashes")
    sums: dict[str, str] = {}
    for number, line in enumerate(path.read_text("utf-8", errors="replace").splitlines(), 1):
        found = _LINE.fullmatch(line)
        name = PurePosixPath(found[2]) if found else None
        if not found or name is None or name.is_absolute() or ".." in name.parts:
            raise CheckpointError(
                f"{path}, line {number}: expected a SHA-256, two spaces and a path in the folder"
            )
        if str(name) in sums:
            raise CheckpointError(f"{path}, line {number}: {name} is listed twice")
        sums[str(name)] = found[1]
    if not sums:
        raise CheckpointError(f"{path} lists no file: make it again with sha256sum")
    return sums


def check_sums(folder: Path) -> int:
    """Compare every file of a folder with its list, and return how many there are.

    Raises
    ------
    CheckpointError
        At the first file that is missing, differs, or is not listed. Hidden files need not be.
    """
    sums = read_sums(folder)
    for name, expected in sums.items():
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder / name} is missing: {SUMS} lists it")
        with (folder / name).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != expected:
                raise CheckpointError(
                    f"{folder / name} does not match its SHA-256 in {SUMS}: the file is damaged"
                )
    here = {p.relative_to(folder).as_posix() for p in folder.rglob("[!.]*") if p.is_file()}
    if unlisted := here - sums.keys() - {SUMS}:
        raise CheckpointError(
            f"{folder / min(unlisted)} is not listed in {SUMS}: where is it from?"
        )
    return len(sums)
