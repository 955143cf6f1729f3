"""Speed of kernels and of the sampler, with everything that they are compared with.

``python -m benchmarks.speed kernels`` and ``... sampler`` measure DiT-XL/2 at bf16 with random
weights on a GPU; ``cpu-kernels`` and ``cpu-sampler`` measure the bundled model in float32 on a
CPU, and the shapes of DiT-XL/2. They append to ``results/kernels.jsonl``, ``cpu_kernels.jsonl``
and, both samplers, ``sampler.jsonl``; ``--dry`` prints only. Every value is a ratio of medians
taken in turns in one run. Rivals that are installed (AQLM, torchao, SDNQ) run too: see
:mod:`benchmarks.speed_rivals`.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch

from benchmarks.cpu_linear import MODEL, cpu_kernel_records
from benchmarks.record import append
from benchmarks.speed_records import Record, speed_records, step_records
from benchmarks.speed_rivals import rival_rows
from dpqlab.diffusion.dit import DIT_XL_2
from dpqlab.diffusion.models import load_pipeline
from dpqlab.speed import measure_ceilings
from dpqlab.speed.kernels import PRESETS, TOKEN_ROWS, modulation_rows, token_rows
from dpqlab.speed.models import code_randomly_, coded_like, random_dit
from dpqlab.speed.sampler import (
    eager_contender,
    plain_contenders,
    runtime_contenders,
    step_rows,
)
from dpqlab.speed.suites import CPU_PRESETS


def kernel_records(rivals: Sequence[str] | None) -> Iterator[Record]:
    """Measure the kernel suite, with the rivals of some names (None: all that are here)."""
    ceilings = measure_ceilings("cuda")
    say(f"ceilings: {ceilings.copy / 1e12:.2f} TB/s, {ceilings.product / 1e12:.0f} TFLOP/s")
    records = partial(speed_records, ceilings=ceilings, suite="kernels", device="cuda")
    yield from records(list(modulation_rows(ceilings)))
    _free()
    for rows in TOKEN_ROWS:
        ours = list(token_rows(ceilings, rows))
        _free()
        yield from records([*ours, *rival_rows(rows, ceilings, rivals)])
        _free()


def sampler_records() -> Iterator[Record]:
    """Measure the sampler suite on a GPU."""
    dense = random_dit(DIT_XL_2, device="cuda", dtype=torch.bfloat16)
    contenders = [*plain_contenders(dense), *runtime_contenders("dense", dense)]
    for name in PRESETS:
        model = random_dit(DIT_XL_2, device="cuda", dtype=torch.bfloat16)
        code_randomly_(model, name)
        contenders += runtime_contenders(name, model)
        _free()
    for images in (1, 8):
        yield from step_records(list(step_rows(contenders, images)), device="cuda")


def cpu_sampler_records(rounds: int = 21) -> Iterator[Record]:
    """Measure a guided step of the bundled model on a CPU, dense and as it is shipped."""
    dense: Any = load_pipeline(MODEL).transformer.requires_grad_(False)
    coded = coded_like(dense, MODEL)
    contenders = [eager_contender(dense), *runtime_contenders("dense", dense)]
    for name in CPU_PRESETS:
        contenders += runtime_contenders(name, coded(name))
    for images in (1, 4):
        rows = list(step_rows(contenders, images, "cpu", rounds=rounds))
        yield from step_records(rows, device="cpu")


def say(text: str) -> None:
    """Tell how far it is."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def _free() -> None:
    gc.collect()
    torch.cuda.empty_cache()


def main() -> int:
    """Run a suite."""
    suites = {
        "kernels": lambda: kernel_records(args.rivals),
        "sampler": sampler_records,
        "cpu-kernels": lambda: cpu_kernel_records(CPU_PRESETS),
        "cpu-sampler": cpu_sampler_records,
    }
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("suite", choices=suites)
    parser.add_argument("--rivals", nargs="*", metavar="NAME", help="of the kernel suite (all)")
    parser.add_argument("--dry", action="store_true", help="print, record nothing")
    args = parser.parse_args()
    if not args.suite.startswith("cpu") and not torch.cuda.is_available():
        parser.error("there is no CUDA device: these suites time GPU kernels")
    for record in suites[args.suite]():
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
