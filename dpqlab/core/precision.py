"""Arithmetic in true float32, whatever the program around has allowed."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import torch


@contextmanager
def exact_float32() -> Generator[None]:
    """Switch TF32 and reduced-precision autocast off, and restore what was set before.

    TF32 keeps ten bits of the mantissa: enough for sampling, too few to tell which of two codewords
    is nearer, or for features that must agree between devices.
    """
    with (
        torch.backends.cudnn.flags(
            enabled=True, benchmark=False, deterministic=True, allow_tf32=False
        ),
        torch.autocast("cuda", enabled=False),
        torch.autocast("cpu", enabled=False),
    ):
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)
