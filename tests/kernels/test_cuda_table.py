"""The table linear: its plan, its algorithm, its machine code, its results."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dpqlab.errors import BackendError, ShapeError
from dpqlab.kernels import cuda_table, nvrtc, reference
from dpqlab.kernels.coded import CodedWeight
from dpqlab.kernels.table_layout import Group, Prepared, prepare
from dpqlab.kernels.table_plan import Machine, Plan, make_plan, segments_of
from tests.kernels.random_weights import random_weight

SHIPPED = {  # modulation layers of DiT-XL/2: code bits, d, tables
    "dpq-2bit": (8, 4, 1),
    "dpq-1bit": (8, 8, 1),
    "best-2bit": (5, 4, 1),
    "best-1.25bit": (7, 8, 1),
    "best-1bit": (6, 8, 1),
    "vq-2bit": (8, 4, 28),
    "vq-1bit": (8, 8, 28),
}
TOKEN_LAYERS = {"best token 2": (9, 4, 1), "best token 1": (9, 8, 1), "best token 1.25": (10, 8, 1)}
TOLERANCE = {torch.float32: 1e-3, torch.float16: 1e-3, torch.bfloat16: 4e-3}


def by_definition(weights: list[CodedWeight], biases: list[Tensor | None], x: Tensor) -> Tensor:
    parts: list[Tensor] = []
    for weight, bias in zip(weights, biases, strict=True):
        y = x.double() @ reference.decode(weight, torch.float64).T
        parts.append(y if bias is None else y + bias.double())
    return torch.cat(parts, 1)


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected).norm() / expected.norm())


def emulated(prepared: Prepared, x: Tensor, plan: Plan) -> Tensor:
    """What the two kernels do, in the same order, except for the scaling of float16."""
    wide = torch.float16 if len(x) > 1 else torch.float32
    m, d = prepared.positions, prepared.pool.shape[1]
    bits = prepared.code_bits
    padded = torch.nn.functional.pad(x.float(), (0, m * d - x.shape[1])).view(len(x), m, 1, d)
    codes = torch.arange(plan.length)
    index = prepared.first[..., None] + torch.minimum(codes, prepared.size[..., None] - 1)
    index = index if prepared.indices is None else prepared.indices[index.long()]
    codewords = prepared.pool.float()[index.long()]  # (T, m, length, d)
    tables = (padded[:, None] * codewords).sum(-1).to(wide)  # (M, T, m, length)
    y = torch.full((len(x), prepared.shape[0]), float("nan"))
    words = torch.cat([prepared.words, torch.zeros_like(prepared.words[:1])]).long() & 0xFFFFFFFF
    segments, starts = segments_of(prepared.groups, plan)
    for block in range(plan.blocks):
        for segment in segments[starts[block] : starts[block + 1]]:
            rows = words[:, segment.row : segment.row + segment.rows]
            found: list[Tensor] = []
            for g in range(m):
                low, w = g * bits % 32, g * bits // 32
                code = (rows[w] | rows[w + 1] << 32) >> low & ((1 << bits) - 1)
                found.append(tables[:, segment.table, g][:, code])
            total = torch.zeros(len(x), segment.rows)
            for g in range(0, m, 4):
                part = found[g : g + 4]
                left = part[0] + part[1] if len(part) > 1 else part[0]
                right = part[2] + part[3] if len(part) > 3 else part[-1]
                total += (left + right if len(part) > 2 else left).float()
            y[:, segment.out : segment.out + segment.rows] = total
    y = y if prepared.scale is None else y * prepared.scale
    return y if prepared.bias is None else y + prepared.bias


@pytest.mark.parametrize("rows", [1, 2, 5])
@pytest.mark.parametrize("k", [2, 5, 32, 100, 300])
def test_the_algorithm_follows_the_definition(k: int, rows: int) -> None:
    shared = random_weight((70, 45), 4, k)
    weights = [
        shared,
        replace(
            random_weight((33, 45), 4, k), pool=shared.pool, first=shared.first, size=shared.size
        ),
        random_weight((50, 45), 4, k, extras=("scale", "table")),
    ]
    biases = [torch.randn(70), None, torch.randn(50)]
    prepared, x = prepare(weights, biases), torch.randn(rows, 45)
    plan = make_plan(prepared.groups, 12, prepared.code_bits, rows, Machine(blocks=3))
    error = relative_error(emulated(prepared, x, plan), by_definition(weights, biases, x))
    assert error < (1e-6 if rows == 1 else 1e-3)


def test_other_devices_and_shapes_are_refused() -> None:
    prepared = prepare([random_weight((8, 24), 4, 9)], [None])
    with pytest.raises(BackendError, match="CUDA device"):
        cuda_table.run(prepared, torch.randn(2, 24))
    with pytest.raises(ShapeError, match=r"\(M, 24\)"):
        cuda_table.run(prepared, torch.randn(2, 25))


def model_of(bits: int, d: int, tables: int) -> Prepared:
    """The geometry of all modulation layers of DiT-XL/2, without data."""
    m, rows = 1152 // d, 6912 * 28 // tables
    return Prepared(
        words=torch.empty(0, dtype=torch.int32),
        pool=torch.empty(0, d, dtype=torch.float16),
        first=torch.empty(tables, m, dtype=torch.int32),
        size=torch.empty(tables, m, dtype=torch.int32),
        indices=None,
        scale=torch.empty(0, dtype=torch.float16),
        bias=torch.empty(0, dtype=torch.bfloat16),
        groups=tuple(Group(table=i, row=rows * i, rows=rows, out=rows * i) for i in range(tables)),
        shape=(6912 * 28, 1152),
        code_bits=bits,
        exponent=0,
    )


def compiled(source: nvrtc.Source) -> tuple[bytes, str]:
    options = (*source.options, "--ptxas-options=-v")
    return nvrtc.compile_source(replace(source, options=options), "sm_90")


def check_no_local_memory(log: str, threads: int) -> None:
    assert re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores", log) == [("0", "0")]
    (registers,) = map(int, re.findall(r"Used (\d+) registers", log))
    assert registers * threads <= 65_536


@pytest.mark.skipif(nvrtc.trouble() is not None, reason=str(nvrtc.trouble()))
@pytest.mark.parametrize("rows", [1, 2, 4, 8])
@pytest.mark.parametrize("name", [*SHIPPED, *TOKEN_LAYERS])
def test_machine_code_keeps_everything_in_registers(name: str, rows: int) -> None:
    prepared = model_of(*(SHIPPED | TOKEN_LAYERS)[name])
    machine, vectors = Machine(), (8, 8) if prepared.pool.shape[1] == 4 else (16, 16)
    plan = make_plan(prepared.groups, prepared.positions, prepared.code_bits, rows, machine)
    source = cuda_table.lookup_source(prepared, rows, torch.bfloat16, plan, machine)
    _, log = compiled(source)
    check_no_local_memory(log, 32 * (plan.warps + 1))
    build = cuda_table.build_source(prepared, rows, vectors, torch.bfloat16, machine)
    _, log = compiled(build)
    check_no_local_memory(log, 256)


def disassembler() -> str | None:
    """nvdisasm from the path, or out of triton's wheel."""
    if (found := shutil.which("nvdisasm")) is not None:
        return found
    spec = importlib.util.find_spec("triton")
    folders = [] if spec is None else spec.submodule_search_locations or []
    paths = (Path(folder, "backends", "nvidia", "bin", "nvdisasm") for folder in folders)
    return next((str(path) for path in paths if path.exists()), None)


