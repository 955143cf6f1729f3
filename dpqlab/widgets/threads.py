"""How many threads torch uses for what a view computes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread for many small operations.

    A second one wins them a tenth of the time where a core is free; where none is, the two wait for
    each other at every operation, and all takes five times as long.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
