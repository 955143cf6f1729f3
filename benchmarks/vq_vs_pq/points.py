"""Points: the error of one codec on layers of one subject, before any calibration."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.record import make_record
from benchmarks.vq_vs_pq import SUITE
from benchmarks.vq_vs_pq.codecs import PAIRED, near_pq, pq_families, rows_per_codeword, vq
from benchmarks.vq_vs_pq.fitting import fit
from benchmarks.vq_vs_pq.subjects import Subject
from dpqlab.core import CodebookCodec, Pool, decode, encode, relative_error, split
from dpqlab.evaluation.projection import Projection, project
from dpqlab.kernels.dispatch import best_assigner

UNIT = "share of the weights' energy"
SIZES = (16, 64, 256, 1024, 4096, 16_384, 65_536)
SPARSE = 4  # fewest sub-vectors a codeword worth measuring
SEARCH = 8e10  # most multiplications of one search of codes; about ten seconds


@dataclass(frozen=True, kw_only=True)
class Point:
    """One codec on layers of one subject, without calibration.

    ``rows_per_codeword`` is the number of sub-vectors that share a codebook over that of its
    codewords (for PQ: rows over k), the smallest of the layers'. ``errors`` are relative squared
    errors by kind, ``error`` that of all together. ``gains`` are coding gains by kind, of positions
    apart and of all together (see :func:`coding_gain`): what PQ can make use of, and what VQ can.
    """

    subject: Subject
    kinds: tuple[str, ...]
    codec: CodebookCodec
    bits: Projection
    rows_per_codeword: float
    error: float
    errors: dict[str, float]
    gains: dict[str, dict[str, float]]
    seconds: float

    @property
    def kind(self) -> str:
        """The kind of layer, or ``"block"`` for several."""
        return self.kinds[0] if len(self.kinds) == 1 else "block"

    @property
    def family(self) -> str:
        """The codec's name without its numbers, such as ``"PQ/kind"``."""
        return self.codec.describe().partition(" ")[0]

    @property
    def row(self) -> str:
        """The row of the record."""
        return f"{self.subject.name} {self.kind}: {self.codec.describe()}"

    def details(self) -> dict[str, Any]:
        """Return what the record tells beside the error."""
        weights = self.bits.block_weights
        parts = {name: getattr(self.bits, name) / weights for name in ("codes", "pool", "bias")}
        return {
            "subject": self.subject.name,
            "width": self.subject.width,
            "kind": self.kind,
            "family": self.family,
            "codec": self.codec.describe(),
            "d": self.codec.d,
            "k": self.codec.k,
            "true_bits": self.bits.true_bits,
            "bits": parts,
            "rows_per_codeword": self.rows_per_codeword,
            "relative_error": self.error,
            "errors": self.errors,
            "coding_gains": self.gains,
            "gaussian_bound": 2 ** (-2 * self.bits.true_bits),
            "seconds": round(self.seconds, 2),
        }


def measure(
    subject: Subject, kinds: Sequence[str], codec: CodebookCodec, *, seed: int = 0
) -> Point:
    """Quantize the judged layers of ``kinds`` and compare, counting the bits of whole layers."""
    started = time.perf_counter()
    shared = codec.across != "layer"
    pool: Pool | None = None
    missed, energy = 0.0, 0.0
    errors: dict[str, float] = {}
    gains: dict[str, dict[str, float]] = {}
    if codec.across == "model":
        pool = fit([w for kind in kinds for w in subject.layers(kind, True)], codec, seed=seed)
    for kind in kinds:
        layers = subject.layers(kind, shared)
        book = fit(layers, codec, seed=seed) if pool is None else pool
        judged = _some_rows(layers[0], codec.k, SEARCH / len(kinds), seed)
        decoded = decode(encode(judged, codec, book, assigner=best_assigner()))
        errors[kind] = relative_error(judged, decoded)
        gains[kind] = coding_gains(layers[0], codec.d)
        mass = float(layers[0].double().square().sum())
        missed, energy = missed + errors[kind] * mass, energy + mass
    geometry = subject.part(kinds)
    return Point(
        subject=subject,
        kinds=tuple(kinds),
        codec=codec,
        bits=project(dict.fromkeys(kinds, codec), geometry),
        rows_per_codeword=rows_per_codeword(codec, geometry),
        error=missed / energy,
        errors=errors,
        gains=gains,
        seconds=time.perf_counter() - started,
    )


