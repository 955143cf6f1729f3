"""CPU time to product-quantize one layer: dpqlab's numba k-means against faiss.

Both cut a 1152 x 1152 Gaussian weight into sub-vectors of 4, train 288 codebooks of 256 codewords
from sampled points with the same limit of Lloyd iterations, and encode the layer. Runs alternate
after a warm-up (which compiles), and the median of the ratios of process time counts: user and
system, all threads. dpqlab stops a codebook early once no code changes any more, which leaves the
result as it is; faiss does not.

    python -m benchmarks.kmeans --dry-run
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import faiss
import torch

from benchmarks.record import append, make_record
from dpqlab.core import CodebookCodec, decode, encode, fit_pool, relative_error
from dpqlab.kernels.numba_kmeans import assign, kmeans


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is measured."""

    width: int = 1152
    d: int = 4
    k: int = 256
    iterations: int = 25
    repeats: int = 5
    threads: int = 2
    seed: int = 0


def with_dpqlab(weight: torch.Tensor, setting: Setting) -> torch.Tensor:
    """Fit, encode, and return the decoded weight."""
    codec = CodebookCodec(
        d=setting.d, k=setting.k, iterations=setting.iterations, init="sample", scope="position"
    )
    generator = torch.Generator().manual_seed(setting.seed)
    pool = fit_pool([weight], codec, generator=generator, clusterer=kmeans)
    return decode(encode(weight, codec, pool, assigner=assign))


def with_faiss(weight: torch.Tensor, setting: Setting) -> torch.Tensor:
    """Do the same with ``faiss.ProductQuantizer``."""
    bits = (setting.k - 1).bit_length()
    quantizer = faiss.ProductQuantizer(setting.width, setting.width // setting.d, bits)
    quantizer.cp.niter = setting.iterations
    quantizer.cp.seed = setting.seed + 1
    quantizer.cp.min_points_per_centroid = 1  # only silences the advice to train on more points
    rows = weight.numpy()
    quantizer.train(rows)  # pyright: ignore[reportCallIssue]
    codes = quantizer.compute_codes(rows)  # pyright: ignore[reportCallIssue]
    return torch.from_numpy(quantizer.decode(codes))  # pyright: ignore[reportCallIssue]


def cpu_seconds(
    run: Callable[[torch.Tensor, Setting], torch.Tensor], weight: torch.Tensor, setting: Setting
) -> tuple[float, float]:
    """Return the CPU seconds of a run, and the relative error of what it made."""
    started = time.process_time()
    decoded = run(weight, setting)
    spent = time.process_time() - started
    return spent, relative_error(weight, decoded)


def measure(setting: Setting) -> dict[str, Any]:
    """Run everything and return the record."""
    torch.set_num_threads(setting.threads)
    faiss.omp_set_num_threads(setting.threads)
    generator = torch.Generator().manual_seed(setting.seed)
    weight = torch.randn(setting.width, setting.width, generator=generator)
    with_dpqlab(weight, setting)
    pairs = [
        (cpu_seconds(with_dpqlab, weight, setting), cpu_seconds(with_faiss, weight, setting))
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
        f"PQ d={setting.d} k={setting.k}, {setting.width}x{setting.width}, train and encode",
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
    parser = argparse.ArgumentParser(description="numba k-means against faiss, in CPU time")
    parser.add_argument("--dry-run", action="store_true", help="print the record, store nothing")
    parser.add_argument("--repeats", type=int, default=Setting.repeats)
    parser.add_argument("--iterations", type=int, default=Setting.iterations)
    parser.add_argument("--threads", type=int, default=Setting.threads)
    given = parser.parse_args()
    setting = Setting(repeats=given.repeats, iterations=given.iterations, threads=given.threads)
    record = measure(setting)
    print(json.dumps(record, indent=2))
    if not given.dry_run:
        append(record)


if __name__ == "__main__":
    main()
