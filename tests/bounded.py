"""Bounds on time that hold in a long run of tests, on a machine that does other things too."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def bounded(seconds: float) -> Iterator[None]:
    """Fail if the block takes longer, in seconds of this process on the CPU.

    What earlier tests left behind is kept from the garbage collector meanwhile: to walk through it
    can take longer than the block. Give several times what an idle core takes; what may take how
    long is measured in ``benchmarks/``, here only what explodes is to be found.
    """
    gc.freeze()
    started = time.process_time()
    try:
        yield
        took = time.process_time() - started
    finally:
        gc.unfreeze()
    assert took < seconds, f"took {took:.2f} s of the CPU, expected less than {seconds} s"
