"""A GPU's memory that runs out for real: ``python -m benchmarks.survival.gpu``.

A model of random weights in ``fashion-dit``'s geometry, compressed as ``dpq-1bit`` is, learns from
random images; then once more, with less memory than a step of the whole batch takes. It has to go
on in pieces, within what it may take, and to reach the same losses (to 5 %: in bfloat16 a sum of
pieces rounds otherwise).
"""

from __future__ import annotations

import argparse
import copy
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.record import RESULTS, append, make_record
from dpqlab.calibration import CalibrationConfig, CalibrationData, calibrate
from dpqlab.diffusion.dit import FASHION_DIT, make_dit
from dpqlab.diffusion.schedules import make_scheduler
from dpqlab.nn import compress_, preset

SUITE = "reliability-jobs"
CONFIG = CalibrationConfig(steps=6, batch=4096, warmup=2, holdout=64, every=1, cuda_graph=False)
SHARE = 0.6
"""Of the memory that a step takes beyond the weights."""
TOLERANCE = 0.05


def measured(config: CalibrationConfig = CONFIG) -> dict[str, Any]:
    """Calibrate twice, the second time in little memory; return losses and bytes."""
    device = torch.device("cuda")
    torch.manual_seed(0)
    teacher: Any = make_dit(FASHION_DIT)
    for parameter in teacher.parameters():  # adaLN-Zero says nothing until it has learnt
        torch.nn.init.normal_(parameter, std=0.05)
    student = copy.deepcopy(teacher)
    compress_(student, preset("dpq-1bit"))
    teacher.to(device).requires_grad_(False)
    scheduler: Any = make_scheduler()
    side = FASHION_DIT["sample_size"]
    data = CalibrationData(
        images=torch.randint(0, 256, (512, 1, side, side), dtype=torch.uint8, device=device),
        labels=(torch.arange(512) % 10).to(device),
        alphas=scheduler.alphas_cumprod.to(device),
    )

    def course() -> tuple[list[float], int]:
        ours = copy.deepcopy(student).to(device)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        losses = [record.total for record in calibrate(ours, teacher, data, config)]
        return losses, torch.cuda.max_memory_allocated()

    held = torch.cuda.memory_allocated()
    whole, peak = course()
    limit = held + SHARE * (peak - held)
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(limit / total)
    try:
        pieces, least = course()
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    return {
        "whole": whole,
        "pieces": pieces,
        "peak_bytes": peak,
        "limit_bytes": round(limit),
        "bytes_in_pieces": least,
    }


def came_through(found: dict[str, Any]) -> bool:
    """Whether memory did run out, was kept to, and the losses are the same."""
    same = all(
        math.isclose(a, b, rel_tol=TOLERANCE)
        for a, b in zip(found["whole"], found["pieces"], strict=True)
    )
    return same and found["bytes_in_pieces"] <= found["limit_bytes"] < found["peak_bytes"]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and record; the exit code is 1 if the calibration did not come through."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the records")
    args = parser.parse_args(argv)
    if not torch.cuda.is_available():
        parser.error("this wants a GPU, and PyTorch sees none here")
    found = measured()
    good = came_through(found)
    record = make_record(
        SUITE,
        "calibrate",
        "out of memory on a GPU",
        float(good),
        "share",
        higher_is_better=True,
        goal=1.0,
        floor=1.0,
        limit=1.0,
        details={"attempts": 1, "good": int(good)} | found,
        device="cuda",
    )
    append(record, args.results)
    print(record["details"], flush=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
