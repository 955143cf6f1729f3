"""Which backend does what: one pure choice, overridden by the variable ``DPQLAB_BACKEND``."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch

from dpqlab.errors import BackendError

if TYPE_CHECKING:
    from dpqlab.core.kmeans import Assigner, Clusterer
    from dpqlab.core.search import Search

VARIABLE = "DPQLAB_BACKEND"
_MODULES = {
    "kmeans": {"numba": "dpqlab.kernels.numba_kmeans", "torch": "dpqlab.core.kmeans"},
    "search": {
        "numba": "dpqlab.kernels.numba_search",
        "triton": "dpqlab.kernels.triton_search",
        "torch": "dpqlab.core.search",
    },
}
"""Where the backends of each operation are."""


@dataclass(frozen=True, kw_only=True)
class Backend:
    """A way to compute, and whether this machine offers it.

    Attributes
    ----------
    name
        What ``DPQLAB_BACKEND`` calls it.
    devices
        Device types it runs on; empty means any.
    available
        Whether it can be used here.
    reason
        Why, or why not.
    """

    name: str
    devices: tuple[str, ...]
    available: bool
    reason: str

    def refusal(self, device_type: str) -> str | None:
        """Return why it cannot run on a device, or None if it can."""
        if not self.available:
            return self.reason
        if self.devices and device_type not in self.devices:
            return f"it runs on {', '.join(self.devices)} only, not on {device_type}"
        return None


def backends() -> list[Backend]:
    """List the backends, the preferred first."""
    reference = Backend(name="torch", devices=(), available=True, reason="the reference")
    return [
        _backend("numba", "cpu", _numba_trouble(), "numba can be imported"),
        _backend("cuda", "cuda", _cuda_trouble(), "NVRTC can compile for the GPU"),
        _backend("triton", "cuda", _triton_trouble(), "triton can be imported"),
        reference,
    ]


def _backend(name: str, device: str, trouble: str | None, fine: str) -> Backend:
    return Backend(name=name, devices=(device,), available=trouble is None, reason=trouble or fine)


def numba_available() -> bool:
    """Return whether numba can be imported."""
    return _numba_trouble() is None


def choose(device_type: str, wanted: str | None, offered: Sequence[Backend]) -> str:
    """Name the backend for a device: the first that can run there, or the one that was asked for.

    Parameters
    ----------
    device_type
        Such as ``"cpu"`` or ``"cuda"``.
    wanted
        A name from ``offered``, or None for the first that fits.
    offered
        Backends in order of preference.

    Raises
    ------
    BackendError
        If ``wanted`` is unknown or cannot run, saying why.
    """
    refusals = {backend.name: backend.refusal(device_type) for backend in offered}
    if wanted is None:
        return next(name for name, refusal in refusals.items() if refusal is None)
    if wanted not in refusals:
        raise BackendError(
            f"unknown backend: got {VARIABLE}={wanted}, expected one of {', '.join(refusals)}"
        )
    if (refusal := refusals[wanted]) is not None:
        raise BackendError(
            f"backend {wanted!r} was asked for but cannot be used: {refusal}; "
            f"unset {VARIABLE} or choose another"
        )
    return wanted


def best_clusterer(device: torch.device | str = "cpu") -> Clusterer:
    """Return the fastest k-means for a device."""
    return _module("kmeans", device).kmeans


def best_assigner(device: torch.device | str = "cpu") -> Assigner:
    """Return the fastest nearest-centroid search for a device."""
    return _module("kmeans", device).assign


def best_search(device: torch.device | str = "cpu") -> Search:
    """Return the fastest search for codewords near moving points: no checks, no host waits."""
    return _module("search", device).nearest


def _module(operation: str, device: torch.device | str) -> Any:
    modules, offered = _MODULES[operation], backends()
    wanted = os.environ.get(VARIABLE) or None
    if wanted in {backend.name for backend in offered} - modules.keys():
        wanted = None  # it has no say in this operation
    mine = [backend for backend in offered if backend.name in modules]
    return importlib.import_module(modules[choose(torch.device(device).type, wanted, mine)])


@lru_cache(maxsize=1)
def _triton_trouble() -> str | None:
    # not imported: that takes a second, and only a GPU needs it
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed (it comes with PyTorch's CUDA builds)"
    return None


@lru_cache(maxsize=1)
def _cuda_trouble() -> str | None:
    if not torch.cuda.is_available():
        return "there is no CUDA device"
    nvrtc = importlib.import_module("dpqlab.kernels.nvrtc")
    return nvrtc.trouble()


@lru_cache(maxsize=1)
def _numba_trouble() -> str | None:
    try:
        importlib.import_module("numba")
    except ImportError as error:
        return f"numba cannot be imported ({error}): pip install -e '.[fast]' in the clone"
    return None
