"""What all tests share: few threads, no network, seeded randomness, a device to run on."""

from __future__ import annotations

import ipaddress
import os
import random
import socket
from collections.abc import Iterator
from typing import Any

# Before torch, numba or huggingface_hub are imported, which read these once.
os.environ.setdefault("NUMBA_NUM_THREADS", str(min(2, os.cpu_count() or 1)))
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
# two threads on tiny tensors wait for each other most of the time, and on busy cores far longer;
# what several threads do is tested where a test asks for them
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.pop("DPQLAB_BACKEND", None)

import numpy as np
import pytest
import torch
from hypothesis import settings

# a busy machine is no failure; CI draws the same examples every time
settings.register_profile("dpqlab", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("dpqlab")


def pytest_configure(config: pytest.Config) -> None:
    """Keep what was given more threads within two cores, so that shared machines stay sane."""
    torch.set_num_threads(min(2, torch.get_num_threads()))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked gpu are skipped, and say so, where there is none."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(autouse=True, scope="session")
def no_network() -> Iterator[None]:
    """dpqlab asks nothing of the network: a connection that leaves this machine is an error."""
    connect = socket.socket.connect

    def local_only(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_local(address[0]):
            raise OSError(f"a test tried to reach {address!r}; tests stay on this machine")
        connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", local_only)
        yield


@pytest.fixture(autouse=True, scope="session")
def no_waiting_for_the_disk() -> Iterator[None]:
    """A test that is cut off by a power failure leaves nothing to save: nothing is synced."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Whatever a test draws from the global generators is the same in every run and order."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002  (for libraries that still draw from it)
    torch.manual_seed(0)


@pytest.fixture
def generator() -> torch.Generator:
    """A freshly seeded generator on the CPU."""
    return torch.Generator().manual_seed(0)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    """Each device that the code must work on; the GPU only with ``-m gpu``."""
    return torch.device(request.param)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Tiny models only lose by a second thread, on busy machines a lot."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
