"""Running compiled code on the threads that PyTorch's own operations run on.

Between two operations PyTorch's OpenMP threads stay awake for some milliseconds and wait for the
next. Other threads would have to compete with them for the cores: on two cores, right after a
matrix product, a second thread of one's own saved no time at all, and waking it took 25 us against
1 us here. So work goes to the same threads, by the function that compilers emit for ``#pragma omp
parallel``. Where PyTorch is built with another thread library than GNU's, other threads do it.
"""

from __future__ import annotations

import ctypes
import os
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import numpy as np
import torch

_REGION = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def run(region: int, task: np.ndarray[Any, Any], threads: int) -> None:
    """Call the compiled function at address ``region`` on so many threads, and wait for all.

    It may also be called on fewer, so it has to share out its work as threads come. Each call gets
    the address of ``task``.
    """
    address = task.ctypes.data
    parallel = _openmp() if threads > 1 else None
    if parallel is not None:
        parallel(region, address, threads, 0)
        return
    call = _REGION(region)
    others = [_pool(os.getpid(), threads).submit(call, address) for _ in range(threads - 1)]
    call(address)
    for other in others:
        other.result()


@lru_cache(maxsize=1)
def blas_address() -> int:
    """Return the address of ``sgemm_`` in the library that PyTorch uses, or 0 if it has none."""
    symbol = getattr(_library(), "sgemm_", None)
    return 0 if symbol is None else ctypes.cast(symbol, ctypes.c_void_p).value or 0


@lru_cache(maxsize=1)
def _openmp() -> Any:
    parallel = getattr(_library(), "GOMP_parallel", None)
    if parallel is not None:
        parallel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
        parallel.restype = None
    return parallel


@lru_cache(maxsize=1)
def _library() -> Any:
    """Return PyTorch's extension module: symbols are looked up in all that it is linked with."""
    try:
        return ctypes.CDLL(torch._C.__file__)
    except OSError:
        return None


@lru_cache(maxsize=4)
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """Return threads that stay; ``process`` is its id, since a fork leaves threads behind."""
    return ThreadPoolExecutor(threads - 1, thread_name_prefix="dpqlab")
