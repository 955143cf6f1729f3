"""Timing by ratio: rivals take turns in one run, medians are compared.

On a GPU a piece of work is captured as a CUDA graph and its replays are timed with events, so that
what is measured is the device, not Python. What is timed must rotate its weights past the L2 cache
itself (see :mod:`dpqlab.speed.workloads`).
"""

# torch leaves CUDA's events and graphs untyped
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

Work = Callable[[], object]


@dataclass(frozen=True, kw_only=True)
class Timing:
    """How long one pass of a piece of work took, in seconds, in each round."""

    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Seconds a pass, the median of the rounds."""
        return statistics.median(self.rounds)

    @property
    def spread(self) -> float:
        """Half the distance between the quartiles, over the median."""
        if len(self.rounds) < 4:
            return 0.0
        low, _, high = statistics.quantiles(self.rounds, n=4)
        return (high - low) / 2 / self.median

    def to_dict(self) -> dict[str, float]:
        """Return microseconds as JSON values."""
        return {
            "median_us": self.median * 1e6,
            "fastest_us": min(self.rounds) * 1e6,
            "slowest_us": max(self.rounds) * 1e6,
            "rounds": len(self.rounds),
        }


@dataclass(frozen=True, kw_only=True)
class Ceilings:
    """What the device reaches on the simplest work.

    Attributes
    ----------
    copy
        Bytes/s of a large copy, counting bytes read and written.
    product
        FLOP/s of a large bf16 matrix product (float32 on a CPU).
    """

    copy: float
    product: float


def captured(work: Work, warm_ups: int = 3) -> Work:
    """Capture ``work`` as a CUDA graph; the returned function replays it.

    Parameters
    ----------
    work
        Kernels on fixed buffers only. It runs ``warm_ups`` times first, on a stream of its own.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(warm_ups):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    # as the runtime captures: what decodes ahead on another stream only fills gaps
    with torch.cuda.graph(graph, stream=torch.cuda.Stream(priority=-1)):
        kept = work()

    def replay() -> object:
        graph.replay()
        return kept, work  # both hold memory that the graph reads

    return replay


def time_together(
    works: Mapping[str, Work], *, device: str, rounds: int = 20, passes: int = 10
) -> dict[str, Timing]:
    """Time several pieces of work in turns.

    Parameters
    ----------
    works
        By name. Each runs once before the clock starts.
    device
        ``"cpu"`` or ``"cuda"``.
    rounds, passes
        Rounds in which every work has its turn, and how often it runs in a turn.
    """
    for work in works.values():
        work()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    clock = _cuda_seconds if device == "cuda" else _cpu_seconds
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            seconds[name].append(clock(work, passes) / passes)
    return {name: Timing(rounds=tuple(values)) for name, values in seconds.items()}


def peak_details(device: str) -> dict[str, int]:
    """Return the most bytes allocated since :func:`time_together` began, where that is known.

    Everything that is on the device counts, the rivals' tensors too.
    """
    return {"peak_bytes": torch.cuda.max_memory_allocated()} if device == "cuda" else {}


def measure_ceilings(device: str) -> Ceilings:
    """Measure a copy of 1 GiB (64 MiB on a CPU) and a product of 8192**3 (1024**3)."""
    gpu = device == "cuda"
    source = torch.randn((1 << 28) if gpu else (1 << 24), device=device)
    target = torch.empty_like(source)
    side, dtype = (8192, torch.bfloat16) if gpu else (1024, torch.float32)
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    times = time_together(
        {"copy": lambda: target.copy_(source), "product": lambda: a @ b},
        device=device,
        rounds=5,
        passes=5,
    )
    return Ceilings(
        copy=2 * 4 * source.numel() / times["copy"].median,
        product=2 * side**3 / times["product"].median,
    )


def _cuda_seconds(work: Work, passes: int) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    for _ in range(passes):
        work()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def _cpu_seconds(work: Work, passes: int) -> float:
    start = time.perf_counter()
    for _ in range(passes):
        work()
    return time.perf_counter() - start
