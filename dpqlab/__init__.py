"""dpqlab: shrink diffusion transformers to one bit per weight, and see how.

The package is layered; imports point down this list only::

    cli > report, viz > evaluation > calibration > diffusion > checkpoint > nn > kernels > core

``import dpqlab`` itself loads nothing but this file: pick the layer you need.
``dpqlab.backends()`` shows what computes on this machine, and why.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dpqlab.kernels.overview import overview as backends

__all__ = ["__version__", "backends"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import what is asked for only then."""
    if name == "backends":
        from dpqlab.kernels.overview import overview

        return overview
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
