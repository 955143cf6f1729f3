"""Devices by name."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from dpqlab.errors import BackendError


def device_of(name: str) -> torch.device:
    """Return the device of a name; ``"auto"`` is a GPU where there is one.

    Raises
    ------
    BackendError
        If it is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise BackendError(
            f"device {name!r} cannot be used ({reason}); `dpqlab doctor` lists what can"
        ) from error
    return device


def can_leave_multiprocessors() -> bool:
    """Whether this PyTorch can keep its products off some multiprocessors."""
    return hasattr(torch._C, "_set_sm_carveout_experimental")


@contextmanager
def multiprocessors_left(count: int) -> Iterator[None]:
    """Have cuBLAS choose products for ``count`` multiprocessors fewer, for what runs beside them.

    It counts when a product is launched or captured, on every device; 0 changes nothing.
    """
    if not count:
        yield
        return
    library: Any = torch._C
    before = library._get_sm_carveout_experimental()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*SM carveout.*")  # says that it may go away
        library._set_sm_carveout_experimental(count)
    try:
        yield
    finally:
        library._set_sm_carveout_experimental(before)
