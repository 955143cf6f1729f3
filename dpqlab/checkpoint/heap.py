"""Give memory back to the system as soon as it is free, where the C library would keep it."""

from __future__ import annotations

import ctypes

LARGE = 1 << 20
_M_MMAP_THRESHOLD = -3  # malloc.h of glibc


def return_large_blocks(size: int = LARGE) -> bool:
    """Have blocks of ``size`` bytes and more returned to the system when they are freed.

    glibc raises its limit to the largest block that was ever freed (up to 32 MB) and takes smaller
    ones from a heap that can only shrink at its end. Layers of a model are just so large: read,
    compressed and freed one after the other, they leave gaps that add up to gigabytes. This holds
    for the process from now on.

    Returns
    -------
    bool
        False where the C library is another one; nothing happened then.
    """
    try:
        return ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, size) == 1
    except (OSError, AttributeError, TypeError):
        return False
