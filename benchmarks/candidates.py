"""What was left out of ``best`` could save: coded codes, int8 codewords, additive codebooks.

    python -m benchmarks.candidates [--parts codes additive] [--dry-run]

``codes``: the shipped checkpoints. Their true bits if every layer's codes were written at their
order-0 entropy, which no coder of single codes beats, with the counts that a decoder needs; and if
every codeword took a byte a value instead of two. Both change the file alone: in memory codes must
be found by their place.

``additive``: the sum of two codewords of 16 values (AQLM's form) against one of 8, at equal bits of
codes, over all layers of a kind, before calibration. Residual quantization with a beam and local
search quantization are faiss's. About three minutes on one CPU core.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from torch import nn

from benchmarks.fashion import SHIPPED, TEACHER
from benchmarks.record import RESULTS, append, make_record
from dpqlab.core import ModelLedger
from dpqlab.diffusion import load_pipeline
from dpqlab.nn import CompressedLinear, kind_of, ledger_of_model

SUITE = "candidates"
BITS = "bits a weight"
COUNT_BITS = 12  # of a codeword's share, as entropy coders of bytes commonly keep it
KINDS = ("attn1.to_q", "ff.net.2")
PARTS = ("codes", "additive")
SUM, PLAIN = 16, 8  # values of a sub-vector
CODEWORDS = 256  # of a codebook, of either
TRAINED = 100_000  # sub-vectors


def entropy(codes: np.ndarray) -> float:
    """Return the bits of all codes at the entropy of their own frequencies."""
    counts = np.bincount(codes.reshape(-1)).astype(np.float64)
    counts = counts[counts > 0]
    return float(-(counts * np.log2(counts / counts.sum())).sum())


def coded_bits(layer: CompressedLinear) -> float:
    """Return the bits of a layer's codes, entropy-coded: a distribution for each of its codebooks.

    A codebook's distribution is written as a count of ``COUNT_BITS`` for each of its codewords.
    """
    codes, scopes = layer.codes().cpu().numpy(), layer.scope_of.cpu().numpy()
    sizes = layer.size.cpu().numpy()
    return sum(
        entropy(codes[:, scopes == scope]) + COUNT_BITS * int(sizes[scopes == scope][0])
        for scope in np.unique(scopes)
    )


def codes_record(name: str, model: nn.Module) -> dict[str, Any]:
    """Return what a shipped checkpoint stores, and what either way of coding would leave of it."""
    ledger: ModelLedger = ledger_of_model(model)
    coded = {n: coded_bits(m) for n, m in model.named_modules() if isinstance(m, CompressedLinear)}
    # a layer whose codes do not gain keeps them as they are
    saved = sum(max(0.0, part.codes - coded[part.name]) for part in ledger.layers)
    pool = sum(part.pool for part in ledger.layers)
    weights, bits = ledger.compressed_weights, ledger.true_bits_per_weight
    return make_record(
        SUITE,
        name,
        "true_bits_entropy_coded",
        bits - saved / weights,
        BITS,
        rival=f"{bits:.4f} as it ships",
        higher_is_better=False,
        details={
            "true_bits": bits,
            "codes": sum(part.codes for part in ledger.layers) / weights,
            "saved_by_entropy_coding": saved / weights,
            "saved_by_int8_codewords": pool / 2 / weights,
            "count_bits": COUNT_BITS,
        },
    )


def additive_records(kind: str, weights: list[np.ndarray]) -> Iterator[dict[str, Any]]:
    """Yield the relative squared errors of the two forms, rows scaled to a mean square of 1."""
    rows = [w / np.sqrt(np.square(w).mean(1, keepdims=True)) for w in weights]
    total = sum(w.size for w in weights)
    plain = np.concatenate([w.reshape(-1, PLAIN) for w in rows])
    means = faiss.Kmeans(
        PLAIN, CODEWORDS, niter=20, seed=0, max_points_per_centroid=len(plain) // CODEWORDS + 1
    )
    means.train(plain)
    bits = math.log2(CODEWORDS) / PLAIN + 16 * PLAIN * CODEWORDS / total
    one = float(means.index.search(plain, 1)[0].sum() / np.square(plain).sum())
    found = np.concatenate([w.reshape(-1, SUM) for w in rows])
    makers = {
        "residual": faiss.ResidualQuantizer(SUM, 2, int(math.log2(CODEWORDS))),
        "local search": faiss.LocalSearchQuantizer(SUM, 2, int(math.log2(CODEWORDS))),
    }
    makers["residual"].max_beam_size = 8
    for name, maker in makers.items():
        maker.train(found[:: max(1, len(found) // TRAINED)])
        left = found - maker.decode(maker.compute_codes(found))
        error = float(np.square(left).sum() / np.square(found).sum())
        cost = 2 * math.log2(CODEWORDS) / SUM + 16 * 2 * SUM * CODEWORDS / total
        yield make_record(
            SUITE,
            f"{kind}: two codewords of {SUM}, {name}",
            "relative_weight_error",
            error,
            "share of the weights' energy",
            rival=f"one codeword of {PLAIN}: {one:.4f}",
            higher_is_better=False,
            details={
                "true_bits_without_scales": cost,
                "rival_error": one,
                "rival_true_bits_without_scales": bits,
                # of Gaussian values a bit is worth a factor of 4
                "bits_gained_by_error": 0.5 * math.log2(one / error),
                "bits_lost_by_pool": cost - bits,
            },
        )


def records(parts: list[str]) -> Iterator[dict[str, Any]]:
    """Yield every record of some parts."""
    if "codes" in parts:
        for name in SHIPPED:
            yield codes_record(name, load_pipeline(f"{TEACHER}-{name}").transformer)
    if "additive" in parts:
        teacher: nn.Module = load_pipeline(TEACHER).transformer
        for kind in KINDS:
            weights = [
                module.weight.detach().numpy()
                for name, module in teacher.named_modules()
                if isinstance(module, nn.Linear)
                and name.startswith("transformer_blocks")
                and kind_of(name) == kind
            ]
            yield from additive_records(kind, weights)


def main() -> None:
    """Measure, print, and append the records."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--dry-run", action="store_true", help="append nothing")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to append to")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for record in records(args.parts):
        print(f"{record['row']:44s} {record['value']:.4f}  {record['rival']}", flush=True)
        if not args.dry_run:
            append(record, args.results)


if __name__ == "__main__":
    main()
