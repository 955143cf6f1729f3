"""Bits and weight error of codecs on the bundled model, before any calibration.

    python -m benchmarks.codecs [--dry-run]

Compresses all blocks of ``fashion-dit`` with each codec and records the relative squared error of
the weights beside the true bits; the presets were chosen by it. Two minutes on two quiet cores.
"""

from __future__ import annotations

import argparse
import copy

from benchmarks.record import append, make_record
from dpqlab.core import CodebookCodec, Codec, ScalarCodec
from dpqlab.diffusion import load_pipeline
from dpqlab.nn import Plan, compress_


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
        weights = sum(layer.ledger.weights for layer in done.layers)
        error = sum(layer.relative_error * layer.ledger.weights for layer in done.layers) / weights
        bits = done.ledger.true_bits_per_weight
        by_shape: dict[str, list[float]] = {}
        for layer in done.layers:
            by_shape.setdefault("x".join(map(str, layer.shape)), []).append(layer.relative_error)
        details = {
            "true_bits": bits,
            "error_by_shape": {shape: sum(e) / len(e) for shape, e in by_shape.items()},
            "seconds": round(sum(layer.seconds for layer in done.layers), 2),
        }
        print(f"{codec.describe():28s} {bits:.4f} bits  error {error:.4f}", flush=True)
        if not args.dry_run:
            append(
                make_record(
                    "codecs",
                    codec.describe(),
                    "relative_weight_error",
                    error,
                    "share of the weights' energy",
                    higher_is_better=False,
                    details=details,
                )
            )


if __name__ == "__main__":
    main()
