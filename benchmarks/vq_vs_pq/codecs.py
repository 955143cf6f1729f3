"""The codecs that are compared, and those of equal true bits."""

from __future__ import annotations

from typing import Any

from dpqlab.core import CodebookCodec
from dpqlab.evaluation.projection import Geometry, project

PAIRED = {4: (16, 64, 256), 8: (64, 256, 1024)}  # codewords of the VQ points by d
LENGTHS = (2, 3, 4, 6, 8, 12, 16)  # of PQ: so many, so that some k near a power of two is near
MAX_PQ = 1024  # codewords a codebook of PQ; the paper uses 256
NEAR = 0.02  # true bits within this share are equal
LARGE = 4096  # from so many codewords on, 8 iterations of k-means


def vq(d: int, k: int, across: Any = "layer") -> CodebookCodec:
    """One codebook a layer, kind of layer or model."""
    iterations = 20 if k < LARGE else 8
    return CodebookCodec(d=d, k=k, scope="layer", across=across, iterations=iterations)


def pq_families(across: str) -> tuple[dict[str, Any], ...]:
    """Return the kinds of PQ that VQ shared ``across`` layers is compared with, without d and k."""
    if across == "kind":
        return ({"scope": "position", "across": "kind"},)
    return {"scope": "position"}, {"scope": "group", "group": 4}


def rows_per_codeword(codec: CodebookCodec, geometry: Geometry) -> float:
    """Return the sub-vectors that share a codebook over its codewords, of the smallest pool."""
    blocks = 1 if codec.across == "layer" else geometry.blocks
    shapes = geometry.linears.values()
    if codec.across == "model":
        return blocks * sum(out * columns // codec.d for out, columns in shapes) / codec.k
    positions = {"position": 1, "group": codec.group}
    shared = [
        blocks * out * positions.get(codec.scope, columns // codec.d) for out, columns in shapes
    ]
    return min(shared) / codec.k


def near_pq(
    codec: CodebookCodec, geometry: Geometry, family: dict[str, Any]
) -> list[CodebookCodec]:
    """Return the PQ of each d with true bits nearest to those of ``codec``, where within 2 %."""

    def bits(one: CodebookCodec) -> float:
        return project(dict.fromkeys(geometry.linears, one), geometry).true_bits

    wanted = bits(codec)
    nearest = [
        min(
            (CodebookCodec(d=d, k=k, **family) for k in range(2, MAX_PQ + 1)),
            key=lambda one: abs(bits(one) - wanted),
        )
        for d in LENGTHS
    ]
    return [one for one in nearest if abs(bits(one) / wanted - 1) <= NEAR]
