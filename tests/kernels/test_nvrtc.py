"""CUDA C++ compiled without a GPU, and where the result is kept."""

from __future__ import annotations

import ctypes
import stat
from pathlib import Path

import pytest
import torch

from dpqlab.errors import BackendError
from dpqlab.kernels import nvrtc
from dpqlab.kernels.nvrtc import Source

ADD = """
#include "one.h"
extern "C" __global__ void add_one(float* x, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) x[i] += ONE * STEP;
}
"""
HEADERS = (("one.h", "#define ONE 1.0f\n"),)
SOURCE = Source(name="add.cu", text=ADD, headers=HEADERS, options=("-DSTEP=1",))

needs_nvrtc = pytest.mark.skipif(nvrtc.trouble() is not None, reason=str(nvrtc.trouble()))


@needs_nvrtc
def test_machine_code_needs_no_gpu() -> None:
    cubin, _ = nvrtc.compile_source(SOURCE, "sm_90")
    assert cubin.startswith(b"\x7fELF")
    assert b"add_one" in cubin


@needs_nvrtc
def test_what_the_compiler_says_is_in_the_error() -> None:
    broken = Source(name="broken.cu", text="int x = nonsense;")
    with pytest.raises(BackendError, match=r"broken\.cu.*nonsense") as raised:
        nvrtc.compile_source(broken, "sm_90")
    assert "-arch=sm_90" in str(raised.value)


def test_without_nvrtc_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise ImportError("no bindings here")

    monkeypatch.setattr(nvrtc, "_nvrtc", missing)
    nvrtc.trouble.cache_clear()
    try:
        with pytest.raises(BackendError, match=r"no bindings here.*dpqlab\[gpu\]"):
            nvrtc.compile_source(Source(name="a.cu", text=""), "sm_90")
    finally:
        nvrtc.trouble.cache_clear()


@needs_nvrtc
def test_machine_code_is_kept_where_only_the_user_can_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = nvrtc._cached_cubin(SOURCE, "sm_90")
    folder = tmp_path / "dpqlab" / "kernels"
    (kept,) = folder.iterdir()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert kept.read_bytes() == first
    kept.write_bytes(b"from the disk")
    assert nvrtc._cached_cubin(SOURCE, "sm_90") == b"from the disk"
    assert nvrtc._cached_cubin(SOURCE, "sm_80") != b"from the disk"


@needs_nvrtc
def test_a_folder_that_others_can_write_to_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "dpqlab" / "kernels"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    assert nvrtc._cached_cubin(SOURCE, "sm_90").startswith(b"\x7fELF")
    assert not list(folder.iterdir())


@pytest.mark.gpu
def test_kernels_run_on_the_current_stream() -> None:
    kernel = nvrtc.load_kernel(SOURCE, "add_one", torch.device("cuda"))
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        x = torch.zeros(100, device="cuda")
        for _ in range(5):
            nvrtc.launch(kernel, (1, 1), 128, [x, ctypes.c_int(100)])
    stream.synchronize()
    assert torch.equal(x.cpu(), torch.full((100,), 5.0))


@pytest.mark.gpu
def test_graphs_capture_launches() -> None:
    kernel = nvrtc.load_kernel(SOURCE, "add_one", torch.device("cuda"))
    x, graph = torch.zeros(100, device="cuda"), torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        nvrtc.launch(kernel, (1, 1), 128, [x, ctypes.c_int(100)])
    assert float(x.sum()) == 0.0
    graph.replay()
    graph.replay()
    assert torch.equal(x.cpu(), torch.full((100,), 2.0))


@pytest.mark.gpu
def test_what_the_driver_refuses_is_an_error() -> None:
    kernel = nvrtc.load_kernel(SOURCE, "add_one", torch.device("cuda"))
    x = torch.zeros(1, device="cuda")
    with pytest.raises(BackendError, match="CUDA_ERROR_INVALID_VALUE"):
        nvrtc.launch(kernel, (1, 1), 4096, [x, ctypes.c_int(1)])
