"""A Linear with codes into a pool of codewords: product and vector quantization.

The base class (what all packed layers share) is in :mod:`dpqlab.nn.packed`, the round-to-nearest
baseline in :mod:`dpqlab.nn.scalar_linear`; all of them can be imported from here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpqlab.core import (
    CodebookCodec,
    Encoded,
    Pool,
    code_bits,
    pack,
    packed_size,
    position_count,
    scope_of_positions,
    unpack,
)
from dpqlab.errors import ShapeError
from dpqlab.nn.packed import PackedLinear, frozen, hold_decoded
from dpqlab.nn.scalar_linear import ScalarLinear

__all__ = [
    "CodebookTensors",
    "CompressedLinear",
    "PackedLinear",
    "ScalarLinear",
    "code_bits_of",
    "codes_beyond",
    "hold_decoded",
]


@dataclass(frozen=True, kw_only=True)
class CodebookTensors:
    """What a :class:`CompressedLinear` stores.

    ``codes`` uint8 (bytes,), ``pool`` float16 (P, d), ``base`` int64 (S + 1,) (scope s owns the
    pool entries ``base[s]`` to ``base[s + 1] - 1``), ``scale`` float16 (out,) or None, ``bias``
    (out,) or None.
    """

    codes: Tensor
    pool: Tensor
    base: Tensor
    scale: Tensor | None = None
    bias: Tensor | None = None


class CompressedLinear(PackedLinear):
    """A Linear with codes into a pool of codewords (product or vector quantization).

    ``weight[r, g*d:(g+1)*d] = scale[r] * pool[base[s] + code[r, g]]`` with s the scope of position
    g.

    Parameters
    ----------
    codec
        The codec that made the codes: sub-vector length and sharing scope are read from it.
    shape
        (out_features, in_features).
    tensors
        What is stored; any of them but ``base`` may be on the meta device. Layers that are given
        the same ``pool`` Parameter share it.
    compute_dtype
        The dtype of the layer that this one replaces.

    Attributes
    ----------
    weight, pool, scale, bias : Parameter
        As in :class:`CodebookTensors`, frozen.
    code_bits : int
        Bits of one code: enough for the largest codebook of the layer.
    codes_cache : Tensor or None
        int32 pool entry of every sub-vector, shape (out, m); see :meth:`cache_codes_`.

    Raises
    ------
    ShapeError
        If the tensors do not fit each other.
    """

    base: Tensor
    scope_of: Tensor

    def __init__(
        self,
        codec: CodebookCodec,
        shape: tuple[int, int],
        tensors: CodebookTensors,
        compute_dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(shape, tensors.codes, tensors.bias, compute_dtype)
        self.codec = codec
        self.pool = frozen(tensors.pool)
        self.scale = None if tensors.scale is None else frozen(tensors.scale)
        scope_of = scope_of_positions(codec.scope, self.positions, codec.group)
        self.code_bits = code_bits_of(tensors.base)
        self._check(tensors.base, scope_of)
        self.register_buffer("base", tensors.base, persistent=False)
        self.register_buffer("scope_of", scope_of.to(tensors.base.device), persistent=False)
        self.codes_cache: Tensor | None = None

    @property
    def positions(self) -> int:
        """``m``, the sub-vectors of a row."""
        return position_count(self.in_features, self.codec.d)

    def _check(self, base: Tensor, scope_of: Tensor) -> None:
        out = self.out_features
        expected = {
            "codes": (self.weight, (packed_size(out * self.positions, self.code_bits),)),
            "pool": (self.pool, (int(base[-1]), self.codec.d)),
            "base": (base, (int(scope_of[-1]) + 2,)),
            "scale": (self.scale, (out,)),
            "bias": (self.bias, (out,)),
        }
        for name, (tensor, shape) in expected.items():
            if tensor is not None and tuple(tensor.shape) != shape:
                raise ShapeError(
                    f"{name} of a {self.codec.describe()} layer ({out}, {self.in_features}) has "
                    f"shape {tuple(tensor.shape)}: expected {shape}"
                )

    @classmethod
    def from_encoded(
        cls,
        encoded: Encoded,
        codec: CodebookCodec,
        *,
        bias: Tensor | None = None,
        pool_parameter: nn.Parameter | None = None,
        compute_dtype: torch.dtype = torch.float32,
    ) -> CompressedLinear:
        """Pack what :func:`dpqlab.core.codecs.encode` returned.

        Parameters
        ----------
        encoded
            Codes, pool and scale of one weight.
        codec
            The codec that it was encoded with.
        bias
            (out,) in its storage dtype.
        pool_parameter
            The Parameter of an earlier layer that was encoded with the same pool: it is shared.
        compute_dtype
            The dtype of the layer that this one replaces.
        """
        pool = encoded.pool
        tensors = CodebookTensors(
            codes=pack(encoded.codes.flatten(), pool.code_bits),
            pool=pool.entries if pool_parameter is None else pool_parameter,
            base=pool.base,
            scale=encoded.scale,
            bias=bias,
        )
        return cls(codec, encoded.shape, tensors, compute_dtype)

    def codes(self) -> Tensor:
        """Unpack the codes: int64 (out, m), each below the size of its scope's codebook."""
        count = self.out_features * self.positions
        return unpack(self.weight, self.code_bits, count).view(self.out_features, self.positions)

    def encoded(self) -> Encoded:
        """Unpack the layer into the form that :mod:`dpqlab.core` works on."""
        return Encoded(
            codes=self.codes(),
            pool=Pool(entries=self.pool.detach(), base=self.base),
            scope_of=self.scope_of,
            scale=None if self.scale is None else self.scale.detach(),
            shape=(self.out_features, self.in_features),
        )

    @torch.no_grad()
    def set_codes_(self, codes: Tensor) -> None:
        """Replace the codes by integer ``codes`` (out, m), in place; a cache follows.

        Raises
        ------
        ShapeError
            If the shape is wrong or a code is not below the size of its scope's codebook.
        """
        expected = (self.out_features, self.positions)
        if tuple(codes.shape) != expected:
            raise ShapeError(f"codes have shape {tuple(codes.shape)}: expected {expected}")
        excess = codes_beyond(codes, self.base, self.scope_of)
        if excess:
            raise ShapeError(f"{excess} codes lie beyond their codebook: expected 0 <= code < k")
        self.weight.copy_(pack(codes.flatten(), self.code_bits))
        if self.codes_cache is not None:
            self.cache_codes_()

    def entry_indices(self) -> Tensor:
        """Return the pool entry of every sub-vector, ``base + code``: int32 (out, m)."""
        if self.codes_cache is not None:
            return self.codes_cache
        return (self.codes() + self.base[self.scope_of]).to(torch.int32)

    def cache_codes_(self) -> None:
        """Keep the entry indices (4 bytes a sub-vector), so that decoding skips unpacking."""
        self.codes_cache = None
        self.codes_cache = self.entry_indices()

    def drop_codes_(self) -> None:
        """Forget what :meth:`cache_codes_` kept."""
        self.codes_cache = None

    def decode_with(
        self, entries: Tensor, scale: Tensor | None, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Decode with other codewords and scales than the stored ones, differentiably.

        With cached codes this is one gather and one product, without host synchronisation, so CUDA
        graphs can capture it. The gradient of the gather sums over equal codes.

        Parameters
        ----------
        entries
            Codewords (P, d), usually a float32 master copy of ``pool``.
        scale
            Row scales (out,), or None for a layer without.
        dtype
            Dtype of the result; the arithmetic is float32 (float64 if this or ``entries`` is).

        Returns
        -------
        Tensor of shape (out, in).
        """
        wide = torch.promote_types(torch.promote_types(dtype, entries.dtype), torch.float32)
        sub = F.embedding(self.entry_indices(), entries.to(wide))  # (out, m, d)
        rows = sub.flatten(1)[:, : self.in_features]
        if scale is not None:
            rows = rows * scale.to(wide)[:, None]
        return rows.to(dtype)

    def decode(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the weight (out, in): see :meth:`decode_with`."""
        return self.decode_with(self.pool, self.scale, dtype)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        super()._apply(fn, recurse)
        if self.codes_cache is not None:
            self.codes_cache = fn(self.codes_cache)
        return self

    def extra_repr(self) -> str:
        """Return the shape and the codec, for ``repr``."""
        return f"{super().extra_repr()}, codec={self.codec.describe()!r}"


def code_bits_of(base: Tensor) -> int:
    """Return the bits of one code for the largest run of ``base`` (S + 1,): at least 1."""
    return code_bits(int(base.diff().max()))


def codes_beyond(codes: Tensor, base: Tensor, scope_of: Tensor) -> int:
    """Count codes (out, m) that are negative or not below the size of their scope's codebook."""
    return int(((codes < 0) | (codes >= base.diff()[scope_of])).sum())
