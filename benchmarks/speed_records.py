"""Rows of speed as records: compared with what, what was aimed at, the worst acceptable."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from benchmarks.record import make_record
from dpqlab.speed import Ceilings, SpeedRow
from dpqlab.speed.sampler import COMPILED, EAGER, StepRow

Record = dict[str, Any]
Bounds = tuple[float | None, float | None]

GPU_STEP = "guided step"
CPU_STEP = "guided step of fashion-dit on a CPU"
CPU_MEMORY = "weights resident, fashion-dit on a CPU"
GPU_MEMORY = "weights resident"
XL_MODULATION = "modulation layer 1152->6912, M=1"
RIVAL = "AQLM 2x8"
"""Rival whose rows are compared with ours of the same bits."""

GOALS: dict[tuple[str, str], Bounds] = {
    ("28 modulation layers, M=2", "2bit"): (4.0, 2.5),
    ("28 modulation layers, M=2", "1bit"): (6.0, 4.0),
    ("token layers, M=256", ""): (1.05, 0.75),
    ("token layers, M=512", ""): (0.95, 0.75),
    ("token layers, M=4096", ""): (0.97, 0.9),
    (f"token layers, M=512, against {RIVAL}", "2bit"): (2.0, 1.2),
    (f"{GPU_STEP}, 1 image, against diffusers", "1bit"): (1.5, 1.15),
    (f"{GPU_STEP}, 1 image, against our runtime", "1bit"): (1.0, 0.85),
    (f"{GPU_STEP}, 8 images, against diffusers", "1bit"): (1.05, 0.95),
    (GPU_MEMORY, "2bit"): (0.14, 0.17),
    (GPU_MEMORY, "1bit"): (0.08, 0.11),
    (f"{CPU_STEP}, 1 image, against our runtime", "1bit"): (1.0, 0.85),
    (CPU_MEMORY, "1bit"): (0.1, None),
    (XL_MODULATION, ""): (2.0, 1.5),
}
"""Goal and floor by workload and nominal bits (empty: any)."""


def bounds(work: str, way: str) -> Bounds:
    """Return goal and floor of a row; (None, None) for what none were set, rivals among it."""
    preset, _, aside = way.partition(":")
    family, _, bits = preset.partition(",")[0].partition("-")
    if family not in ("vq", "dpq", "best") or aside:
        return None, None
    return GOALS.get((work, bits)) or GOALS.get((work, "")) or (None, None)


def speed_records(
    rows: Sequence[SpeedRow], ceilings: Ceilings, *, suite: str, device: str
) -> Iterator[Record]:
    """Compare the rows of one workload with its dense one, and ours with :data:`RIVAL`.

    Parameters
    ----------
    rows
        Of one workload.
    ceilings
        Of the device.
    suite, device
        Of the records.
    """
    by_way = {row.way: row for row in rows}
    dense = by_way["dense"]
    record_of = partial(_speed, ceilings=ceilings, suite=suite, device=device)
    dtype = "bf16 in a CUDA graph" if device == "cuda" else "float32"
    for row in rows:
        yield record_of(row, _Against(row.work, dense, f"dense {dtype}"))
    rival = by_way.get(RIVAL)
    for row in rows if rival is not None else ():
        work = f"{row.work}, against {RIVAL}"
        if bounds(work, row.way) != (None, None):
            assert rival is not None
            yield record_of(row, _Against(work, rival, RIVAL))


@dataclass(frozen=True)
class _Against:
    """What a row is compared with: the name of the comparison, the other row, its name."""

    work: str
    row: SpeedRow
    label: str


def _speed(row: SpeedRow, against: _Against, ceilings: Ceilings, suite: str, device: str) -> Record:
    goal, floor = bounds(against.work, row.way)
    theirs = against.row.timing.median
    return make_record(
        suite,
        f"{against.work}: {row.way}",
        "speed",
        theirs / row.timing.median,
        "x",
        higher_is_better=True,
        rival=against.label,
        goal=goal,
        floor=floor,
        limit=theirs / row.floor,
        device=device,
        details=row.timing.to_dict()
        | {
            "bytes": row.bytes,
            "flops": row.flops,
            "floor_us": row.floor * 1e6,
            "error": row.error,
            "copy_GB_per_s": ceilings.copy / 1e9,
            "product_TFLOP_per_s": ceilings.product / 1e12,
        }
        | circumstances(device)
        | row.details,
    )


def step_records(rows: Sequence[StepRow], *, device: str) -> Iterator[Record]:
    """Compare guided steps of some number of images with diffusers', and with our dense runtime's.

    On a GPU diffusers' model is compiled; on a CPU it is as it is.
    """
    by_name = {row.name: row for row in rows}
    gpu = device == "cuda"
    plain = by_name[COMPILED if gpu else EAGER]
    label = "diffusers + torch.compile" if gpu else "diffusers, float32"
    for row in rows:
        mode = row.name.partition(", ")[2]
        own = by_name.get(f"dense, {mode}")
        rivals = {"against diffusers": (plain, label)}
        if own is not None:
            rivals["against our runtime"] = (own, f"our runtime with dense weights, {mode}")
        images = f"{row.images} image{'s' * (row.images > 1)}"
        for against, (rival, name) in rivals.items():
            work = f"{GPU_STEP if gpu else CPU_STEP}, {images}, {against}"
            goal, floor = bounds(work, row.name)
            yield make_record(
                "sampler",
                f"{work}: {row.name}",
                "speed",
                rival.timing.median / row.timing.median,
                "x",
                higher_is_better=True,
                rival=name,
                goal=goal,
                floor=floor,
                device=device,
                details=row.timing.to_dict()
                | {"bytes": row.bytes, "error": row.error, "peak_bytes": row.peak_bytes}
                | circumstances(device),
            )
        if row.images == 1 and own is not None:
            yield _memory(row, by_name[EAGER], device)


def _memory(row: StepRow, dense: StepRow, device: str) -> Record:
    work = GPU_MEMORY if device == "cuda" else CPU_MEMORY
    goal, floor = bounds(work, row.name)
    dtype = "bf16" if device == "cuda" else "float32"
    return make_record(
        "sampler",
        f"{work}: {row.name}",
        "memory",
        row.weight_bytes / dense.weight_bytes,
        "x",
        higher_is_better=False,
        rival=f"dense {dtype} with one embedder",
        goal=goal,
        floor=floor,
        device=device,
        details={"bytes": row.bytes, "dense_bytes": dense.bytes, "what": "scratch included"},
    )


def circumstances(device: str) -> dict[str, Any]:
    """Return what the name of a device leaves open: driver and capability, or threads."""
    if device != "cuda":
        return {"threads": torch.get_num_threads()}
    major, minor = torch.cuda.get_device_capability()
    return {"driver": f"CUDA {torch.version.cuda}, sm_{major}{minor}"}
