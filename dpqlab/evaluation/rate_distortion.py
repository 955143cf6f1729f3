"""Rate and distortion of single weights: what each codec costs in bits, and what it loses.

No calibration is involved: a weight is encoded, decoded and compared. The rate is a layer's true
bits (codes, pool, scales and an fp16 bias over its weights), the distortion ``|W - W'|^2 / |W|^2``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from dpqlab.core import (
    CodebookCodec,
    Codec,
    ScalarCodec,
    decode,
    encode,
    fit_pool,
    ledger_of_encoded,
    relative_error,
    scalar_decode,
    scalar_encode,
)
from dpqlab.kernels.dispatch import best_assigner, best_clusterer

Family = Literal["RTN", "VQ", "PQ, grouped", "PQ"]

GROUP = 16  # neighbouring positions that share a codebook in the curve of "PQ, grouped"
BIAS_BITS = 16  # of one bias of a compressed layer, as the presets store it


@dataclass(frozen=True, kw_only=True)
class RateDistortionPoint:
    """One codec on one weight.

    Parameters
    ----------
    layer
        Name of the layer.
    shape
        (out, in) of its weight.
    family
        Who shares a codebook: a column position (PQ), neighbouring positions (grouped), the layer
        (VQ); or no codebook at all (RTN, round to nearest).
    codec
        The codec in words.
    d, k
        Length of a sub-vector and codewords of a codebook; of RTN 1 and its levels.
    true_bits
        Everything stored, in bits a weight.
    relative_error
        Squared error over squared norm of the weight, 0 is exact.
    """

    layer: str
    shape: tuple[int, int]
    family: Family
    codec: str
    d: int
    k: int
    true_bits: float
    relative_error: float

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a dict for JSON."""
        return asdict(self)


def family_of(codec: Codec) -> Family:
    """Name the family that a codec belongs to."""
    if isinstance(codec, ScalarCodec):
        return "RTN"
    names: dict[str, Family] = {"position": "PQ", "group": "PQ, grouped"}
    return names.get(codec.scope, "VQ")


def curve_codecs() -> tuple[Codec, ...]:
    """Return codecs of every family from about half a bit to about three, for a curve."""
    lengths = {2: (4, 8, 16, 32, 64), 4: (4, 8, 16, 32, 64, 256), 6: (16, 64), 8: (16, 64, 256)}
    sizes = [(d, k) for d, ks in lengths.items() for k in ks]
    rtn = [ScalarCodec(bits=bits, group_size=size) for bits in (1, 2, 3) for size in (96, 384)]
    vq = [
        CodebookCodec(d=d, k=k, scope="layer", row_scale=r) for d, k in sizes for r in (False, True)
    ]
    grouped = [
        CodebookCodec(d=d, k=k, scope="group", group=GROUP, row_scale=True)
        for d, k in sizes
        if k <= 64
    ]
    pq = [CodebookCodec(d=d, k=k, scope="position", row_scale=True) for d, k in sizes if k <= 32]
    return (*rtn, *vq, *grouped, *pq)


def rate_distortion_points(
    weights: Mapping[str, Tensor], codecs: Sequence[Codec], *, seed: int = 0
) -> Iterator[RateDistortionPoint]:
    """Encode each weight with each codec.

    Parameters
    ----------
    weights
        Matrices (out, in) by layer name, on the CPU.
    codecs
        Codecs that need one weight only (``across="layer"``).
    seed
        Of every clustering.

    Yields
    ------
    RateDistortionPoint
        ``len(weights) * len(codecs)`` points, layer by layer.
    """
    for name, weight in weights.items():
        for codec in codecs:
            bits, error = _measure(weight.detach().float(), codec, seed)
            scalar = isinstance(codec, ScalarCodec)
            yield RateDistortionPoint(
                layer=name,
                shape=(weight.shape[0], weight.shape[1]),
                family=family_of(codec),
                codec=codec.describe(),
                d=1 if scalar else codec.d,
                k=2**codec.bits if scalar else codec.k,
                true_bits=bits,
                relative_error=error,
            )


def pareto(points: Sequence[RateDistortionPoint]) -> list[RateDistortionPoint]:
    """Return the points that no other beats in both bits and error, by rising bits."""
    best: list[RateDistortionPoint] = []
    for point in sorted(points, key=lambda p: (p.true_bits, p.relative_error)):
        if not best or point.relative_error < best[-1].relative_error:
            best.append(point)
    return best


def _measure(weight: Tensor, codec: Codec, seed: int) -> tuple[float, float]:
    """Return true bits and relative error of one codec on one weight."""
    bias_bits = BIAS_BITS * weight.shape[0]
    if isinstance(codec, ScalarCodec):
        scalar = scalar_encode(weight, codec)
        ledger = ledger_of_encoded("", scalar, bias_bits=bias_bits)
        return ledger.true_bits, relative_error(weight, scalar_decode(scalar))
    pool = fit_pool(
        [weight],
        codec,
        generator=torch.Generator().manual_seed(seed),
        clusterer=best_clusterer(weight.device),
    )
    encoded = encode(weight, codec, pool, assigner=best_assigner(weight.device))
    ledger = ledger_of_encoded("", encoded, bias_bits=bias_bits)
    return ledger.true_bits, relative_error(weight, decode(encoded))
