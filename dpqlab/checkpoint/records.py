"""Files of records, read alike: one error for whatever a file is instead, values checked by type.

A loader opens its file within :func:`reading` and builds what it returns there; everything that the
bytes, the JSON or the values are not ends as one :class:`~dpqlab.errors.CheckpointError` that names
the file, what was expected, and what writes it.
"""

from __future__ import annotations

import math
import os
import tokenize
import zipfile
import zlib
from collections.abc import Collection, Generator
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from dpqlab.checkpoint.documents import Json, as_list, as_object, kind_of_json, parse_json, shown
from dpqlab.errors import CheckpointError

SEED_BITS = 64  # a record may hold any seed that can be sampled from
# everything that zipfile, zlib, numpy and the building of records raise for a file that is not what
# it should be; numpy tokenizes headers, and leaves it to Python to find text that is none
_DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, tokenize.TokenError, EOFError, OSError, SystemError),
    *(ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError),
    CheckpointError,
)

R = TypeVar("R")


@dataclass(frozen=True, kw_only=True)
class FileKind:
    """What a kind of file is called, and how large it may be.

    Attributes
    ----------
    what
        With its article, as in "a trace".
    maker
        What writes such files, as in "`dpqlab trace`".
    limit
        The most bytes of a file once unpacked; stops zip bombs.
    """

    what: str
    maker: str
    limit: int


class _FileError(CheckpointError):
    """The error of a file, told in full."""


@contextmanager
def reading(path: str | os.PathLike[str], kind: FileKind) -> Generator[None]:
    """Turn every error about the content of a file into one that names the file and its kind.

    Raises
    ------
    CheckpointError
        In place of the errors that files cause: not there, not to be read, damaged, another kind,
        or values that what is built of them refuses.
    """
    try:
        yield
    except _FileError:  # of a reader used within: it was given the path and the kind already
        raise
    except _DAMAGE as error:
        raise _FileError(
            f"{path} cannot be read as {kind.what}: {_problem(error)}; expected a file that "
            f"{kind.maker} wrote: make it again"
        ) from None


def read_json(path: Path, kind: FileKind) -> Json:
    """Read a JSON file, strictly (:func:`~dpqlab.checkpoint.documents.parse_json`).

    Raises
    ------
    CheckpointError
        If it is missing, larger than its kind may be, or no strict JSON.
    """
    with reading(path, kind):
        check_size(path, kind)
        return parse_json(path.read_bytes(), "it", bits=SEED_BITS)


def check_size(path: Path, kind: FileKind) -> None:
    """Raise ValueError unless there is a file that is no larger than its kind may be."""
    if not path.is_file():
        raise ValueError("there is no such file")
    if (size := path.stat().st_size) > kind.limit:
        raise ValueError(f"it has {size} bytes; expected no more than {kind.limit} bytes")


def record_of(record: type[R], value: Json, *, signed: Collection[str] = ()) -> R:
    """Build a dataclass from a JSON object that has its fields and nothing else.

    Fields may be bool, int, float, str, a Literal, ``dict[str, X]``, ``tuple[X, ...]`` (a list in
    JSON), another such dataclass, or one of these or None. True is no number. Integers and floats
    are 0 or more, and finite.

    Parameters
    ----------
    record
        The dataclass, all of whose fields the object must have.
    value
        Untrusted JSON.
    signed
        Names of the fields, at any depth, whose numbers may be below 0.

    Raises
    ------
    ValueError
        For another object; within :func:`reading` it becomes the error of the file.
    """
    hints = _hints(record)
    found = as_object(value)
    if found is None or found.keys() != hints.keys():
        got = (
            f"is {kind_of_json(value)}"
            if found is None
            else f"has the keys {shown(sorted(found), 300)}"
        )
        raise ValueError(f"{record.__name__} {got}: expected an object with {', '.join(hints)}")
    return record(**{name: _value(found[name], hints[name], name, signed) for name in hints})


def number(value: Json, *, signed: bool = False) -> float:
    """Return a finite number, of 0 or more unless it is signed; ValueError for anything else."""
    if type(value) not in (int, float):
        raise ValueError(f"{kind_of_json(value)} is not a number")
    if not math.isfinite(value) or (value < 0 and not signed):
        raise ValueError(f"{value!r} is not a finite number" + " of 0 or more" * (not signed))
    return float(value)


def count(value: Json, *, signed: bool = False) -> int:
    """Return a whole number, of 0 or more unless it is signed; ValueError for anything else."""
    if type(value) is not int or (value < 0 and not signed):
        raise ValueError(f"{kind_of_json(value)} is not a count")
    return value


@cache
def _hints(record: type) -> dict[str, Any]:
    hints = get_type_hints(record)
    return {field.name: hints[field.name] for field in fields(record) if field.init}


def _value(value: Json, hint: Any, name: str, signed: Collection[str]) -> Any:
    """Return a field's value if it is of the field's type."""
    origin, options = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        (inner,) = (option for option in options if option is not NoneType)
        return None if value is None else _value(value, inner, name, signed)
    if origin is tuple:
        if (items := as_list(value)) is None:
            raise ValueError(f"{name} is {kind_of_json(value)}: expected a list")
        return tuple(_value(item, options[0], name, signed) for item in items)
    if origin is dict:
        if (entries := as_object(value)) is None:
            raise ValueError(f"{name} is {kind_of_json(value)}: expected an object")
        return {key: _value(item, options[1], name, signed) for key, item in entries.items()}
    if is_dataclass(hint):
        inside: Any = hint
        return record_of(inside, value, signed=signed)
    if origin is Literal:
        if value not in options:
            raise ValueError(f"{name} is {shown(value)}: expected one of {', '.join(options)}")
        return value
    return value if hint is Any else _plain(value, hint, name, signed)


def _plain(value: Json, hint: type, name: str, signed: Collection[str]) -> Any:
    if hint in (bool, str):
        if type(value) is not hint:
            raise ValueError(f"{name} is {kind_of_json(value)}: expected {hint.__name__}")
        return value
    assert hint in (int, float), f"record_of does not know fields such as {name}: {hint}"
    check = count if hint is int else number
    try:
        return check(value, signed=name in signed)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _problem(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror  # without the path, which stands before it already
    if isinstance(error, KeyError):
        return f"it lacks {shown(error, 300)}"
    text = shown(error, 600) if str(error) else type(error).__name__
    # names within a file may hold what a terminal would obey
    return "".join(letter if letter.isprintable() else "?" for letter in text)
