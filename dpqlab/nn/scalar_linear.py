"""The Linear of the round-to-nearest baseline."""

from __future__ import annotations

import torch
from torch import Tensor

from dpqlab.core import EncodedScalar, ScalarCodec, pack, packed_size, scalar_decode, unpack
from dpqlab.errors import ShapeError
from dpqlab.nn.packed import PackedLinear, frozen


class ScalarLinear(PackedLinear):
    """The round-to-nearest baseline: packed codes on a grid, one scale to a group of columns.

    Parameters
    ----------
    codec
        Bits and group size.
    shape
        (out_features, in_features).
    codes
        uint8 (bytes,), one code a weight.
    scale
        float16 (out, groups).
    bias
        (out,) in its storage dtype, or None.
    compute_dtype
        The dtype of the layer that this one replaces.
    """

    def __init__(
        self,
        codec: ScalarCodec,
        shape: tuple[int, int],
        codes: Tensor,
        scale: Tensor,
        *,
        bias: Tensor | None = None,
        compute_dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(shape, codes, bias, compute_dtype)
        self.codec = codec
        self.scale = frozen(scale)
        out, columns = shape
        expected = {
            "codes": (codes, (packed_size(out * columns, codec.bits),)),
            "scale": (scale, (out, -(-columns // codec.group_size))),
            "bias": (bias, (out,)),
        }
        for name, (tensor, size) in expected.items():
            if tensor is not None and tuple(tensor.shape) != size:
                raise ShapeError(
                    f"{name} of a {codec.describe()} layer {shape} has shape "
                    f"{tuple(tensor.shape)}: expected {size}"
                )

    @classmethod
    def from_encoded(
        cls,
        encoded: EncodedScalar,
        codec: ScalarCodec,
        *,
        bias: Tensor | None = None,
        compute_dtype: torch.dtype = torch.float32,
    ) -> ScalarLinear:
        """Pack what :func:`dpqlab.core.codecs.scalar_encode` returned."""
        codes = pack(encoded.codes.flatten(), codec.bits)
        return cls(
            codec, encoded.shape, codes, encoded.scale, bias=bias, compute_dtype=compute_dtype
        )

    def encoded(self) -> EncodedScalar:
        """Unpack the layer into the form that :mod:`dpqlab.core` works on."""
        shape = (self.out_features, self.in_features)
        return EncodedScalar(
            codes=unpack(self.weight, self.codec.bits, shape[0] * shape[1]).view(shape),
            scale=self.scale.detach(),
            bits=self.codec.bits,
            group_size=self.codec.group_size,
            shape=shape,
        )

    def decode(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the weight (out, in): ``scale`` times the grid value of each code."""
        return scalar_decode(self.encoded(), dtype)

    def extra_repr(self) -> str:
        """Return the shape and the codec, for ``repr``."""
        return f"{super().extra_repr()}, codec={self.codec.describe()!r}"
