"""Products with compressed weights on the CPU against PyTorch's with dense float32 weights.

The workloads are those of :mod:`dpqlab.speed.cpu`: one row of x (M=1) and the shape of DiT-XL/2's
modulation layers; the modulation layers of the bundled model; all its token layers, compressed as
they are shipped, at the rows of one guided image and of four; a block of DiT-XL/2. Passes take
turns, and the ratio of their medians counts.

    python -m benchmarks.speed cpu-kernels --dry
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.speed_records import Record, speed_records
from dpqlab.diffusion.models import load_pipeline
from dpqlab.speed import measure_ceilings
from dpqlab.speed.cpu import cpu_rows, cpu_workloads

MODEL = "fashion-dit"
ROUNDS = 30


def cpu_kernel_records(presets: Sequence[str], rounds: int = ROUNDS) -> Iterator[Record]:
    """Measure every workload of the suite.

    Parameters
    ----------
    presets
        Whose codecs.
    rounds
        In which each has its turn.
    """
    ceilings = measure_ceilings("cpu")
    model: Any = load_pipeline(MODEL).transformer
    for workload in cpu_workloads(model, MODEL):
        rows = cpu_rows(workload, presets, ceilings, rounds=rounds)
        yield from speed_records(rows, ceilings, suite="cpu_kernels", device="cpu")
