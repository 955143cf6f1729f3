"""Devices by name."""

from __future__ import annotations

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
