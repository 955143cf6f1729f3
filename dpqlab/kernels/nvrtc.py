"""CUDA C++ compiled at first use by NVRTC and launched through the driver.

Compiling needs NVIDIA's ``cuda-bindings`` and NVRTC, both of which come with PyTorch's CUDA builds;
it needs no GPU and no ``nvcc``. Compiled code is kept in memory, and on disk in a folder that only
the user can read and write.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib
import os
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from dpqlab.errors import BackendError
from dpqlab.kernels.caches import cache_folder

_INSTALL = "pip install 'dpqlab[gpu]', or a CUDA build of PyTorch, which brings it along"


@dataclass(frozen=True, kw_only=True)
class Source:
    """What is compiled.

    Attributes
    ----------
    name
        Of the file, for messages.
    text
        CUDA C++; kernels are ``extern "C"``.
    headers
        Name and text of each file that it includes.
    options
        Such as ``"-DBITS=8"``; the architecture is not among them.
    """

    name: str
    text: str
    headers: tuple[tuple[str, str], ...] = ()
    options: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class Kernel:
    """A kernel on a device, ready to launch.

    Attributes
    ----------
    function
        The driver's handle.
    device
        Index of the device it was loaded on.
    """

    function: Any
    device: int


def package_source(name: str, headers: Iterable[str], options: Mapping[str, int]) -> Source:
    """Return the source in a file beside this one, with ``options`` as macros."""
    folder = Path(__file__).parent
    return Source(
        name=name,
        text=(folder / name).read_text(encoding="utf-8"),
        headers=tuple(
            (header, (folder / header).read_text(encoding="utf-8")) for header in headers
        ),
        options=tuple(f"-D{macro}={value}" for macro, value in options.items()),
    )


@lru_cache(maxsize=1)
def trouble() -> str | None:
    """Return why nothing can be compiled here, or None if it can; asks for no GPU."""
    try:
        _checked(_nvrtc().nvrtcVersion())
    except Exception as error:  # bindings without their library raise an error of their own
        return f"NVRTC cannot be used ({error}): {_INSTALL}"
    return None


@lru_cache(maxsize=256)
def compile_source(source: Source, architecture: str) -> tuple[bytes, str]:
    """Compile to machine code.

    Parameters
    ----------
    source
        What to compile.
    architecture
        Such as ``"sm_90"``.

    Returns
    -------
    cubin, log : bytes, str
        The log holds the compiler's warnings; with the option ``--ptxas-options=-v`` also registers
        and stack of each kernel.

    Raises
    ------
    BackendError
        If NVRTC is missing or refuses the source, with its log.
    """
    if (reason := trouble()) is not None:
        raise BackendError(reason)
    nvrtc = _nvrtc()
    names = [name.encode() for name, _ in source.headers]
    texts = [text.encode() for _, text in source.headers]
    program = _checked(
        nvrtc.nvrtcCreateProgram(
            source.text.encode(), source.name.encode(), len(names), texts, names
        )
    )
    options = [f"-arch={architecture}", "-std=c++17", *source.options]
    try:
        (status,) = nvrtc.nvrtcCompileProgram(program, len(options), [o.encode() for o in options])
        log = bytearray(_checked(nvrtc.nvrtcGetProgramLogSize(program)))
        _checked(nvrtc.nvrtcGetProgramLog(program, log))
        message = log.decode(errors="replace").strip("\0\n ")
        if int(status) != 0:
            raise BackendError(
                f"NVRTC cannot compile {source.name} with {' '.join(options)}: got\n{message}"
            )
        cubin = bytearray(_checked(nvrtc.nvrtcGetCUBINSize(program)))
        _checked(nvrtc.nvrtcGetCUBIN(program, cubin))
    finally:
        nvrtc.nvrtcDestroyProgram(program)
    return bytes(cubin), message


def load_kernel(source: Source, kernel: str, device: torch.device, shared: int = 0) -> Kernel:
    """Compile for a device, or find what was compiled before, and load it.

    Not while a CUDA graph is captured: call what uses the kernel once before.

    Parameters
    ----------
    source
        What to compile.
    kernel
        Name of the kernel in it.
    device
        A CUDA device.
    shared
        Most bytes of dynamic shared memory that a launch will ask for.
    """
    index = torch.cuda.current_device() if device.index is None else device.index
    return _loaded(source, kernel, index, shared)


def launch(
    kernel: Kernel,
    grid: tuple[int, int],
    threads: int,
    arguments: Iterable[ctypes._SimpleCData[Any] | ctypes.Array[Any] | torch.Tensor | None],
    *,
    shared: int = 0,
    overlap: bool = False,
) -> None:
    """Launch on PyTorch's current stream, so that CUDA graphs capture it.

    Parameters
    ----------
    kernel
        From :func:`load_kernel`.
    grid
        Blocks, (x, y).
    threads
        Of a block.
    arguments
        Tensors (their addresses), None (a null pointer), or ctypes values and arrays (by value).
    shared
        Bytes of dynamic shared memory.
    overlap
        Whether the kernel may start before the one ahead of it in the stream is over; it has to
        wait by itself (``griddepcontrol.wait``) before it reads what that one wrote.

    Raises
    ------
    BackendError
        If the driver refuses.
    """
    driver = _driver()
    values = [
        ctypes.c_void_p(_address(value))
        if value is None or isinstance(value, torch.Tensor)
        else value
        for value in arguments
    ]
    pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
    config = driver.CUlaunchConfig()
    config.gridDimX, config.gridDimY, config.gridDimZ = *grid, 1
    config.blockDimX, config.blockDimY, config.blockDimZ = threads, 1, 1
    config.sharedMemBytes = shared
    config.hStream = driver.CUstream(torch.cuda.current_stream(kernel.device).cuda_stream)
    if overlap:
        attribute = driver.CUlaunchAttribute()
        attribute.id = (
            driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
        )
        attribute.value.programmaticStreamSerializationAllowed = 1
        config.attrs, config.numAttrs = [attribute], 1
    _enter(kernel.device)
    _checked(driver.cuLaunchKernelEx(config, kernel.function, ctypes.addressof(pointers), 0))


@lru_cache(maxsize=32)
def _text(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def _address(tensor: torch.Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


@lru_cache(maxsize=256)
def _loaded(source: Source, kernel: str, index: int, shared: int) -> Kernel:
    driver = _driver()
    function = _checked(driver.cuModuleGetFunction(_module(source, index), kernel.encode()))
    if shared > 0:
        most = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        _checked(driver.cuFuncSetAttribute(function, most, shared))
    return Kernel(function=function, device=index)


@lru_cache(maxsize=256)
def _module(source: Source, index: int) -> Any:
    major, minor = torch.cuda.get_device_capability(index)
    cubin = _cached_cubin(source, f"sm_{major}{minor}")
    _enter(index)
    return _checked(_driver().cuModuleLoadData(cubin))


def _enter(index: int) -> None:
    """Make the context that PyTorch uses on a device the current one of this thread."""
    driver, context = _driver(), _primary_context(index)
    if int(_checked(driver.cuCtxGetCurrent())) != int(context):
        _checked(driver.cuCtxSetCurrent(context))


@lru_cache(maxsize=64)
def _primary_context(index: int) -> Any:
    torch.cuda.synchronize(index)  # PyTorch makes the context; retaining it keeps its settings
    return _checked(_driver().cuDevicePrimaryCtxRetain(_checked(_driver().cuDeviceGet(index))))


def _cached_cubin(source: Source, architecture: str) -> bytes:
    """Return the machine code from the user's folder, or compile it and leave it there."""
    if (reason := trouble()) is not None:
        raise BackendError(reason)
    version = _checked(_nvrtc().nvrtcVersion(), several=True)
    key = hashlib.sha256(repr((source, architecture, version)).encode()).hexdigest()
    folder = cache_folder("kernels")
    if folder is None:
        return compile_source(source, architecture)[0]
    path = folder / f"{key}.cubin"
    with suppress(OSError):
        return path.read_bytes()
    cubin, _ = compile_source(source, architecture)
    with suppress(OSError):  # a full disk is no reason to fail
        handle, temporary = tempfile.mkstemp(dir=folder)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(cubin)
            Path(temporary).replace(path)
        except OSError:
            Path(temporary).unlink(missing_ok=True)
    return cubin


def _nvrtc() -> Any:
    return importlib.import_module("cuda.bindings.nvrtc")


def _driver() -> Any:
    return importlib.import_module("cuda.bindings.driver")


def _checked(returned: tuple[Any, ...], *, several: bool = False) -> Any:
    """Return what a call of the bindings returned beside its status.

    Raises
    ------
    BackendError
        If the status says that it failed.
    """
    status, *values = returned
    if int(status) != 0:
        raise BackendError(f"CUDA call failed: got {status!s}, expected success")
    if several:
        return tuple(values)
    return values[0] if values else None
