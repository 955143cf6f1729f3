"""Values as widgets, addresses and strangers send them: checked for type and range."""

from __future__ import annotations

import math
from typing import Any

from dpqlab.errors import ConfigError

MOST_TEXT = 100
"""Characters of a key, and of a part of an address."""
_QUOTED = 40
"""Characters of a bad value that are repeated in a message."""


def whole(what: str, value: Any) -> int:
    """Return a whole number that came as int or float.

    Raises
    ------
    ConfigError
        For a fraction, NaN, infinity, text, a truth value.
    """
    number = number_of(what, value)
    if not number.is_integer():
        raise ConfigError(f"{what} is {number:g}: expected a whole number")
    return int(value)


def number_of(what: str, value: Any) -> float:
    """Return a finite number that came as int or float.

    Raises
    ------
    ConfigError
        For NaN, infinity, text, a truth value.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"{what} is {shown(value)}: expected a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ConfigError(f"{what} is {number}: expected a finite number")
    return number


def listed(what: str, value: Any, most: int) -> list[Any]:
    """Return a list that came as list, tuple or None.

    Raises
    ------
    ConfigError
        If it is something else, or has more than ``most`` items.
    """
    if value is None:
        return []
    if not isinstance(value, list | tuple):
        raise ConfigError(f"{what} are {shown(value)}: expected a list")
    if len(value) > most:
        raise ConfigError(f"there are {len(value)} {what}: expected at most {most}")
    return list(value)


def check_text(what: str, value: object) -> None:
    """Refuse what cannot be a key.

    Raises
    ------
    ConfigError
        If it is no text, empty or long.
    """
    if not isinstance(value, str) or not 0 < len(value) <= MOST_TEXT:
        raise ConfigError(f"{what} is {shown(value)}: expected the name of one that is listed")


def check_whole(what: str, value: object, low: int, high: int) -> None:
    """Refuse what is not an int from ``low`` to ``high``.

    Raises
    ------
    ConfigError
        If it is anything else.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(f"{what} is {shown(value)}: expected a whole number")
    if not low <= value <= high:
        got = value if abs(value) < 10**20 else "a huge number"
        raise ConfigError(f"{what} is {got}: expected {low} to {high}")


def shown(value: object) -> str:
    """Return a value as a message repeats it: short, and without spelling out what is not."""
    if isinstance(value, str):
        return repr(value[:_QUOTED])
    return repr(value) if isinstance(value, bool | float | None) else f"a {type(value).__name__}"
