"""Decoding in Triton: interpreted against the definition, its machine code, and on a GPU."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.kernels.random_weights import random_weight
from tests.kernels.triton_cases import (
    RAGGED,
    Machine,
    by_definition,
    compiled,
    run_interpreted,
    weight_of,
)

pytest.importorskip("triton", reason="Triton comes with PyTorch's CUDA builds")

POINTERS = {
    "codes": "*u8",
    "pool": "*fp16",
    "first": "*i32",
    "size": "*i32",
    "table": "*i32",
    "scale": "*fp16",
    "out": "*bf16",
}
GROUPED = {"layers": "*i64", "layer_of": "*i32"} | {
    "pool_like": "*fp16",
    "scale_like": "*fp16",
    "out_like": "*bf16",
}


def test_every_layout_interpreted() -> None:
    # Nothing is rounded to bfloat16: the interpreter cuts there.
    run_interpreted("""
import torch
from dpqlab.kernels.triton_decode import DecodeConfig, decode
from tests.kernels.triton_cases import RAGGED, by_definition, weight_of
torch.manual_seed(0)
short = DecodeConfig(rows=16, steps=2)
for case in range(len(RAGGED)):
    for pool in (torch.float16, torch.bfloat16, torch.float32):
        weight = weight_of(case, pool)
        expected = by_definition(weight)
        assert torch.equal(decode(weight, torch.float32), expected), case
        assert torch.equal(decode(weight, torch.float16, config=short), expected.half()), case
    if "scale" not in RAGGED[case][-1]:
        weight = weight_of(case, torch.bfloat16)
        assert torch.equal(decode(weight, torch.bfloat16).float(), by_definition(weight)), case
""")


def test_many_layers_into_given_buffers_interpreted() -> None:
    run_interpreted("""
import torch
from dpqlab.kernels.triton_decode import decode_many, group_decodes
from tests.kernels.triton_cases import RAGGED, by_definition, weight_of
torch.manual_seed(0)
weights = [weight_of(case) for case in (0, 1, 0, 2, 0, *range(3, len(RAGGED)))]
outs = [torch.full(weight.shape, 9.0, dtype=torch.float16) for weight in weights]
stacked = torch.full((3 * 70, 96), 9.0, dtype=torch.float16)
outs[0], outs[2] = stacked[:70], stacked[140:]
groups = group_decodes(weights, outs)
assert [len(group.weights) for group in groups][:3] == [3, 1, 1]  # alike: one launch
decode_many(groups)
for weight, out in zip(weights, outs):
    assert torch.equal(out, by_definition(weight).half())
assert (stacked[70:140] == 9).all()
""")


def test_a_buffer_that_does_not_fit_is_refused() -> None:
    run_interpreted("""
import dataclasses, torch
from dpqlab.errors import ShapeError
from dpqlab.kernels.triton_decode import decode
from tests.kernels.triton_cases import weight_of
weight = weight_of(0)
strided = dataclasses.replace(weight, pool=weight.pool.repeat(1, 2)[:, ::2])
wrong = [(weight, torch.empty(70, 95)), (weight, torch.empty(70, 96).half()),
         (weight, torch.empty(96, 70).T), (strided, None)]
for coded, out in wrong:
    try:
        decode(coded, torch.float32, out)
    except ShapeError as error:
        assert "got" in str(error)
    else:
        raise AssertionError("accepted")
