"""How a weight is to be coded, and what coding made of it.

Two families. A :class:`CodebookCodec` replaces sub-vectors by codes into codebooks (VQ, PQ and what
lies between, see ``codecs.py``). A :class:`ScalarCodec` rounds every weight to a grid
(``scalar.py``) and is the baseline that the first family is measured against.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Self, get_args

import torch

from dpqlab.core.kmeans import MAX_K, Init, KMeansConfig
from dpqlab.core.packing import code_bits, packed_size
from dpqlab.core.pool import Pool
from dpqlab.core.scope import ACROSS, SCOPES, Across, Scope
from dpqlab.errors import ConfigError, ShapeError


class _Schema:
    """Closed, flat schema of a frozen dataclass: a name, plus exactly its fields."""

    family: str

    def to_dict(self) -> dict[str, Any]:
        """Return the codec as JSON values: its ``family`` and all of its settings."""
        return {"family": self.family} | asdict(self)  # pyright: ignore[reportArgumentType]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build the codec from what :meth:`to_dict` returned; any other key or type is an error."""
        known = {f.name: f.type for f in fields(cls)}  # pyright: ignore[reportArgumentType]
        given = {str(key): value for key, value in values.items() if key != "family"}
        if values.get("family") != cls.family or given.keys() != known.keys():
            raise ConfigError(
                f"not a {cls.family} codec: got {dict(values)!r}, expected family {cls.family!r} "
                f"and exactly the keys {', '.join(known)}"
            )
        for name, value in given.items():
            expected = {"int": int, "bool": bool}.get(str(known[name]), str)
            if type(value) is not expected:
                raise ConfigError(
                    f"{cls.family} codec: {name} must be {expected.__name__}, got {value!r}"
                )
        return cls(**given)


@dataclass(frozen=True, kw_only=True)
class CodebookCodec(_Schema):
    """Vector and product quantization, one dial apart.

    Attributes
    ----------
    d
        Weights in a sub-vector, 1 to 1024. Where it does not divide the input dimension, rows are
        filled up with zeros (see :func:`dpqlab.core.subvectors.split`).
    k
        Codewords in a codebook, 2 to 65,536; fewer where a scope has fewer sub-vectors.
    scope
        Which positions of a row share a codebook (see :mod:`dpqlab.core.scope`): ``"position"`` is
        PQ, ``"layer"`` VQ.
    group
        Positions to a codebook when ``scope`` is ``"group"``, else 1.
    across
        Which layers share codebooks and pool: ``"layer"`` (each has its own), ``"kind"`` (the same
        layer of all blocks; position by position unless the scope is ``"layer"``) or ``"model"``
        (all layers with this codec; they differ in positions, so the scope must be ``"layer"``).
    row_scale
        Whether every row has an fp16 scale.
    iterations, init
        Of the k-means that makes the codebooks.
    """

    family = "codebook"

    d: int
    k: int
    scope: Scope = "position"
    group: int = 1
    across: Across = "layer"
    row_scale: bool = False
    iterations: int = 20
    init: Init = "kmeans++"

    def __post_init__(self) -> None:
        if not 1 <= self.d <= 1024:
            raise ConfigError(f"d must lie in 1..1024: got {self.d}")
        if not 2 <= self.k <= MAX_K:
            raise ConfigError(f"k must lie in 2..{MAX_K}: got {self.k}")
        if self.scope not in SCOPES:
            raise ConfigError(
                f"unknown scope: got {self.scope!r}, expected one of {', '.join(SCOPES)}"
            )
        if self.across not in ACROSS:
            raise ConfigError(
                f"unknown across: got {self.across!r}, expected one of {', '.join(ACROSS)}"
            )
        if self.across == "model" and self.scope != "layer":
            raise ConfigError(
                f"across='model' with scope {self.scope!r}: layers differ in their positions, "
                "use scope 'layer', or across='kind'"
            )
        if self.group < 1 or (self.group > 1 and self.scope != "group"):
            raise ConfigError(
                f"group={self.group} with scope {self.scope!r}: use scope 'group', group >= 1"
            )
        if self.iterations < 0 or self.init not in get_args(Init):
            raise ConfigError(
                f"iterations={self.iterations}, init={self.init!r} is not a k-means setting"
            )

    @property
    def code_bits(self) -> int:
        """Bits of one code: ``ceil(log2 k)``."""
        return code_bits(self.k)

    def kmeans_config(self, k: int) -> KMeansConfig:
        """Return the k-means that makes codebooks of ``k`` codewords (at least 2)."""
        return KMeansConfig(k=max(2, k), iterations=self.iterations, init=self.init)

    def describe(self) -> str:
        """Return a short name.

        Examples
        --------
        >>> CodebookCodec(d=4, k=32, row_scale=True).describe()
        'PQ d=4 k=32 +scale'
        >>> CodebookCodec(d=8, k=256, scope="layer", across="kind").describe()
        'VQ/kind d=8 k=256'
        """
        name = {"position": "PQ", "group": f"PQ/{self.group}", "layer": "VQ"}[self.scope]
        shared = "" if self.across == "layer" else f"/{self.across}"
        return f"{name}{shared} d={self.d} k={self.k}" + " +scale" * self.row_scale


