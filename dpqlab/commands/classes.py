"""Classes as people type them: ``0-9``, ``3,5``, ``bag,dress``."""

from __future__ import annotations

import re

from dpqlab.errors import ConfigError


def parse_classes(text: str, names: tuple[str, ...]) -> tuple[int, ...]:
    """Turn a list of numbers, ranges and names into labels, in the order given.

    Either part of a name with a slash will do: "T-shirt/top" is also "t-shirt".

    Raises
    ------
    ConfigError
        For a class that is not there; the message lists those that are.

    Examples
    --------
    >>> parse_classes("0-2,bag", ("Top", "Skirt", "Coat", "Bag"))
    (0, 1, 2, 3)
    """
    by_name = {_plain(part): i for i, name in enumerate(names) for part in name.split("/")}
    by_name |= {_plain(name): i for i, name in enumerate(names)}
    labels: list[int] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        span = re.fullmatch(r"(\d{1,6})(?:-(\d{1,6}))?", part)
        if span:
            first, last = int(span[1]), int(span[2] or span[1])
            if not first <= last < len(names):
                raise ConfigError(f"class {part!r}: expected 0 to {len(names) - 1}, a range rising")
            labels += range(first, last + 1)
        elif _plain(part) in by_name:
            labels.append(by_name[_plain(part)])
        else:
            raise ConfigError(f"no class is called {part!r}: there are {', '.join(names)}")
    if not labels:
        raise ConfigError(f"no class in {text!r}: give numbers, ranges or names, such as 0-9")
    return tuple(labels)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
