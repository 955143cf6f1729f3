from __future__ import annotations

import os

import pytest
import torch

from dpqlab.errors import BackendError
from dpqlab.kernels.devices import device_of
from dpqlab_app.drawing.devices import device_line, in_words, memory_of

CPU = torch.device("cpu")


def test_auto_is_a_gpu_where_there_is_one() -> None:
    assert device_of("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert device_of("cpu") == CPU


@pytest.mark.parametrize("name", ["cuda:77", "gpu", ""])
def test_a_device_that_is_not_there_is_an_error_that_says_so(name: str) -> None:
    with pytest.raises(BackendError, match=f"device '{name}' cannot be used"):
        device_of(name)


def test_the_line_names_cores_and_kernels(
    monkeypatch: pytest.MonkeyPatch, one_thread: None
) -> None:
    monkeypatch.delenv("DPQLAB_BACKEND", raising=False)
    assert device_line(CPU) == "No GPU here: one CPU core draws, kernels: numba"
    monkeypatch.setenv("DPQLAB_BACKEND", "torch")
    torch.set_num_threads(2)
    assert device_line(CPU) == "No GPU here: two CPU cores draw, kernels: torch"


@pytest.mark.gpu
def test_the_line_names_the_gpu() -> None:
    line = device_line(torch.device("cuda"))
    assert line.startswith(torch.cuda.get_device_name())
    assert "Triton" in line


def test_memory_is_that_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 1 << 28 < memory_of(CPU) < 1 << 50

    def unknown(name: str) -> int:
        raise ValueError(name)

    monkeypatch.setattr(os, "sysconf", unknown)
    assert memory_of(CPU) == 8 << 30


def test_numbers_in_words() -> None:
    assert [in_words(1), in_words(8), in_words(12)] == ["one", "eight", "12"]
