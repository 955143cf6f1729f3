"""Products with compressed weights on the CPU against PyTorch's with dense float32 weights.

Two kinds of rows. One row of x (M=1) and the shape of DiT-XL/2's modulation layers, random weights
in the shipped codecs. And all token layers of a bundled model, as compressed as it is shipped, at
the rows of one guided image (M=98) and of four (M=392). A pass computes every layer once, so dense
weights come from memory as in sampling. Passes alternate, and the median of the ratios of their
times counts. Both sides have a bias and write a fresh result.

    python -m benchmarks.cpu_linear --dry-run
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.record import append, make_record
from dpqlab.core import packed_size
from dpqlab.diffusion.models import load_pipeline
from dpqlab.kernels import ops, reference
from dpqlab.kernels.coded import CodedWeight
from dpqlab.nn import CompressedLinear
from dpqlab.nn.presets import ADALN

OUT, COLUMNS, COPIES = 6912, 1152, 4  # 127 MB as float32


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is measured."""

    repeats: int = 30
    threads: int = 2
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Case:
    """One row: layers as (weight, bias), the rows of x, and what is aimed at."""

    row: str
    layers: Sequence[tuple[CodedWeight, Tensor]]
    rows: int
    goal: float
    floor: float


def modulation(codec: str, k: int, *, ragged: bool, scaled: bool) -> Case:
    """One row of x against random weights of 1152 to 6912 with sub-vectors of 8."""
    m, bits = COLUMNS // 8, (k - 1).bit_length()
    first = torch.arange(m, dtype=torch.int32) * k if ragged else torch.zeros(m, dtype=torch.int32)
    pool = torch.randn(m * k if ragged else k, 8).half()  # shared by the layers of a kind
    layers = [
        CodedWeight(
            codes=torch.randint(256, (packed_size(OUT * m, bits),), dtype=torch.uint8),
            pool=pool,
            first=first,
            size=torch.full((m,), k, dtype=torch.int32),
            table=None,
            scale=torch.rand(OUT).half() if scaled else None,
            shape=(OUT, COLUMNS),
            code_bits=bits,
        )
        for _ in range(COPIES)
    ]
    row = f"M=1 {COLUMNS}->{OUT} {codec}"
    return Case(
        row=row, layers=[(w, torch.randn(OUT)) for w in layers], rows=1, goal=2.0, floor=1.5
    )


def token_layers(codec: str, rows: int) -> Case:
    """All Linears of the bundled model's blocks but the modulation, at ``rows`` rows of x."""
    model: Any = load_pipeline(f"fashion-dit-{codec}").transformer
    layers = []
    for name, layer in model.named_modules():
        if isinstance(layer, CompressedLinear) and not name.endswith(ADALN):
            assert layer.bias is not None
            layers.append((layer.coded(), layer.bias.detach().float()))
    row = f"M={rows} token layers of fashion-dit, {codec}"
    return Case(row=row, layers=layers, rows=rows, goal=1.0, floor=0.85)


def measure(case: Case, setting: Setting) -> dict[str, Any]:
    """Time both sides and return the record."""
    dense = [(reference.decode(weight, torch.float32), bias) for weight, bias in case.layers]
    xs = {w.shape[1]: torch.randn(case.rows, w.shape[1]) for w, _ in case.layers}

    def run_dense() -> Tensor:
        return [F.linear(xs[weight.shape[1]], weight, bias) for weight, bias in dense][-1]

    def run_coded() -> Tensor:
        return [ops.linear(xs[weight.shape[1]], weight, bias) for weight, bias in case.layers][-1]

    torch.testing.assert_close(run_coded(), run_dense(), rtol=1e-3, atol=1e-3)
    pairs = [(seconds(run_dense), seconds(run_coded)) for _ in range(setting.repeats)]
    details = asdict(setting) | {
        "layers": len(case.layers),
        "dense_ms": round(1e3 * statistics.median(pair[0] for pair in pairs), 4),
        "coded_ms": round(1e3 * statistics.median(pair[1] for pair in pairs), 4),
        "ratios": [round(theirs / ours, 2) for theirs, ours in pairs],
    }
    return make_record(
        "cpu_kernels",
        case.row,
        "time, dense / compressed",
        statistics.median(theirs / ours for theirs, ours in pairs),
        "x",
        rival=f"F.linear in float32, torch {torch.__version__}",
        goal=case.goal,
        floor=case.floor,
        higher_is_better=True,
        limit=None,
        details=details,
    )


@torch.inference_mode()
def seconds(run: Callable[[], Tensor]) -> float:
    """Time one pass."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def cases() -> list[Case]:
    """Return all rows of the suite."""
    return [
        modulation("dpq-1bit", 256, ragged=True, scaled=False),
        modulation("best-1bit adaLN", 64, ragged=False, scaled=True),
        *(token_layers(codec, rows) for codec in ("dpq-1bit", "best-1bit") for rows in (98, 392)),
    ]


def main() -> None:
    """Measure, print the records, and append them unless told not to."""
    parser = argparse.ArgumentParser(description="compressed against dense products on the CPU")
    parser.add_argument("--dry-run", action="store_true", help="print the records, store nothing")
    parser.add_argument("--repeats", type=int, default=Setting.repeats)
    parser.add_argument("--threads", type=int, default=Setting.threads)
    given = parser.parse_args()
    setting = Setting(repeats=given.repeats, threads=given.threads)
    torch.set_num_threads(setting.threads)
    torch.manual_seed(setting.seed)
    for case in cases():
        record = measure(case, setting)
        print(json.dumps(record, indent=2))
        if not given.dry_run:
            append(record)


if __name__ == "__main__":
    main()
