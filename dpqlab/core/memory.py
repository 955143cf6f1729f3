"""Telling a machine without memory from a bug, and going on with less at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

Found = TypeVar("Found")

_SIGNS = ("can't allocate memory", "not enough memory", "out of memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether an error means that memory ran out, on the CPU or on a GPU.

    PyTorch's own allocator on the CPU raises a plain RuntimeError.

    Examples
    --------
    >>> is_out_of_memory(MemoryError()), is_out_of_memory(RuntimeError("shapes do not fit"))
    (True, False)
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)


def with_less(run: Callable[[int], Found], amount: int, least: int = 1, *, tries: int = 1) -> Found:
    """Run with an amount of scratch memory; where memory runs out, with half of it, and so on.

    Parameters
    ----------
    run
        Takes the amount, and begins anew whenever it is called.
    amount, least
        To begin with, and below which the error is raised.
    tries
        How often each amount is tried: 2 where less would change the result, if only by rounding,
        for what another program took may be back a moment later.

    Raises
    ------
    MemoryError, RuntimeError
        If memory runs out with the least amount too.

    Examples
    --------
    >>> def run(amount):
    ...     if amount > 3:
    ...         raise MemoryError
    ...     return f"done with {amount}"
    >>> with_less(run, 8)
    'done with 2'
    """
    left = tries
    while True:
        try:
            return run(amount)
        except (MemoryError, RuntimeError) as error:
            left -= 1
            if not is_out_of_memory(error) or (not left and amount // 2 < least):
                raise
        # here the error is gone, and with it all that its frames held
        if not left:
            amount, left = amount // 2, tries
