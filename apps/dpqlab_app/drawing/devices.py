"""The device that draws: found, measured, and named for people."""

from __future__ import annotations

import os

import torch

SMALL_DEVICE = 8 << 30
"""Bytes of memory below which a device holds one model with its versions at a time."""
_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight")


def memory_of(device: torch.device) -> int:
    """Return the bytes of memory of a device."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # not every system says
        return SMALL_DEVICE


def device_line(device: torch.device) -> str:
    """Say what computes on a device, in a line."""
    from dpqlab.kernels.dispatch import VARIABLE, backends

    wanted = os.environ.get(VARIABLE)
    kernels = [
        backend.name
        for backend in backends()
        if backend.refusal(device.type) is None and wanted in (None, "", backend.name)
    ]
    # the reference is there in any case: it is news only where it is alone
    named = [name for name in kernels if name != "torch"] or ["torch"]
    words = " and ".join({"cuda": "CUDA", "triton": "Triton"}.get(n, n) for n in named)
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, kernels: {words}"
    cores = torch.get_num_threads()
    who = f"{in_words(cores)} CPU core{'' if cores == 1 else 's'} draw{'s' if cores == 1 else ''}"
    return f"No GPU here: {who}, kernels: {words}"


def in_words(number: int) -> str:
    """Return a small number as a word."""
    return _NUMBERS[number] if number < len(_NUMBERS) else str(number)