def coding_gains(weight: Tensor, d: int) -> dict[str, float]:
    """Return the coding gain of each position's sub-vectors by themselves, and of all together.

    See :func:`coding_gain`; in ``"position"`` positions may differ in covariance and energy.
    """
    points = split(weight, d).double()
    return {
        "position": coding_gain(points.transpose(0, 1)),
        "layer": coding_gain(points.reshape(1, -1, d)),
    }


def coding_gain(points: Tensor) -> float:
    """Return the arithmetic over the geometric mean of the second moments' eigenvalues.

    Of sub-vectors (scopes, count, d): 1 if they are white and all scopes alike. For Gaussian
    sub-vectors and fine codes it is the factor of the error that knowing the moments saves.
    """
    moments = points.mT @ points / points.shape[1]
    values = torch.linalg.eigvalsh(moments).clamp(min=1e-30)
    return float(values.mean() / values.log().mean().exp())


def _some_rows(weight: Tensor, k: int, search: float, seed: int) -> Tensor:
    """Return the rows that can be searched for codes with ``search`` multiplications."""
    rows = max(1, int(search / (weight.shape[1] * k)))
    if rows >= len(weight):
        return weight
    return weight[torch.randperm(len(weight), generator=torch.Generator().manual_seed(seed))[:rows]]


def size_points(subject: Subject, sizes: Sequence[int] = SIZES) -> Iterator[Point]:
    """Measure VQ of every codebook size with which codewords serve ``SPARSE`` sub-vectors."""
    kinds = tuple(subject.geometry.linears)
    for across in ("layer", "kind", "model"):
        for d in PAIRED:
            for k in sizes:
                codec = vq(d, k, across)
                if rows_per_codeword(codec, subject.part(kinds)) >= SPARSE:
                    yield measure(subject, kinds, codec)


def pair_points(
    subject: Subject, kind: str, paired: dict[int, tuple[int, ...]]
) -> Iterator[tuple[Point, list[Point]]]:
    """Measure every VQ point of one kind of layer, and the PQ points of equal true bits."""
    done: dict[CodebookCodec, Point] = {}
    part = subject.part([kind])

    def point(codec: CodebookCodec) -> Point:
        if codec not in done:
            done[codec] = measure(subject, [kind], codec)
        return done[codec]

    for across in ("layer", "kind"):
        for d, sizes in paired.items():
            for k in sizes:
                one = vq(d, k, across)
                codecs = [p for f in pq_families(across) for p in near_pq(one, part, f)]
                yield point(one), [point(codec) for codec in codecs]


def record_of(point: Point, rivals: Sequence[Point] = ()) -> dict[str, Any]:
    """Return the record of a point; of VQ with the best PQ of every family at equal true bits."""
    best: dict[str, Point] = {}
    for rival in sorted(rivals, key=lambda p: p.error):
        best.setdefault(rival.family, rival)
    pairs = [
        {
            "codec": rival.codec.describe(),
            "true_bits": rival.bits.true_bits,
            "relative_error": rival.error,
            "rows_per_codeword": rival.rows_per_codeword,
            "vq_over_pq": point.error / rival.error,
        }
        for rival in best.values()
    ]
    return make_record(
        SUITE,
        point.row,
        "relative_weight_error",
        point.error,
        UNIT,
        rival=pairs[0]["codec"] if pairs else None,
        limit=2 ** (-2 * point.bits.true_bits) if point.subject.gaussian else None,
        higher_is_better=False,
        details=point.details() | {"pairs": pairs},
    )
