"""decode.cu itself, compiled for this CPU: its threads are threads, its shared memory an array."""

from __future__ import annotations

import ctypes
import mmap
import shutil
import subprocess
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch

import dpqlab.kernels
from dpqlab.kernels import reference
from dpqlab.kernels.cuda_decode import DecodeForm, DecodeGroup, group_decodes
from tests.kernels.random_weights import random_weight

HOST = Path(__file__).parent / "host"
SOURCES = Path(dpqlab.kernels.__file__).parent
COMPILER = shutil.which("g++")

pytestmark = pytest.mark.skipif(COMPILER is None, reason="g++ is not installed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("host")


@lru_cache(maxsize=64)
def compiled(form: DecodeForm, folder: Path) -> Any:
    out = folder / f"decode{abs(hash(form))}.so"
    assert COMPILER is not None
    command = [COMPILER, "-std=c++20", "-O1", "-w", "-shared", "-fPIC", "-pthread"]
    # the header beside a source is found first: the source is read from elsewhere
    (folder / "decode.cu").write_text((SOURCES / "decode.cu").read_text())
    (folder / "ptx.cuh").write_text((HOST / "ptx.cuh").read_text())
    command += [f"-I{folder}", *form.source().options, str(HOST / "decode_layers.cpp")]
    subprocess.run([*command, "-o", str(out)], check=True, timeout=120)
    return ctypes.CDLL(str(out))


def decode_on_cpu(group: DecodeGroup, folder: Path) -> None:
    compiled(group.form, folder).run(
        ctypes.byref(group.layers), group.count, group.blocks, group.shared
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("d", "k", "scopes", "extras", "shape"),
    [
        (8, 512, "layer", ("scale",), (200, 152)),
        (8, 300, "layer", ("table",), (37, 24)),
        (8, 256, "position", (), (130, 72)),
        (8, 1000, "position", ("scale", "table"), (5, 40)),
        (4, 256, "position", (), (1200, 72)),
        (4, 37, "layer", ("scale", "table"), (391, 136)),
        (4, 5, "position", ("scale",), (1, 8)),
        (8, 2, "layer", (), (17, 8)),
    ],
)
def test_it_decodes_what_the_reference_does(
    d: int,
    k: int,
    scopes: str,
    extras: tuple[str, ...],
    shape: tuple[int, int],
    dtype: torch.dtype,
    folder: Path,
) -> None:
    weight = random_weight(shape, d, k, scopes=scopes, extras=extras)
    out = torch.full((shape[0], shape[1]), torch.nan, dtype=dtype)
    (group,) = group_decodes([weight], [out])
    decode_on_cpu(group, folder)
    assert torch.equal(out, reference.decode(weight, dtype))


def test_layers_of_one_launch(folder: Path) -> None:
    weights = [
        random_weight((rows, 72), 8, 300, scopes="layer", extras=("scale",))
        for rows in (200, 7, 400)
    ]
    buffer = torch.full((607, 80), torch.nan, dtype=torch.bfloat16)
    parts = buffer[:, :72].split([200, 7, 400])
    (group,) = group_decodes(weights, parts)
    decode_on_cpu(group, folder)
    for weight, part in zip(weights, parts, strict=True):
        assert torch.equal(part, reference.decode(weight, torch.bfloat16))
    assert buffer[:, 72:].isnan().all()


@pytest.mark.parametrize(("k", "shape"), [(20, (8, 8)), (300, (37, 24)), (2, (8, 8))])
def test_nothing_behind_the_codes_is_read(k: int, shape: tuple[int, int], folder: Path) -> None:
    """The stream ends where a page of memory does, and the next page may not be read."""
    weight = random_weight(shape, 8, k, scopes="layer")
    memory, size = mmap.mmap(-1, 2 * mmap.PAGESIZE), weight.codes.numel()
    end = ctypes.addressof(ctypes.c_char.from_buffer(memory)) + mmap.PAGESIZE
    library = ctypes.CDLL(None)
    library.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    assert library.mprotect(end, mmap.PAGESIZE, 0) == 0
    start = mmap.PAGESIZE - size
    codes = torch.frombuffer(memory, dtype=torch.uint8, count=size, offset=start)
    codes.copy_(weight.codes)
    expected = reference.decode(weight, torch.bfloat16)
    out = torch.full(shape, torch.nan, dtype=torch.bfloat16)
    (group,) = group_decodes([replace(weight, codes=codes)], [out])
    decode_on_cpu(group, folder)
    assert torch.equal(out, expected)