@pytest.mark.skipif(nvrtc.trouble() is not None, reason=str(nvrtc.trouble()))
@pytest.mark.skipif(disassembler() is None, reason="neither CUDA's nvdisasm nor triton's is here")
@pytest.mark.parametrize(("rows", "load"), [(1, "LDS"), (2, "LDS"), (4, "LDS.64"), (8, "LDS.128")])
def test_a_look_up_is_one_load_from_shared_memory(rows: int, load: str, tmp_path: Path) -> None:
    prepared, machine = model_of(8, 4, 1), Machine()
    plan = make_plan(prepared.groups, 288, 8, rows, machine)
    cubin, _ = compiled(cuda_table.lookup_source(prepared, rows, torch.bfloat16, plan, machine))
    (tmp_path / "kernel.cubin").write_bytes(cubin)
    command = [str(disassembler()), "-c", str(tmp_path / "kernel.cubin")]
    code = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    names = re.findall(r"\*/ +(?:@!?U?P\d+ +)?([A-Z][A-Z0-9_.]*)", code)
    loads = [name for name in names if name.startswith("LDS")]
    # a run of 32 codes for each of two rows of a lane, and no other use of shared memory
    assert loads == [load] * 64
    assert not [name for name in names if re.match(r"LD\.|LDL|STL|ATOM|RED", name)]
    assert "UBLKCP" in " ".join(names)  # the bulk copy


