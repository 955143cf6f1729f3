"""Named arrays in an npz file: written atomically, refused from the header before allocation."""

from __future__ import annotations

import os
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from dpqlab.errors import CheckpointError

_MEMBER_LIMIT = 1 << 30  # bytes of one array once unpacked; stops zip bombs
# everything that zipfile, zlib and numpy raise for a file that is not what it should be
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, RuntimeError)


@dataclass(frozen=True, kw_only=True)
class ArraySpec:
    """What an array of a file must look like.

    Parameters
    ----------
    kind
        numpy kind codes that are accepted, such as ``"f"`` or ``"iu"``; ``"U"`` is text.
    shape
        One entry a dimension; ``None`` accepts any size. ``()`` is a scalar.
    optional
        Whether the file may lack it.
    """

    kind: str
    shape: tuple[int | None, ...] = ()
    optional: bool = False


def write_npz(path: str | os.PathLike[str], arrays: Mapping[str, Any]) -> Path:
    """Write ``arrays`` as a compressed npz file; the target appears whole or not at all."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(
        dir=target.parent, prefix=f".{target.name}.", suffix=".part"
    )
    try:
        with os.fdopen(descriptor, "wb") as file:
            _save(file, arrays)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return target


def read_npz(path: str | os.PathLike[str], specs: Mapping[str, ArraySpec]) -> dict[str, np.ndarray]:
    """Read the arrays named in ``specs``; anything else about the file is an error.

    Every dtype and shape is checked from the npy headers before an array is allocated. Nothing is
    ever unpickled.

    Raises
    ------
    CheckpointError
        The file is missing or not an npz file, an array is missing, unknown, of a wrong dtype or
        shape, absurdly large, cut short, or holds a NaN or an infinity.
    """
    source = Path(path)
    if not source.is_file():
        raise CheckpointError(f"{source} is no file; expected an npz with {', '.join(specs)}.")
    try:
        with zipfile.ZipFile(source) as archive:
            headers = {name.removesuffix(".npy"): name for name in archive.namelist()}
            _check_names(source, set(headers), specs)
            return {
                key: _read_member(archive, headers[key], source, spec)
                for key, spec in specs.items()
                if key in headers
            }
    except _DAMAGE as error:
        raise CheckpointError(
            f"{source} cannot be read as an npz file: {error}. Make it again."
        ) from error


def _save(file: IO[bytes], arrays: Mapping[str, Any]) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for key, value in arrays.items():
            # a fixed date, so that equal arrays make equal files
            member = zipfile.ZipInfo(f"{key}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            member.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(member, "w", force_zip64=True) as stream:
                np.lib.format.write_array(stream, np.asarray(value), allow_pickle=False)


def text(value: np.ndarray) -> str:
    """Return the text held by a zero-dimensional unicode array."""
    return str(value[()])


def _check_names(source: Path, found: set[str], specs: Mapping[str, ArraySpec]) -> None:
    required = {key for key, spec in specs.items() if not spec.optional}
    if missing := sorted(required - found):
        raise CheckpointError(
            f"{source} lacks the arrays {missing}; it holds {sorted(found)}. Make it again."
        )
    if unknown := sorted(found - set(specs)):
        raise CheckpointError(f"{source} holds unknown arrays {unknown}; expected {sorted(specs)}.")


def _read_member(archive: zipfile.ZipFile, name: str, source: Path, spec: ArraySpec) -> np.ndarray:
    with archive.open(name) as stream:
        _check_header(stream, f"{name} of {source}", spec)
    with archive.open(name) as stream:
        array = np.lib.format.read_array(stream, allow_pickle=False)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise CheckpointError(
            f"{name} of {source} holds a NaN or an infinity. Make the file again."
        )
    return array


def _check_header(stream: IO[bytes], what: str, spec: ArraySpec) -> None:
    version = np.lib.format.read_magic(stream)
    reader = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in reader:
        raise CheckpointError(f"{what} has npy version {version}; expected 1.0 or 2.0.")
    shape, _, dtype = reader[version](stream)
    if dtype.kind not in spec.kind:
        raise CheckpointError(f"{what} has dtype {dtype}; expected kind {' or '.join(spec.kind)}.")
    fits = len(shape) == len(spec.shape) and all(
        want is None or got == want for got, want in zip(shape, spec.shape, strict=True)
    )
    if not fits:
        raise CheckpointError(f"{what} has shape {shape}; expected {spec.shape} (None: any size).")
    if (size := int(np.prod(shape, dtype=object)) * dtype.itemsize) > _MEMBER_LIMIT:
        raise CheckpointError(f"{what} would take {size} bytes; the limit is {_MEMBER_LIMIT}.")
