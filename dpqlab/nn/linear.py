"""A Linear with codes into a pool of codewords: product and vector quantization.

The base class (what all packed layers share) is in :mod:`dpqlab.nn.packed`, the round-to-nearest
baseline in :mod:`dpqlab.nn.scalar_linear`; all of them can be imported from here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpqlab.core import (
    CodebookCodec,
    Encoded,
    Pool,
    pack,
    position_count,
    scope_of_positions,
    unpack,
)
from dpqlab.errors import ShapeError
from dpqlab.kernels import ops
from dpqlab.kernels.coded import CodedWeight, runs_of_positions
from dpqlab.nn.codebook_tensors import CodebookTensors, code_bits_of, codes_beyond
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


class CompressedLinear(PackedLinear):
    """A Linear with codes into a pool of codewords (product or vector quantization).

    ``weight[r, g*d:(g+1)*d] = scale[r] * pool[entry(s, code[r, g])]`` with s the scope of position
    g; ``entry(s, c)`` is ``base[s] + c``, or ``table[base[s] + c]`` where there is a table.

    Parameters
    ----------
    codec
        The codec that made the codes: sub-vector length and sharing scope are read from it.
    shape
        (out_features, in_features).
    tensors
        What is stored; any of them but ``base`` and ``table`` may be on the meta device. Layers
        that are given the same ``pool`` Parameter share it.
    compute_dtype
        The dtype of the layer that this one replaces.

    Attributes
    ----------
    weight, pool, scale, bias : Parameter
        As in :class:`CodebookTensors`, frozen.
    base, table, scope_of : Tensor
        How a code finds its codeword; buffers. ``table`` may be None.
    first, size : Tensor
        The same for every position, as kernels want it: int32 (m,), buffers.
    latent : Parameter or None
        float32 of shape (out, m, d), in units of the row scale: unquantized sub-vectors that take a
        straight-through gradient while a model is calibrated. They change no value that the layer
        computes, and are neither saved nor counted.
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
    table: Tensor | None
    scope_of: Tensor
    first: Tensor
    size: Tensor
    latent: nn.Parameter | None

    def __init__(
        self,
        codec: CodebookCodec,
        shape: tuple[int, int],
        tensors: CodebookTensors,
        compute_dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(shape, tensors.codes, tensors.bias, compute_dtype)
        self.codec = codec
        tensors.check(codec, shape)
        scope_of = scope_of_positions(codec.scope, self.positions, codec.group)
        self.pool = frozen(tensors.pool)
        self.scale = None if tensors.scale is None else frozen(tensors.scale)
        # registered while it is None, so that functional_call can put a tensor in its place
        self.register_parameter("latent", None)
        self.code_bits = code_bits_of(tensors.base)
        scope_of = scope_of.to(tensors.base.device)
        first, size = runs_of_positions(tensors.base, scope_of)
        buffers = {"base": tensors.base, "table": tensors.table, "scope_of": scope_of}
        for name, buffer in (buffers | {"first": first, "size": size}).items():
            self.register_buffer(name, buffer, persistent=False)
        self.codes_cache: Tensor | None = None

    @property
    def positions(self) -> int:
        """``m``, the sub-vectors of a row."""
        return position_count(self.in_features, self.codec.d)

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
        tensors = CodebookTensors.from_encoded(encoded, bias=bias, pool_parameter=pool_parameter)
        return cls(codec, encoded.shape, tensors, compute_dtype)

    def codes(self) -> Tensor:
        """Unpack the codes: int64 (out, m), each below the size of its scope's codebook."""
        count = self.out_features * self.positions
        return unpack(self.weight, self.code_bits, count).view(self.out_features, self.positions)

    def codebooks(self) -> Pool:
        """Return the pool, and which of its entries each scope may use, as core's ``Pool``."""
        return Pool(entries=self.pool.detach(), base=self.base, table=self.table)

    def encoded(self) -> Encoded:
        """Unpack the layer into the form that :mod:`dpqlab.core` works on."""
        return Encoded(
            codes=self.codes(),
            pool=self.codebooks(),
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

    @torch.no_grad()
    def set_pool_(self, encoded: Encoded, *, pool_parameter: nn.Parameter | None = None) -> None:
        """Replace codes, pool, table and scales by those of another encoding, in place.

        Codebooks may differ in size from the ones before, and so may the bits of a code. Bias and
        ``latent`` stay; a cache follows.

        Parameters
        ----------
        encoded
            A weight of this layer's shape and codec, on its device.
        pool_parameter
            The Parameter that holds the codewords of ``encoded`` already, where layers share them.
            Without it the layer gets a Parameter of its own: one that it shared is left to the
            others.

        Raises
        ------
        ShapeError
            If ``encoded`` is not of this layer's shape and codec. The layer is unchanged then.
        """
        shape = (self.out_features, self.in_features)
        alike = encoded.shape == shape and torch.equal(encoded.scope_of, self.scope_of)
        if not alike or (encoded.scale is None) != (self.scale is None):
            raise ShapeError(
                f"an encoded weight of shape {encoded.shape}, {len(encoded.pool.sizes)} codebooks, "
                f"scales {encoded.scale is not None} does not fit a {self.codec.describe()} layer "
                f"{shape}: encode the layer's own weight with its codec"
            )
        tensors = CodebookTensors.from_encoded(
            encoded, bias=self.bias, pool_parameter=pool_parameter
        )
        tensors.check(self.codec, shape)
        self.weight = frozen(tensors.codes)
        self.pool = frozen(tensors.pool)
        self.base, self.table = tensors.base, tensors.table
        self.first, self.size = runs_of_positions(self.base, self.scope_of)
        self.scale = None if tensors.scale is None else frozen(tensors.scale)
        self.code_bits = code_bits_of(tensors.base)
        if self.codes_cache is not None:
            self.cache_codes_()

    def entry_indices(self) -> Tensor:
        """Return the pool entry of every sub-vector: int32 (out, m)."""
        if self.codes_cache is not None:
            return self.codes_cache
        index = self.codes() + self.base[self.scope_of]
        return (index if self.table is None else self.table[index]).to(torch.int32)

    def cache_codes_(self) -> None:
        """Keep the entry indices (4 bytes a sub-vector), so that decoding skips unpacking."""
        self.codes_cache = None
        self.codes_cache = self.entry_indices()

    def drop_codes_(self) -> None:
        """Forget what :meth:`cache_codes_` kept."""
        self.codes_cache = None

    def decode_with(
        self,
        entries: Tensor,
        scale: Tensor | None,
        dtype: torch.dtype = torch.float32,
        latent: Tensor | None = None,
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
        latent
            Finite (out, m, d), in units of the row scale: adds zero to the sub-vectors, but takes
            their gradient (straight-through estimator, Bengio et al., arXiv 1308.3432).

        Returns
        -------
        Tensor of shape (out, in).
        """
        wide = torch.promote_types(torch.promote_types(dtype, entries.dtype), torch.float32)
        sub = F.embedding(self.entry_indices(), entries.to(wide))  # (out, m, d)
        if latent is not None:
            sub = sub + (latent - latent.detach()).to(wide)
        rows = sub.flatten(1)[:, : self.in_features]
        if scale is not None:
            rows = rows * scale.to(wide)[:, None]
        return rows.to(dtype)

    def coded(self) -> CodedWeight:
        """Return what is stored, as kernels take it; nothing but a table is copied."""
        return CodedWeight(
            codes=self.weight,
            pool=self.pool,
            first=self.first,
            size=self.size,
            table=None if self.table is None else self.table.to(torch.int32),
            scale=self.scale,
            shape=(self.out_features, self.in_features),
            code_bits=self.code_bits,
        )

    def decode(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the weight (out, in): decoded in float32, then rounded to ``dtype``."""
        if self._calibrated:
            return self.decode_with(self.pool, self.scale, dtype, self.latent)
        return ops.decode(self.coded(), dtype)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name nn.Linear gives it
        """Apply the layer to (..., in), giving (..., out) in the dtype of the input."""
        if self._calibrated or self._held is not None:
            return super().forward(input)
        return ops.linear(input, self.coded(), self.bias)

    @property
    def _calibrated(self) -> bool:
        """Whether codes are unpacked or unquantized sub-vectors kept: only ``decode_with`` can."""
        return self.codes_cache is not None or self.latent is not None

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        super()._apply(fn, recurse)
        if self.codes_cache is not None:
            self.codes_cache = fn(self.codes_cache)
        return self

    def extra_repr(self) -> str:
        """Return the shape and the codec, for ``repr``."""
        return f"{super().extra_repr()}, codec={self.codec.describe()!r}"
