from __future__ import annotations

import pytest
import torch

from dpqlab.core import assign, kmeans, nearest
from dpqlab.errors import BackendError
from dpqlab.kernels import (
    Backend,
    backends,
    best_assigner,
    best_clusterer,
    best_search,
    dispatch,
    numba_available,
    nvrtc,
)
from dpqlab.kernels.dispatch import choose

NUMBA = Backend(name="numba", devices=("cpu",), available=True, reason="here")
MISSING = Backend(name="numba", devices=("cpu",), available=False, reason="numba is missing")
TORCH = Backend(name="torch", devices=(), available=True, reason="the reference")


@pytest.mark.parametrize(
    ("device", "wanted", "offered", "expected"),
    [
        ("cpu", None, [NUMBA, TORCH], "numba"),
        ("cuda", None, [NUMBA, TORCH], "torch"),
        ("cpu", None, [MISSING, TORCH], "torch"),
        ("cpu", "torch", [NUMBA, TORCH], "torch"),
        ("cpu", "numba", [NUMBA, TORCH], "numba"),
    ],
)
def test_choice(device: str, wanted: str | None, offered: list[Backend], expected: str) -> None:
    assert choose(device, wanted, offered) == expected


@pytest.mark.parametrize(
    ("device", "wanted", "offered", "why"),
    [
        ("cpu", "numba", [MISSING, TORCH], "numba is missing"),
        ("cuda", "numba", [NUMBA, TORCH], "cpu only"),
        ("cpu", "abacus", [NUMBA, TORCH], "expected one of numba, torch"),
    ],
)
def test_refusals_say_why(device: str, wanted: str, offered: list[Backend], why: str) -> None:
    with pytest.raises(BackendError, match=why):
        choose(device, wanted, offered)


def test_the_variable_overrides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DPQLAB_BACKEND", "torch")
    assert best_clusterer("cpu") is kmeans
    assert best_assigner(torch.device("cpu")) is assign
    monkeypatch.setenv("DPQLAB_BACKEND", "abacus")
    with pytest.raises(BackendError, match="abacus"):
        best_clusterer("cpu")


def test_the_best_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DPQLAB_BACKEND", raising=False)
    expected = "dpqlab.kernels.numba_kmeans" if numba_available() else "dpqlab.core.kmeans"
    assert best_clusterer("cpu").__module__ == expected  # pyright: ignore[reportFunctionMemberAccess]
    assert best_assigner("cpu").__module__ == expected  # pyright: ignore[reportFunctionMemberAccess]
    assert best_clusterer("cuda") is kmeans
    expected = "dpqlab.kernels.numba_search" if numba_available() else "dpqlab.core.search"
    assert best_search("cpu").__module__ == expected  # pyright: ignore[reportFunctionMemberAccess]


def test_a_backend_has_a_say_where_it_does_something(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DPQLAB_BACKEND", "torch")
    assert best_search("cpu") is nearest
    monkeypatch.setenv("DPQLAB_BACKEND", "triton")
    with pytest.raises(BackendError, match="triton"):
        best_search("cpu")
    assert best_clusterer("cuda") is kmeans  # Triton has none, so the usual choice stands


def test_the_reference_is_always_there() -> None:
    assert [b.name for b in backends() if b.available][-1] == "torch"


@pytest.mark.parametrize(
    ("device", "trouble", "reason"),
    [
        (False, None, "there is no CUDA device"),
        (True, "NVRTC cannot be used (gone)", "NVRTC cannot be used (gone)"),
        (True, None, None),
    ],
)
def test_cuda_needs_a_device_and_a_compiler(
    device: bool, trouble: str | None, reason: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: device)
    monkeypatch.setattr(nvrtc, "trouble", lambda: trouble)
    dispatch._cuda_trouble.cache_clear()
    try:
        cuda = next(backend for backend in backends() if backend.name == "cuda")
        assert cuda.available == (reason is None)
        assert cuda.refusal("cuda") == reason
        assert cuda.refusal("cpu") is not None
    finally:
        dispatch._cuda_trouble.cache_clear()
