"""Bits and weight error of codecs and presets on the bundled model, and of its checkpoints.

    python -m benchmarks.codecs [--dry-run]

Compresses all blocks of ``fashion-dit`` with each codec and records the relative squared error of
the weights beside the true bits; the presets were chosen by it. Of each preset also how long that
took, pool and pruning included. Three minutes on two quiet cores.
"""

from __future__ import annotations

import argparse
import copy
import os
import time

from benchmarks.record import append, make_record
from dpqlab.commands.measure import weight_errors
from dpqlab.core import CodebookCodec, Codec, ScalarCodec
from dpqlab.diffusion import bundled, load_pipeline
from dpqlab.nn import Plan, compress_, ledger_of_model, presets

SUITE = "codecs"
STAGE_ONE_SECONDS = 30.0  # at most, for the whole model on two cores


def _vq(d: int, k: int, *, scale: bool = False) -> CodebookCodec:
    return CodebookCodec(d=d, k=k, scope="layer", row_scale=scale)


def _pq(d: int, k: int, *, scale: bool = True, group: int = 1) -> CodebookCodec:
    scope = "position" if group == 1 else "group"
    return CodebookCodec(d=d, k=k, scope=scope, group=group, row_scale=scale)


CODECS: tuple[Codec, ...] = (
    ScalarCodec(bits=2, group_size=384),
    _vq(4, 256),
    _vq(4, 256, scale=True),
    _pq(4, 32, scale=False),
    _pq(4, 32),
    ScalarCodec(bits=1, group_size=192),
    _vq(8, 256),
    _vq(8, 256, scale=True),
    _pq(6, 16, scale=False),
    _pq(6, 16),
    _pq(8, 16),
    _pq(4, 8),
    _pq(8, 32, group=2),
    _pq(8, 64, group=4),
)


def main() -> None:
    """Measure every codec and append a record each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--dry-run", action="store_true", help="append nothing")
    args = parser.parse_args()
    teacher = load_pipeline("fashion-dit").transformer
    for codec in CODECS:
        done = compress_(copy.deepcopy(teacher), Plan.for_blocks(codec))
        layers = [(r.ledger.shape, r.ledger.weights, r.relative_error) for r in done.layers]
        record(codec.describe(), done.ledger.true_bits_per_weight, layers, args.dry_run)
    for name, plan in presets().items():
        model = copy.deepcopy(teacher)
        started = time.perf_counter()
        done = compress_(model, plan)
        seconds = time.perf_counter() - started
        layers = [(r.ledger.shape, r.ledger.weights, r.relative_error) for r in done.layers]
        record(name, done.ledger.true_bits_per_weight, layers, args.dry_run)
        record_seconds(name, seconds, args.dry_run)
    for entry in bundled():
        if entry.kind == "compressed":
            model = load_pipeline(entry.name).transformer
            errors = weight_errors(model, "fashion-dit")
            ledger = ledger_of_model(model)
            layers = [(x.shape, x.weights, errors[x.name]) for x in ledger.layers]
            record(entry.name, ledger.true_bits_per_weight, layers, args.dry_run)


def record(
    row: str, bits: float, layers: list[tuple[tuple[int, int], int, float]], dry_run: bool
) -> None:
    """Append the weighted mean error of layers given as (shape, weights, error)."""
    error = sum(w * e for _, w, e in layers) / sum(w for _, w, _ in layers)
    by_shape: dict[str, list[float]] = {}
    for shape, _, each in layers:
        by_shape.setdefault("x".join(map(str, shape)), []).append(each)
    details = {
        "true_bits": bits,
        "error_by_shape": {shape: sum(e) / len(e) for shape, e in by_shape.items()},
    }
    print(f"{row:28s} {bits:.4f} bits  error {error:.4f}", flush=True)
    if not dry_run:
        unit = "share of the weights' energy"
        name = "relative_weight_error"
        append(make_record(SUITE, row, name, error, unit, higher_is_better=False, details=details))


def record_seconds(row: str, seconds: float, dry_run: bool) -> None:
    """Append how long a preset took to compress."""
    print(f"{row:28s} {seconds:.1f} s", flush=True)
    if not dry_run:
        append(
            make_record(
                SUITE,
                row,
                "stage_one_seconds",
                seconds,
                "s",
                goal=STAGE_ONE_SECONDS,
                higher_is_better=False,
                details={"cores": os.cpu_count(), "load": os.getloadavg()[0]},
            )
        )


if __name__ == "__main__":
    main()
