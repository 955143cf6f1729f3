"""What the engine hands on: one frame a sampling step, with everything that a page shows of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dpqlab.errors import DPQError
from dpqlab_app.drawing.settings import DrawSettings


class OverBudgetError(DPQError):
    """A request took longer than one may."""


class MemoryShortError(DPQError):
    """Not even one image fits into memory."""


@dataclass(frozen=True, kw_only=True)
class VersionFacts:
    """What a version costs, and who computes it.

    Attributes
    ----------
    true_bits
        Stored bits per weight of the blocks; NaN where that is not known.
    disk_bytes
        Of the weight files.
    weight_bytes
        What the runtime holds in memory beside the table of modulations, buffers included.
    modulation_bytes
        Of that table, made ahead for the steps and classes of the request.
    backend
        Who multiplies by the blocks' weights: ``"dense torch"``, ``"numba"``, ``"CUDA"``, ...
    device
        ``"cpu"``, or the GPU's name.
    dtype
        ``"float32"``, ``"bfloat16"``.
    """

    true_bits: float
    disk_bytes: int
    weight_bytes: int
    modulation_bytes: int
    backend: str
    device: str
    dtype: str


@dataclass(frozen=True, kw_only=True, eq=False)
class VersionFrame:
    """A version after a step.

    Attributes
    ----------
    key, title
        As in the catalogue.
    images
        uint8 (N, H, W, C), C is 1 or 3: what the model expects to see at the end; after the last
        step the pictures themselves.
    ms_per_step
        Median so far; the first step, which prepares things, counts only while it is alone.
    facts
        What it costs.
    """

    key: str
    title: str
    images: np.ndarray
    ms_per_step: float
    facts: VersionFacts


@dataclass(frozen=True, kw_only=True, eq=False)
class Frame:
    """All versions after the same step.

    Attributes
    ----------
    settings
        What was asked for.
    index, total
        The step, counted from 0, and how many there are.
    versions
        Full precision, then the compressed ones in the order asked for.
    seconds, remaining
        Since the request began, and to go if it goes on like this.
    notes
        What a visitor should know about how it was drawn.
    """

    settings: DrawSettings
    index: int
    total: int
    versions: tuple[VersionFrame, ...]
    seconds: float
    remaining: float
    notes: tuple[str, ...] = ()

    @property
    def done(self) -> bool:
        """Whether this is the last one."""
        return self.index + 1 == self.total
