"""Files of arrays, changed as somebody else might have written them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Arrays = dict[str, Any]


def change_npz(path: Path, change: Callable[[Arrays], Any]) -> None:
    """Let ``change`` alter the arrays of a file by name, and write them with numpy's own writer."""
    with np.load(path) as file:
        arrays: Arrays = {name: value.copy() for name, value in file.items()}
    change(arrays)
    np.savez(path, **arrays)


def in_about(change: Callable[[dict[str, Any]], Any]) -> Callable[[Arrays], None]:
    """Return what lets ``change`` alter the description among the arrays; NaN may be written."""

    def changed(arrays: Arrays) -> None:
        about = json.loads(arrays["about"].tobytes())
        change(about)
        arrays["about"] = np.frombuffer(json.dumps(about).encode(), dtype=np.uint8)

    return changed
