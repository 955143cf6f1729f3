"""manifest.json: size and SHA-256 of every file of a folder, and of itself.

The file must be the canonical JSON of what it says, so that there is no byte, not even white space,
that could change unnoticed. It guards against damage, not against a forger, who can hash as well:
everything else about a folder is checked as if the manifest were not there.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dpqlab.checkpoint.documents import bounded, closed, dump_json, parse_json, shown
from dpqlab.checkpoint.layout import MANIFEST, MAX_SHARD, list_files, opened, read_bytes
from dpqlab.errors import CheckpointError

VERSION = 1
_HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class FileRecord:
    """Size in bytes and SHA-256 (64 hexadecimal digits) of one file."""

    size: int
    sha256: str


def manifest_bytes(files: Mapping[str, FileRecord]) -> bytes:
    """Return the content of manifest.json for these files."""
    body = {
        "format": "dpqlab-manifest",
        "version": VERSION,
        "files": {path: {"size": r.size, "sha256": r.sha256} for path, r in files.items()},
    }
    return dump_json(body | {"sha256": sha256_of(dump_json(body))})


def read_manifest(folder: Path) -> dict[str, FileRecord]:
    """Read and check manifest.json: its schema, its own hash, its canonical form.

    Raises
    ------
    CheckpointError
        If it is anything but what :func:`manifest_bytes` writes.
    """
    data = read_bytes(folder, MANIFEST)
    fields = closed(
        parse_json(data, MANIFEST),
        MANIFEST,
        {"format": str, "version": int, "files": dict, "sha256": str},
    )
    if fields["format"] != "dpqlab-manifest" or fields["version"] != VERSION:
        raise CheckpointError(
            f"{MANIFEST} has an unknown format or version: this dpqlab reads version {VERSION}"
        )
    files: dict[str, FileRecord] = {}
    for path, value in fields["files"].items():
        record = closed(value, f"{MANIFEST}: an entry", {"size": int, "sha256": str})
        bounded(record["size"], f"{MANIFEST}: a size", 0, MAX_SHARD)
        if not _HASH.fullmatch(record["sha256"]):
            raise CheckpointError(f"{MANIFEST}: a hash is not 64 hexadecimal digits")
        files[path] = FileRecord(size=record["size"], sha256=record["sha256"])
    if not hmac.compare_digest(manifest_bytes(files), data):
        raise CheckpointError(f"{MANIFEST} does not match its own SHA-256: the file is damaged")
    return files


def check_listing(folder: Path) -> dict[str, FileRecord]:
    """Compare the names and sizes of a folder's files with its manifest; return the manifest."""
    sizes = list_files(folder)
    records = read_manifest(folder)
    sizes.pop(MANIFEST)
    if sizes.keys() != records.keys():
        odd = min(sizes.keys() ^ records.keys())
        where = "in the folder but not in" if odd in sizes else "missing, but listed in"
        raise CheckpointError(
            f"{shown(odd)} is {where} {MANIFEST}: the folder is not as it was saved"
        )
    for path, record in records.items():
        if sizes[path] != record.size:
            raise CheckpointError(
                f"{path} has {sizes[path]} bytes, {record.size} were saved: the file is damaged"
            )
    return records


def verify(folder: Path) -> dict[str, FileRecord]:
    """Check every byte of a folder against its manifest, in constant memory.

    Returns
    -------
    dict
        Size and hash of every file but the manifest, by path.

    Raises
    ------
    CheckpointError
        At the first file that differs, is missing, or should not be there.
    """
    records = check_listing(folder)
    check_hashes(folder, records)
    return records


def check_hashes(folder: Path, records: Mapping[str, FileRecord]) -> None:
    """Raise :class:`CheckpointError` if a file does not have the recorded hash."""
    for path, record in records.items():
        check_hash(path, hash_file(folder, path), record)


def hash_file(folder: Path, path: str) -> str:
    """Return the SHA-256 of one file of a folder."""
    digest = hashlib.sha256()
    with opened(folder, path) as (descriptor, _):
        while chunk := os.read(descriptor, 1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def check_hash(path: str, found: str, record: FileRecord) -> None:
    """Raise :class:`CheckpointError` if the hash of a file is not the recorded one."""
    if not hmac.compare_digest(found, record.sha256):
        raise CheckpointError(f"{path} does not match its SHA-256: the file is damaged")


def sha256_of(data: bytes) -> str:
    """Return the SHA-256 of ``data``, 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()
