"""Single bytes of shipped models that change, as on a bad disk: the loader must notice each."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from dpqlab.checkpoint import load_compressed
from dpqlab.checkpoint.layout import MANIFEST
from dpqlab.errors import CheckpointError


@dataclass(frozen=True, kw_only=True)
class Flip:
    """One byte that changed.

    Attributes
    ----------
    path, offset, mask
        Where it is, and which of its bits changed.
    fault
        What is wrong; None if the loader noticed, and named the file or the manifest.
    """

    path: str
    offset: int
    mask: int
    fault: str | None

    @property
    def refused(self) -> bool:
        """Whether it is as it should be."""
        return self.fault is None


def flips(folder: Path, numbers: Iterable[int], seed: int) -> Iterator[Flip]:
    """Change bytes of a good folder one at a time, load it, and change each back.

    Every other byte is drawn from all of the folder, the rest from one file after the other: small
    ones would hardly be met otherwise.

    Parameters
    ----------
    folder
        A copy of a compressed folder, which nothing else looks at.
    numbers, seed
        Which flips: each follows from the seed and its number.
    """
    files = {
        file.relative_to(folder).as_posix(): file.stat().st_size
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }
    for number in numbers:
        source = random.Random(f"{seed}:{number}")
        if number % 2:
            (path,) = source.choices(list(files), list(files.values()))
        else:
            path = list(files)[number // 2 % len(files)]
        offset, mask = source.randrange(files[path]), source.randrange(1, 256)
        _flip(folder / path, offset, mask)
        try:
            fault = _fault(folder, path)
        finally:
            _flip(folder / path, offset, mask)
        yield Flip(path=path, offset=offset, mask=mask, fault=fault)


def _fault(folder: Path, path: str) -> str | None:
    try:
        load_compressed(folder)
    except CheckpointError as error:
        named = path in str(error) or MANIFEST in str(error)
        return None if named else f"names no file: {error}"
    except Exception as error:  # whatever else there is, is what this looks for
        return f"{type(error).__name__}: {error}"
    return "loaded"


def _flip(file: Path, offset: int, mask: int) -> None:
    with file.open("r+b") as stream:
        stream.seek(offset)
        (byte,) = stream.read(1)
        stream.seek(offset)
        stream.write(bytes([byte ^ mask]))
