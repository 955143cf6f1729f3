"""How loops are compiled by numba, and kept on disk. Importing this module needs numba."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numba
from numba.core.ccallback import CFunc
from numba.core.sigutils import normalize_signature

from dpqlab.kernels.caches import cache_folder

F = TypeVar("F", bound=Callable[..., Any])

_FILES = ("coded_loops.py", "lloyd.py", "regions.py", "vectors.py")
_entries: list[Any] = []  # what :func:`compiled_entry` returned addresses of


def compiled(*fastmath: str) -> Callable[[F], F]:
    """Return a decorator that compiles a loop: without the GIL, and kept on disk if possible.

    Parameters
    ----------
    fastmath
        What the compiler may assume of floating-point numbers besides ``"contract"``.
    """
    options: dict[str, Any] = {"nogil": True, "fastmath": {"contract", *fastmath}}
    jit: Any = numba.njit

    def decorated(function: F) -> F:
        loop = jit(**options)(function)
        _keep(loop)
        return loop

    return decorated


def compiled_entry(function: Callable[..., None], signature: Any) -> int:
    """Compile a function that anything may call by its address; return that."""
    entry: Any = CFunc(function, normalize_signature(signature), locals={}, options={})
    _keep(entry)
    entry.compile()
    _entries.append(entry)
    return entry.address


def _keep(function: Any) -> None:
    """Keep what is compiled on disk, until any file with compiled code changes.

    Left alone, numba looks at the file of the function, but what it calls is compiled into it too.
    """
    config: Any = numba.config
    usual = config.CACHE_DIR
    folder = usual or cache_folder("numba")
    if folder is None:  # compile anew in every process
        return
    try:
        config.CACHE_DIR = str(folder)  # read by the next line alone
        function.enable_caching()
    except RuntimeError:  # it cannot be written to
        return
    finally:
        config.CACHE_DIR = usual
    function._cache._cache_file._source_stamp = _sources()


def _sources() -> tuple[tuple[str, int, int], ...]:
    states = ((name, (Path(__file__).parent / name).stat()) for name in _FILES)
    return tuple((name, state.st_mtime_ns, state.st_size) for name, state in states)
