"""JSON, read strictly: no duplicate keys, no NaN, no surprises; written in one canonical form."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any, cast

from dpqlab.errors import CheckpointError

MAX_INTEGER = 2**53
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z0-9_]+)*")
MAX_NAME = 200
MAX_PARTS = 200_000
"""Most lists and objects of one document of a folder: 10,000 layers have fewer."""
MAX_ITEMS = 500_000

Json = Any
"""What ``json.loads`` returns; every use checks what it really is."""

NUMBER = (int, float)


def parse_json(data: bytes, what: str, *, bits: int = 53) -> Json:
    """Parse UTF-8 JSON from an untrusted source.

    Raises
    ------
    CheckpointError
        For anything but strict JSON with unique keys, finite floats and whole numbers up to
        ``2**bits``. ``what`` names the source.
    """
    largest = 2**bits
    digits = len(str(largest)) + 1

    def number(text: str) -> float:
        value = float(text)
        if not math.isfinite(value):
            raise ValueError(f"{text} is not finite")
        return value

    def whole(text: str) -> int:
        if len(text) > digits or abs(int(text)) > largest:
            raise ValueError(f"a whole number is beyond 2**{bits}")
        return int(text)

    def constant(text: str) -> float:
        raise ValueError(f"{text} is not JSON")

    try:
        return json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_float=number,
            parse_int=whole,
            parse_constant=constant,
        )
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{what} is not valid JSON: {shown(error)}; the file is damaged or foreign"
        ) from None


def check_extent(data: bytes, what: str) -> None:
    """Refuse JSON of more parts than any folder has, before they become objects in memory.

    8 MB of ``[[],[],...`` are small to read, and hundreds of MB once parsed.
    """
    parts, items = data.count(b"[") + data.count(b"{"), data.count(b",")
    if parts > MAX_PARTS or items > MAX_ITEMS:
        raise CheckpointError(
            f"{what} has {parts} lists and objects and {items} commas: expected at most "
            f"{MAX_PARTS} and {MAX_ITEMS}"
        )


@contextmanager
def naming(path: str, *others: str) -> Generator[None]:
    """Let a :class:`CheckpointError` from within name the file ``path``, or one of ``others``."""
    try:
        yield
    except CheckpointError as error:
        if any(name in str(error) for name in (path, *others)):
            raise
        raise CheckpointError(f"{path}: {error}") from None


def dump_json(value: Json) -> bytes:
    """Return the canonical bytes of a JSON value: sorted keys, ASCII, indented by two spaces."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=True, allow_nan=False)
    return text.encode("ascii") + b"\n"


def as_object(value: Json) -> dict[str, Json] | None:
    """Return ``value`` if it is a JSON object, else None."""
    return cast("dict[str, Json]", value) if type(value) is dict else None


def as_list(value: Json) -> list[Json] | None:
    """Return ``value`` if it is a JSON list, else None."""
    return cast("list[Json]", value) if type(value) is list else None


def closed(
    value: Json,
    what: str,
    required: Mapping[str, type | tuple[type, ...]],
    optional: Mapping[str, type | tuple[type, ...]] | None = None,
) -> dict[str, Json]:
    """Return ``value`` if it is an object with exactly these keys and types.

    Types are compared exactly: True is no int. Raises :class:`CheckpointError` otherwise.
    """
    optional = optional or {}
    found = as_object(value)
    if found is None:
        raise CheckpointError(f"{what} is {kind_of_json(value)}: expected an object")
    unknown = found.keys() - required.keys() - optional.keys()
    missing = required.keys() - found.keys()
    if unknown or missing:
        problem = (
            f"has the unknown key {shown(min(unknown))}" if unknown else f"lacks {min(missing)!r}"
        )
        raise CheckpointError(
            f"{what} {problem}: expected {', '.join([*required, *optional])} and nothing else"
        )
    for key, item in found.items():
        types = required[key] if key in required else optional[key]
        if type(item) not in (types if isinstance(types, tuple) else (types,)):
            raise CheckpointError(
                f"{what}: {key} is {kind_of_json(item)}: expected {_names(types)}"
            )
    return found


def bounded(value: int | float, what: str, low: float, high: float) -> None:
    """Raise :class:`CheckpointError` unless ``low <= value <= high``."""
    if not low <= value <= high:
        raise CheckpointError(f"{what} is {shown(value)}: expected {low} to {high}")


def one_of(value: str, what: str, choices: tuple[str, ...]) -> None:
    """Raise :class:`CheckpointError` unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise CheckpointError(f"{what} is {shown(value)}: expected {' or '.join(choices)}")


def module_name(value: Json, what: str) -> str:
    """Return ``value`` if it is a plain dotted module or tensor name."""
    if type(value) is not str or len(value) > MAX_NAME or not NAME.fullmatch(value):
        raise CheckpointError(
            f"{what} is {shown(value)}: expected a dotted name of ASCII letters, digits and _"
        )
    return value


def shown(value: object, limit: int = 80) -> str:
    """Return an untrusted value for a message: ASCII, one line, cut."""
    if isinstance(value, Exception):
        text = str(value).encode("ascii", "backslashreplace").decode().replace("\n", " ")
    else:
        text = ascii(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def kind_of_json(value: Json) -> str:
    """Describe a JSON value for a message."""
    if value is None or type(value) in (bool, int, float, str):
        return shown(value)
    return "a list" if as_list(value) is not None else "an object"


def _names(types: type | tuple[type, ...]) -> str:
    given = types if isinstance(types, tuple) else (types,)
    return " or ".join("null" if t is type(None) else t.__name__ for t in given)


def _unique(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("an object has the same key twice")
    return found