""")


def built(d: int, bits: int, scaled: bool, grouped: bool) -> Machine:
    from dpqlab.kernels import triton_decode
    from dpqlab.kernels.triton_codes import unit_of

    config = triton_decode.DecodeConfig()
    flags = {"EVEN": True, "INDEXED": False, "SCALED": scaled, "WIDE": False}
    sizes = {"D": d, "UNIT": unit_of(d), "BITS": bits}
    tile = {"BR": config.rows, "BC": triton_decode.BLOCK_COLUMNS, "STEPS": config.steps}
    constants = flags | sizes | tile | ({"ALIGNED": True} if grouped else {})
    kernel = triton_decode._decode_group_kernel if grouped else triton_decode._decode_kernel
    pointers = GROUPED if grouped else POINTERS
    return compiled(kernel, pointers, constants, num_warps=config.warps)


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize(
    ("d", "bits", "scaled"), [(4, 8, False), (4, 9, True), (8, 8, False), (8, 10, True)]
)
def test_a_thread_reads_and_writes_whole_units(
    d: int, bits: int, scaled: bool, grouped: bool
) -> None:
    machine = built(d, bits, scaled, grouped)
    units = 64 * 64 // 128 // d  # of a thread
    assert machine.of("LDG.E.U8") == units * (1 if bits == 8 else 2)
    assert machine.of(f"STG.E.{16 * d}") == units == machine.of("STG")
    assert machine.of(f"LDG.E.{16 * d}") >= units
    # Nothing moves between threads, nothing spills.
    for moved in ("SHFL", "STS", "LDS", "BAR", "LDL", "STL"):
        assert machine.of(moved) == 0, moved
    assert sum(machine.counts.values()) < 90 * units  # 31 to 84 today


@pytest.mark.parametrize(("d", "bits"), [(4, 16), (16, 16), (16, 8), (8, 4)])
def test_each_byte_of_a_code_is_read_by_itself(d: int, bits: int) -> None:
    # The hint that orders the threads is not quite true: joined loads would read other bytes.
    machine = built(d, bits, scaled=False, grouped=False)
    units = 64 * 64 // 128 // min(d, 8)
    assert machine.of("LDG.E.U8") == units * (2 if bits == 16 else 1)
    assert machine.of("LDG.E.U16") == 0


@pytest.mark.parametrize(("d", "bits"), [(1, 12), (2, 16), (6, 11), (16, 9)])
def test_other_lengths_do_not_spill(d: int, bits: int) -> None:
    machine = built(d, bits, scaled=True, grouped=False)
    assert machine.of("STG") > 0
    assert machine.of("LDL") == machine.of("STL") == machine.of("SHFL") == 0


# --- on a GPU -----------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("case", range(len(RAGGED)))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_every_layout(case: int, dtype: torch.dtype) -> None:
    from dpqlab.kernels.triton_decode import decode

    for pool in (torch.float16, torch.bfloat16, torch.float32):
        weight = weight_of(case, pool)
        assert torch.equal(decode(weight.to("cuda"), dtype).cpu(), by_definition(weight).to(dtype))


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(1152, 1152), (4608, 1152), (1152, 4608), (6912, 1152)])
@pytest.mark.parametrize(
    ("d", "k", "scopes"), [(4, 256, "position"), (4, 500, "layer"), (8, 1000, "layer")]
)
def test_layers_of_dit_xl(shape: tuple[int, int], d: int, k: int, scopes: str) -> None:
    from dpqlab.kernels.triton_decode import decode

    for extras in ((), ("scale",), ("scale", "table")):
        weight = random_weight(shape, d, k, scopes=scopes, extras=extras)
        expected = by_definition(weight).bfloat16()
        assert torch.equal(decode(weight.to("cuda"), torch.bfloat16).cpu(), expected)


@pytest.mark.gpu
def test_a_block_in_one_captured_launch() -> None:
    from dpqlab.kernels.triton_decode import decode_many, group_decodes

    shapes = [(1152, 1152)] * 4 + [(4608, 1152), (1152, 4608)]
    weights = [random_weight(s, 4, 512, scopes="layer", extras=("scale",)) for s in shapes]
    stacked = torch.empty(3 * 1152, 1152, dtype=torch.bfloat16, device="cuda")
    outs = list(stacked.split(1152))
    outs += [torch.empty(s, dtype=torch.bfloat16, device="cuda") for s in shapes[3:]]
    groups = group_decodes([weight.to("cuda") for weight in weights], outs)
    assert len(groups) == 1
    decode_many(groups)  # compiles
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        decode_many(groups)
    for out in outs:
        out.zero_()
    graph.replay()
    for weight, out in zip(weights, outs, strict=True):
        assert torch.equal(out.cpu(), by_definition(weight).bfloat16())


@pytest.mark.gpu
def test_indices_beyond_31_bits() -> None:
    from dpqlab.kernels.triton_decode import decode

    weight = replace(random_weight((70_000, 16_384), 8, 7, scopes="layer"), scale=None)
    decoded = decode(weight.to("cuda"), torch.float16)
    last = 70_000 - 40
    tail = replace(weight, codes=weight.codes[last * 2048 * 3 // 8 :], shape=(40, 16_384))
    assert torch.equal(decoded[last:].cpu(), by_definition(tail).half())
