"""CPU time to product-quantize one layer: dpqlab's numba k-means against faiss.

Both do what :mod:`dpqlab.speed.kmeans` says to a 1152 x 1152 weight: sub-vectors of 4, 288
codebooks of 256 codewords. Runs alternate after a warm-up (which compiles), and the median of the
ratios of process time counts: user and system, all threads.

    python -m benchmarks.kmeans --dry-run
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import asdict
from typing import Any

import faiss
import torch

from benchmarks.record import append, make_record
from dpqlab.speed.kmeans import (
    KMeansSetting,
    cpu_seconds,
    gaussian_weight,
    with_faiss,
    with_numba,
)


def measure(setting: KMeansSetting) -> dict[str, Any]:
    """Run everything and return the record."""
    torch.set_num_threads(setting.threads)
    weight = gaussian_weight(setting)
    with_numba(weight, setting)
    pairs = [
        (cpu_seconds(with_numba, weight, setting), cpu_seconds(with_faiss, weight, setting))
        for _ in range(setting.repeats)
    ]
    ratios = [theirs[0] / ours[0] for ours, theirs in pairs]
    details = asdict(setting) | {
        "dpqlab_cpu_s": [round(ours[0], 4) for ours, _ in pairs],
        "faiss_cpu_s": [round(theirs[0], 4) for _, theirs in pairs],
        "ratios": [round(ratio, 2) for ratio in ratios],
        "dpqlab_error": statistics.median(ours[1] for ours, _ in pairs),
        "faiss_error": statistics.median(theirs[1] for _, theirs in pairs),
    }
    return make_record(
        "kmeans",
        setting.title,
        "CPU time, faiss / dpqlab",
        statistics.median(ratios),
        "x",
        rival=f"faiss.ProductQuantizer {faiss.__version__}",
        goal=10.0,
        floor=None,
        higher_is_better=True,
        limit=None,
        details=details,
    )


def main() -> None:
    """Measure, print the record, and append it unless told not to."""
    usual = KMeansSetting()
    parser = argparse.ArgumentParser(description="numba k-means against faiss, in CPU time")
    parser.add_argument("--dry-run", action="store_true", help="print the record, store nothing")
    parser.add_argument("--repeats", type=int, default=usual.repeats)
    parser.add_argument("--iterations", type=int, default=usual.iterations)
    parser.add_argument("--threads", type=int, default=usual.threads)
    given = parser.parse_args()
    setting = KMeansSetting(
        repeats=given.repeats, iterations=given.iterations, threads=given.threads
    )
    record = measure(setting)
    print(json.dumps(record, indent=2))
    if not given.dry_run:
        append(record)


if __name__ == "__main__":
    main()
