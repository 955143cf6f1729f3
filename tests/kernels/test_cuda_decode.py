"""The CUDA decoder: what it refuses, its machine code, and on a GPU the reference bit for bit."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch

from dpqlab.errors import BackendError, ShapeError
from dpqlab.kernels import nvrtc, reference
from dpqlab.kernels.coded import CodedWeight
from dpqlab.kernels.cuda_decode import (
    CODEBOOK_BYTES,
    decode,
    decode_many,
    form_of,
    group_decodes,
    refusal,
)
from tests.kernels.random_weights import random_weight

SHIPPED = [
    # d, k, scopes, scale: what the presets leave at the shapes of DiT-XL/2
    (4, 256, "position", False),
    (8, 256, "position", False),
    (4, 512, "layer", True),
    (4, 32, "layer", True),
    (8, 512, "layer", True),
    (8, 64, "layer", True),
    (8, 1024, "layer", True),
    (8, 128, "layer", True),
    (4, 256, "layer", False),
    (8, 256, "layer", False),
]


def weight_of(d: int, k: int, scopes: str, *, scaled: bool, columns: int = 144) -> CodedWeight:
    extras = ("scale",) if scaled else ()
    return random_weight((40, columns), d, k, scopes=scopes, extras=extras)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"d": 6}, "expected 4 or 8"),
        ({"columns": 142}, "expected 4 or 8"),
        ({"columns": 140, "d": 4}, "multiple of 8"),
        ({"k": 2000}, "at most 10"),
    ],
)
def test_what_it_is_not_for(changes: dict[str, int], why: str) -> None:
    settings = {"d": 8, "k": 16, "columns": 144} | changes
    weight = random_weight((40, settings["columns"]), settings["d"], settings["k"])
    assert why in (refusal(weight, torch.bfloat16) or "")
    with pytest.raises(BackendError, match="Triton has one"):
        form_of(weight, torch.bfloat16)


def test_other_dtypes_are_not_for_it() -> None:
    weight = weight_of(8, 16, "layer", scaled=True)
    assert refusal(weight, torch.bfloat16) is None
    assert "float32" in (refusal(weight, torch.float32) or "")
    assert "pool" not in (refusal(weight, torch.float16) or "")
    assert refusal(replace(weight, pool=weight.pool.float()), torch.float16)
    assert weight.scale is not None
    assert refusal(replace(weight, scale=weight.scale.float()), torch.float16)


@pytest.mark.parametrize(("d", "k", "scopes", "scaled"), SHIPPED)
def test_shared_memory_holds_the_codewords(d: int, k: int, scopes: str, scaled: bool) -> None:
    weight = weight_of(d, k, scopes, scaled=scaled, columns=1152)
    form = form_of(weight, torch.bfloat16)
    assert form.whole == (scopes == "layer")
    assert form.across * 2 * d >= 128  # a whole line of a row is stored together
    assert form.threads % (8 * form.across) == 0
    if not form.whole:
        assert form.across * 2 * d << form.bits <= CODEBOOK_BYTES


@pytest.mark.parametrize("bits", range(1, 11))
def test_enough_bytes_are_read_for_any_code(bits: int) -> None:
    form = replace(form_of(weight_of(8, 16, "layer", scaled=False), torch.float16), bits=bits)
    needed = max(-(-((i * bits) % 8 + bits) // 8) for i in range(64))
    assert form.loads == needed


def test_buffers_are_checked() -> None:
    weight = weight_of(8, 16, "layer", scaled=False)
    whole = torch.empty(41, 144, dtype=torch.bfloat16)
    with pytest.raises(ShapeError, match="buffer of a weight"):
        group_decodes([weight], [whole])
    with pytest.raises(ShapeError, match="multiple of 16 bytes"):
        group_decodes(
            [weight], [torch.empty(40 * 144 + 8, dtype=torch.bfloat16)[4:-4].view(40, 144)]
        )


@pytest.mark.skipif(nvrtc.trouble() is not None, reason="NVRTC is not installed")
@pytest.mark.parametrize(("d", "k", "scopes", "scaled"), SHIPPED)
def test_machine_code_keeps_everything_in_registers(
    d: int, k: int, scopes: str, scaled: bool
) -> None:
    source = form_of(weight_of(d, k, scopes, scaled=scaled), torch.bfloat16).source()
    source = replace(source, options=(*source.options, "--ptxas-options=-v"))
    _, log = nvrtc.compile_source(source, "sm_90")
    (spilled,) = map(int, re.findall(r"(\d+) bytes spill stores", log))
    (registers,) = map(int, re.findall(r"Used (\d+) registers", log))
    threads = form_of(weight_of(d, k, scopes, scaled=scaled), torch.bfloat16).threads
    # two tall tiles to a multiprocessor, at 32 registers, are worth two that spill, once a tile
    assert spilled <= (8 if (d, scopes) == (4, "position") else 0)
    assert 2 * threads * registers <= 65_536


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("d", "k", "scopes", "scaled"), SHIPPED)
def test_shipped_codecs_on_a_gpu(
    d: int, k: int, scopes: str, scaled: bool, dtype: torch.dtype
) -> None:
    extras = ("scale",) if scaled else ()
    weight = random_weight((1152, 1152), d, k, scopes=scopes, extras=extras)
    there = torch.full((1152, 1152), torch.nan, dtype=dtype, device="cuda")
    assert decode(weight.to("cuda"), dtype, there) is there
    assert torch.equal(there.cpu(), reference.decode(weight, dtype))


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(1, 8), (130, 1160), (513, 72)])
@pytest.mark.parametrize("k", [5, 300])
@pytest.mark.parametrize("extras", [(), ("scale",), ("table",), ("scale", "table")])
def test_ragged_weights_with_any_codes_on_a_gpu(
    shape: tuple[int, int], k: int, extras: tuple[str, ...]
) -> None:
    for d in (4, 8):
        for scopes in ("position", "layer"):
            weight = random_weight(shape, d, k, scopes=scopes, extras=extras)
            found = decode(weight.to("cuda"), torch.bfloat16)
            assert torch.equal(found.cpu(), reference.decode(weight, torch.bfloat16))


@pytest.mark.gpu
def test_layers_of_one_launch_on_a_gpu() -> None:
    weights = [
        random_weight((rows, 1152), 8, 512, scopes="layer", extras=("scale",))
        for rows in (1152, 100, 4608)
    ]
    buffer = torch.full((5860, 1152), torch.nan, dtype=torch.bfloat16, device="cuda")
    parts = buffer.split([1152, 100, 4608])
    groups = group_decodes([weight.to("cuda") for weight in weights], parts)
    assert len(groups) == 1
    decode_many(groups)
    for weight, part in zip(weights, parts, strict=True):
        assert torch.equal(part.cpu(), reference.decode(weight, torch.bfloat16))