@dataclass(frozen=True, kw_only=True)
class ScalarCodec(_Schema):
    """Round to nearest on a symmetric grid without zero: the baseline.

    A weight becomes ``scale * (2 * code + 1 - 2**bits)``, with one fp16 scale for every
    ``group_size`` neighbouring weights of a row (the last group of a row may be shorter). At one
    bit that is ``scale * sign(w)``, and the best scale is the mean of ``|w|``.
    """

    family = "scalar"

    bits: int
    group_size: int

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 8:
            raise ConfigError(f"bits must lie in 1..8: got {self.bits}")
        if self.group_size < 1:
            raise ConfigError(f"group_size must be at least 1: got {self.group_size}")

    @property
    def code_bits(self) -> int:
        """Bits of one code."""
        return self.bits

    def describe(self) -> str:
        """Return a short name, such as ``"RTN 2-bit g=384"``."""
        return f"RTN {self.bits}-bit g={self.group_size}"


Codec = CodebookCodec | ScalarCodec


def codec_from_dict(values: Mapping[str, Any]) -> Codec:
    """Build whichever codec :meth:`to_dict` described; anything else is a :class:`ConfigError`."""
    for family in (CodebookCodec, ScalarCodec):
        if values.get("family") == family.family:
            return family.from_dict(values)
    raise ConfigError(
        f"unknown codec family: got {values.get('family')!r}, expected 'codebook' or 'scalar'"
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Encoded:
    """A weight as codes into a pool.

    Attributes
    ----------
    codes
        Integers of shape (out, m), each below the size of its scope's codebook; int64, or what
        :meth:`narrow` makes of them.
    pool
        The codewords; several layers may hold the same pool, or the same entries with tables of
        their own.
    scope_of
        int64 of shape (m,): the scope of every position.
    scale
        float16 of shape (out,), or None.
    shape
        ``(out, in)`` of the weight.
    """

    codes: torch.Tensor
    pool: Pool
    scope_of: torch.Tensor
    scale: torch.Tensor | None
    shape: tuple[int, int]

    def __post_init__(self) -> None:
        rows, columns = self.shape
        m = -(-columns // self.pool.d)
        shapes_fit = self.codes.shape == (rows, m) and self.scope_of.shape == (m,)
        if not shapes_fit or (self.scale is not None and self.scale.shape != (rows,)):
            scale = None if self.scale is None else tuple(self.scale.shape)
            raise ShapeError(
                f"a weight of shape {self.shape} with d={self.pool.d} has codes {(rows, m)}, "
                f"scope_of {(m,)} and scale {(rows,)} or None: got {tuple(self.codes.shape)}, "
                f"{tuple(self.scope_of.shape)} and {scale}"
            )

    def narrow(self) -> Encoded:
        """Return the same with codes of 2 or 4 bytes: for where those of many layers are held.

        Not of one byte: torch takes uint8 for a mask where it is given as an index.
        """
        small = torch.int16 if max(self.pool.sizes) <= 1 << 15 else torch.int32
        return replace(self, codes=self.codes.to(small))

    @property
    def code_bits(self) -> int:
        """Bits of one code."""
        return self.pool.code_bits

    @property
    def packed_bytes(self) -> int:
        """Bytes of the packed codes."""
        return packed_size(self.codes.numel(), self.code_bits)


@dataclass(frozen=True, kw_only=True, eq=False)
class EncodedScalar:
    """A weight rounded to a grid.

    Attributes
    ----------
    codes
        int64 of shape (out, in), each in ``0 .. 2**bits - 1``.
    scale
        float16 of shape (out, ceil(in / group_size)).
    bits, group_size
        As in :class:`ScalarCodec`.
    shape
        ``(out, in)`` of the weight.
    """

    codes: torch.Tensor
    scale: torch.Tensor
    bits: int
    group_size: int
    shape: tuple[int, int]

    def __post_init__(self) -> None:
        rows, columns = self.shape
        groups = -(-columns // self.group_size)
        if self.codes.shape != self.shape or self.scale.shape != (rows, groups):
            raise ShapeError(
                f"a weight of shape {self.shape} has codes of that shape and scale "
                f"{(rows, groups)}: got {tuple(self.codes.shape)} and {tuple(self.scale.shape)}"
            )

    @property
    def code_bits(self) -> int:
        """Bits of one code."""
        return self.bits

    @property
    def packed_bytes(self) -> int:
        """Bytes of the packed codes."""
        return packed_size(self.codes.numel(), self.bits)
