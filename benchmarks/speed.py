"""Speed of kernels and of the sampler on a GPU, with everything that they are compared with.

``python -m benchmarks.speed kernels`` and ``... sampler`` measure DiT-XL/2 at bf16 with random
weights and append to ``results/kernels.jsonl`` and ``results/sampler.jsonl``; ``--dry`` prints
only. Every value is a ratio of medians taken in turns in one run. Rivals that are installed (AQLM,
torchao, SDNQ) run too: see :mod:`benchmarks.speed_rivals`.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from benchmarks.record import append, make_record
from benchmarks.speed_rivals import rival_rows
from dpqlab.diffusion.dit import DIT_XL_2
from dpqlab.speed import Ceilings, measure_ceilings
from dpqlab.speed.kernels import (
    PRESETS,
    TOKEN_ROWS,
    SpeedRow,
    modulation_rows,
    token_rows,
)
from dpqlab.speed.models import code_randomly_, random_dit
from dpqlab.speed.sampler import StepRow, plain_contenders, runtime_contenders, step_rows

Record = dict[str, Any]
Bounds = tuple[float | None, float | None]
GOALS: dict[tuple[str, str], Bounds] = {
    ("28 modulation layers, M=2", "2bit"): (4.0, 2.5),
    ("28 modulation layers, M=2", "1bit"): (6.0, 4.0),
    ("token layers, M=256", ""): (1.05, 0.75),
    ("token layers, M=512", ""): (0.95, 0.75),
    ("token layers, M=4096", ""): (0.97, 0.9),
    ("guided step, 1 image, against diffusers", "1bit"): (1.5, 1.15),
    ("guided step, 1 image, against our runtime", "1bit"): (1.0, 0.85),
    ("guided step, 8 images, against diffusers", "1bit"): (1.05, 0.95),
    ("weights resident", "2bit"): (0.14, 0.17),
    ("weights resident", "1bit"): (0.08, 0.11),
}
"""Goal and floor by workload and nominal bits."""


def bounds(work: str, way: str) -> Bounds:
    """Return goal and floor of a row."""
    preset = way.split(",")[0]
    if preset not in PRESETS or "alone" in way:
        return None, None
    return GOALS.get((work, preset.split("-")[1])) or GOALS.get((work, "")) or (None, None)


def kernel_records(rivals: Sequence[str] | None) -> Iterator[Record]:
    """Measure the kernel suite, with the rivals of some names (None: all that are here)."""
    ceilings = measure_ceilings("cuda")
    say(f"ceilings: {ceilings.copy / 1e12:.2f} TB/s, {ceilings.product / 1e12:.0f} TFLOP/s")
    yield from _speeds(list(modulation_rows(ceilings)), ceilings)
    _free()
    for rows in TOKEN_ROWS:
        ours = list(token_rows(ceilings, rows))
        _free()
        yield from _speeds([*ours, *rival_rows(rows, ceilings, rivals)], ceilings)
        _free()


def sampler_records() -> Iterator[Record]:
    """Measure the sampler suite."""
    dense = random_dit(DIT_XL_2, device="cuda", dtype=torch.bfloat16)
    contenders = [*plain_contenders(dense), *runtime_contenders("dense", dense)]
    for name in PRESETS:
        model = random_dit(DIT_XL_2, device="cuda", dtype=torch.bfloat16)
        code_randomly_(model, name)
        contenders += runtime_contenders(name, model)
        _free()
    for images in (1, 8):
        yield from _steps(list(step_rows(contenders, images)))


def _speeds(rows: list[SpeedRow], ceilings: Ceilings) -> Iterator[Record]:
    dense = next(row for row in rows if row.way == "dense").timing
    for row in rows:
        goal, floor = bounds(row.work, row.way)
        yield make_record(
            "kernels",
            f"{row.work}: {row.way}",
            "speed",
            dense.median / row.timing.median,
            "x",
            higher_is_better=True,
            rival="dense bf16 in a CUDA graph",
            goal=goal,
            floor=floor,
            limit=dense.median / row.floor,
            device="cuda",
            details=row.timing.to_dict()
            | {
                "bytes": row.bytes,
                "floor_us": row.floor * 1e6,
                "error": row.error,
                "copy_GB_per_s": ceilings.copy / 1e9,
                "product_TFLOP_per_s": ceilings.product / 1e12,
                "driver": driver(),
            }
            | row.details,
        )


def _steps(rows: list[StepRow]) -> Iterator[Record]:
    by_name = {row.name: row for row in rows}
    compiled = by_name["diffusers, torch.compile"]
    for row in rows:
        mode = row.name.partition(", ")[2]
        own = by_name.get(f"dense, {mode}")
        rivals = {"against diffusers": (compiled, "diffusers + torch.compile")}
        if own is not None:
            rivals["against our runtime"] = (own, f"our runtime with dense weights, {mode}")
        for against, (rival, label) in rivals.items():
            work = f"guided step, {row.images} image{'s' * (row.images > 1)}, {against}"
            goal, floor = bounds(work, row.name)
            yield make_record(
                "sampler",
                f"{work}: {row.name}",
                "speed",
                rival.timing.median / row.timing.median,
                "x",
                higher_is_better=True,
                rival=label,
                goal=goal,
                floor=floor,
                device="cuda",
                details=row.timing.to_dict()
                | {"bytes": row.bytes, "error": row.error, "driver": driver()},
            )
        if row.images == 1 and own is not None:
            yield _memory(row, by_name["diffusers, eager"])


def _memory(row: StepRow, dense: StepRow) -> Record:
    weights = {k: v for k, v in row.bytes.items() if k not in ("modulation", "graphs")}
    goal, floor = bounds("weights resident", row.name)
    return make_record(
        "sampler",
        f"weights resident: {row.name}",
        "memory",
        sum(weights.values()) / sum(dense.bytes.values()),
        "x",
        higher_is_better=False,
        rival="dense bf16 with one embedder",
        goal=goal,
        floor=floor,
        device="cuda",
        details={"bytes": row.bytes, "dense_bytes": dense.bytes, "what": "scratch included"},
    )


def driver() -> str:
    """Return the CUDA version that torch was built for, and the GPU's compute capability."""
    major, minor = torch.cuda.get_device_capability()
    return f"CUDA {torch.version.cuda}, sm_{major}{minor}"


def say(text: str) -> None:
    """Tell how far it is."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def _free() -> None:
    gc.collect()
    torch.cuda.empty_cache()


def main() -> int:
    """Run a suite."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # pyright: ignore
    parser.add_argument("suite", choices=["kernels", "sampler"])
    parser.add_argument("--rivals", nargs="*", metavar="NAME", help="of the kernel suite (all)")
    parser.add_argument("--dry", action="store_true", help="print, record nothing")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("there is no CUDA device: these suites time GPU kernels")
    records = kernel_records(args.rivals) if args.suite == "kernels" else sampler_records()
    for record in records:
        details = record["details"]
        say(
            f"{record['row']}: {record['value']:.3f} {record['unit']} "
            f"({details.get('median_us', 0):.1f} us, floor {details.get('floor_us', 0):.1f}, "
            f"error {details.get('error')})"
        )
        if not args.dry:
            append(record)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
