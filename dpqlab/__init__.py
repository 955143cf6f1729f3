"""dpqlab: shrink diffusion transformers to one bit per weight, and see how.

The package is layered; imports point down this list only::

    cli > report, viz > evaluation > calibration > diffusion > checkpoint > nn > kernels > core

``import dpqlab`` itself loads nothing but this file: pick the layer you need.
"""

__version__ = "0.1.0"