@pytest.mark.skipif(nvrtc.trouble() is not None, reason=str(nvrtc.trouble()))
@pytest.mark.parametrize("bulk", [True, False])
def test_other_architectures_compile(bulk: bool) -> None:
    machine = Machine(bulk=bulk, shared=99 * 1024)
    prepared = model_of(8, 4, 1)
    plan = make_plan(prepared.groups, 288, 8, 2, machine)
    architecture = "sm_120" if bulk else "sm_86"
    for source in (
        cuda_table.lookup_source(prepared, 2, torch.float32, plan, machine),
        cuda_table.build_source(prepared, 2, (16, 8), torch.float32, machine),
    ):
        nvrtc.compile_source(source, architecture)


@pytest.mark.gpu
@pytest.mark.parametrize("overlap", [True, False])
@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("rows", range(1, 9))
@pytest.mark.parametrize(
    ("columns", "d", "k", "scopes", "extras"),
    [
        (1152, 4, 256, "position", ()),
        (1152, 8, 256, "position", ()),
        (1152, 4, 32, "layer", ("scale",)),
        (1152, 8, 64, "layer", ("scale",)),
        (1152, 8, 128, "layer", ("scale",)),
        (1152, 4, 512, "layer", ("scale",)),
        (1150, 4, 5, "position", ("table",)),
        (53, 5, 700, "layer", ("table", "scale")),
        (99, 1, 17, "position", ()),
        (2000, 1024, 9, "position", ()),
    ],
)
def test_layers_follow_the_definition_on_a_gpu(
    columns: int,
    d: int,
    k: int,
    scopes: str,
    extras: tuple[str, ...],
    rows: int,
    dtype: torch.dtype,
    overlap: bool,
) -> None:
    first = random_weight((6912, columns), d, k, scopes=scopes, extras=extras)
    weights = [
        first,
        replace(random_weight((333, columns), d, k, scopes=scopes, extras=extras), pool=first.pool),
        random_weight((31, columns), d, k, scopes=scopes, extras=extras),
    ]
    if first.table is None:
        weights[1] = replace(weights[1], first=first.first, size=first.size)
    else:
        weights[1] = replace(weights[1], first=first.first, size=first.size, table=first.table)
    biases = [torch.randn(6912).bfloat16(), None, torch.randn(31).bfloat16()]
    x = torch.randn(rows, columns).to(dtype)
    prepared = prepare(
        [w.to("cuda") for w in weights], [None if b is None else b.cuda() for b in biases]
    )
    found = cuda_table.run(prepared, x.cuda(), overlap=overlap)
    again = cuda_table.run(prepared, x.cuda(), overlap=overlap)
    assert torch.equal(found, again)
    assert found.dtype == dtype
    assert relative_error(found.cpu(), by_definition(weights, biases, x)) < TOLERANCE[dtype]


@pytest.mark.gpu
@pytest.mark.parametrize("magnitude", [1e-30, 1e20])
def test_float16_entries_neither_overflow_nor_vanish(magnitude: float) -> None:
    weight = random_weight((64, 1152), 4, 256)
    x = magnitude * torch.randn(2, 1152)
    found = cuda_table.run(prepare([weight.to("cuda")], [None]), x.cuda())
    assert (
        relative_error(found.cpu() / magnitude, by_definition([weight], [None], x / magnitude))
        < 1e-3
    )


@pytest.mark.gpu
def test_a_graph_replays_with_new_input() -> None:
    weight = random_weight((6912, 1152), 4, 256)
    prepared, x = prepare([weight.to("cuda")], [None]), torch.randn(2, 1152, device="cuda")
    cuda_table.run(prepared, x)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = cuda_table.run(prepared, x)
    for _ in range(3):
        x.copy_(torch.randn(2, 1152))
        graph.replay()
        assert relative_error(y.cpu(), by_definition([weight], [None], x.cpu())) < 1e-3
