"""A DiT made ready to sample: the same function as diffusers' model, computed faster.

:func:`prepare_runtime` takes a transformer, dense or compressed, and returns a
:class:`DiTRuntime` that goes wherever :func:`dpqlab.diffusion.sample_steps` takes a transformer.
"""

from __future__ import annotations

from dpqlab.diffusion.runtime.config import HeldBytes, RuntimeConfig
from dpqlab.diffusion.runtime.runtime import DiTRuntime, RuntimeOutput, prepare_runtime

__all__ = ["DiTRuntime", "HeldBytes", "RuntimeConfig", "RuntimeOutput", "prepare_runtime"]
