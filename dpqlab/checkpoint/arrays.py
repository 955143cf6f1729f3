"""Named arrays in an npz file: written atomically, refused from the header before allocation."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from dpqlab.checkpoint.documents import Json, as_object, kind_of_json, parse_json
from dpqlab.checkpoint.records import SEED_BITS, FileKind, check_size, reading
from dpqlab.checkpoint.whole import write_whole

ABOUT = "about"
"""Name of the array that holds a description: JSON, as bytes."""
_MEMBER_LIMIT = 1 << 30  # bytes of one array once unpacked
_START = b"PK\x03\x04"
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # what numpy and write_npz write


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
    dtype
        The one dtype that is accepted, such as ``"uint8"``; empty accepts all of the kind.
    """

    kind: str
    shape: tuple[int | None, ...] = ()
    optional: bool = False
    dtype: str = ""


def write_npz(path: str | os.PathLike[str], arrays: Mapping[str, Any]) -> Path:
    """Write ``arrays`` as a compressed npz file; the target appears whole or not at all.

    Raises
    ------
    CheckpointError
        If it cannot be written; what was there is unchanged.
    """
    target = Path(path)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for key, value in arrays.items():
            # a fixed date, so that equal arrays make equal files
            member = zipfile.ZipInfo(f"{key}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            member.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(member, "w", force_zip64=True) as stream:
                np.lib.format.write_array(stream, np.asarray(value), allow_pickle=False)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_whole(target, buffer.getvalue())
    return target


def write_described(
    path: str | os.PathLike[str], about: Mapping[str, Json], arrays: Mapping[str, Any]
) -> Path:
    """Write ``arrays`` with a description of them, JSON values; see :func:`write_npz`."""
    text = json.dumps(about, allow_nan=False).encode()
    return write_npz(path, {ABOUT: np.frombuffer(text, dtype=np.uint8), **arrays})


def read_npz(
    path: str | os.PathLike[str],
    specs: Mapping[str, ArraySpec],
    *,
    kind: FileKind,
    others: ArraySpec | None = None,
) -> dict[str, np.ndarray]:
    """Read the arrays named in ``specs``; anything else about the file is an error.

    Every dtype and shape is checked from the npy headers before an array is allocated. Nothing is
    ever unpickled.

    Parameters
    ----------
    path
        The file.
    specs
        What its arrays look like, by name.
    kind
        What the file is, for the limit and the message.
    others
        What arrays look like that are not named; None allows none.

    Raises
    ------
    CheckpointError
        The file is missing or not an npz file, an array is missing, unknown, of a wrong dtype or
        shape, absurdly large, cut short, or holds a NaN or an infinity.
    """
    source = Path(path)
    with reading(source, kind):
        check_size(source, kind)
        with source.open("rb") as file, zipfile.ZipFile(file) as archive:
            file.seek(0)
            if file.read(len(_START)) != _START:  # zipfile would take an archive behind other data
                raise ValueError("it is no npz file")
            members = _members(archive, kind.limit)
            _check_names(members.keys(), specs, others)
            expected = {name: specs.get(name, others) for name in (*specs, *members)}
            return {
                name: _read_member(archive, members[name], spec)
                for name, spec in expected.items()
                if name in members and spec is not None
            }


def read_described(
    path: str | os.PathLike[str],
    specs: Mapping[str, ArraySpec],
    *,
    kind: FileKind,
    others: ArraySpec | None = None,
) -> tuple[dict[str, Json], dict[str, np.ndarray]]:
    """Read what :func:`write_described` wrote: the description and the arrays.

    Parameters and errors are those of :func:`read_npz`.
    """
    with reading(path, kind):
        described = {ABOUT: ArraySpec(kind="u", dtype="uint8", shape=(None,)), **specs}
        arrays = read_npz(path, described, kind=kind, others=others)
        text = arrays.pop(ABOUT).tobytes()
        about = as_object(found := parse_json(text, "its description", bits=SEED_BITS))
        if about is None:
            raise ValueError(f"its description is {kind_of_json(found)}: expected an object")
        return about, arrays


def names_in(path: Path) -> frozenset[str]:
    """Return the names of the arrays of an npz file, unread; none for what is no such file."""
    try:
        with zipfile.ZipFile(path) as archive:
            return frozenset(name.removesuffix(".npy") for name in archive.namelist())
    except (OSError, ValueError, RuntimeError, zipfile.BadZipFile):
        return frozenset()


def text(value: np.ndarray) -> str:
    """Return the text held by a zero-dimensional unicode array."""
    return str(value[()])


def _members(archive: zipfile.ZipFile, limit: int) -> dict[str, zipfile.ZipInfo]:
    """Return the entries of an archive by name of their array, none of them read yet."""
    infos = archive.infolist()
    if (total := sum(info.file_size for info in infos)) > limit:
        raise ValueError(f"it unpacks to {total} bytes; expected no more than {limit} bytes")
    if foreign := [info.filename for info in infos if info.compress_type not in _METHODS]:
        raise ValueError(f"{foreign[0]} is packed in a way that npz files are not")
    members = {info.filename.removesuffix(".npy"): info for info in infos}
    if len(members) != len(infos):
        raise ValueError("it holds two arrays of one name")
    return members


def _check_names(found: Set[str], specs: Mapping[str, ArraySpec], others: ArraySpec | None) -> None:
    required = {key for key, spec in specs.items() if not spec.optional}
    if missing := sorted(required - found):
        raise ValueError(f"it lacks the arrays {missing}; it holds {sorted(found)}")
    if others is None and (unknown := sorted(found - specs.keys())):
        raise ValueError(f"it holds unknown arrays {unknown}; expected {sorted(specs)}")


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, spec: ArraySpec) -> np.ndarray:
    with archive.open(info) as stream:
        _check_header(stream, info, spec)
    with archive.open(info) as stream:
        array = np.lib.format.read_array(stream, allow_pickle=False)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(f"{info.filename} holds a NaN or an infinity")
    if array.dtype.kind == "U":
        array.tolist()  # raises here for numbers that are no characters, not where it is shown
    return array


def _check_header(stream: IO[bytes], info: zipfile.ZipInfo, spec: ArraySpec) -> None:
    what = info.filename
    version = np.lib.format.read_magic(stream)
    reader = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in reader:
        raise ValueError(f"{what} has npy version {version}; expected 1.0 or 2.0")
    shape, _, dtype = reader[version](stream)
    if dtype.kind not in spec.kind:
        raise ValueError(f"{what} has dtype {dtype}; expected kind {' or '.join(spec.kind)}")
    if spec.dtype and dtype != np.dtype(spec.dtype):
        raise ValueError(f"{what} has dtype {dtype}; expected {spec.dtype}")
    fits = len(shape) == len(spec.shape) and all(
        want is None or got == want for got, want in zip(shape, spec.shape, strict=True)
    )
    if not fits:
        raise ValueError(f"{what} has shape {shape}; expected {spec.shape} (None: any size)")
    size = int(np.prod(shape, dtype=object)) * dtype.itemsize
    if size > _MEMBER_LIMIT:
        raise ValueError(f"{what} would take {size} bytes; the limit is {_MEMBER_LIMIT}")
    if stream.tell() + size != info.file_size:
        raise ValueError(
            f"{what} announces {size} bytes behind its header; it holds "
            f"{info.file_size - stream.tell()}"
        )
