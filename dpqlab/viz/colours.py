"""Scales of colour as tables of 256 colours, for pictures that are drawn pixel by pixel."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from plotly.colors import sample_colorscale, unlabel_rgb

SIGNED = "RdBu_r"  # blue below zero, red above, white at zero: safe for colour-blind eyes
RISING = "cividis"  # from dark blue to yellow, evenly in lightness


def diverging() -> NDArray[np.uint8]:
    """Return the scale for values about zero, uint8 (256, 3): blue, white, red."""
    return _table(SIGNED)


def sequential() -> NDArray[np.uint8]:
    """Return the scale for values from zero up, uint8 (256, 3): dark blue to yellow."""
    return _table(RISING)


@lru_cache(maxsize=2)
def _table(name: str) -> NDArray[np.uint8]:
    colours = sample_colorscale(name, 256)
    table = np.array([unlabel_rgb(colour) for colour in colours]).round().astype(np.uint8)
    table.setflags(write=False)
    return table
