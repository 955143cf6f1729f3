"""The layers of a DiT as a runtime takes them: dense tensors and packed codes behind one face."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dpqlab.diffusion.runtime.config import Held
from dpqlab.errors import ConfigError
from dpqlab.kernels.coded import CodedWeight
from dpqlab.nn.linear import CompressedLinear, PackedLinear

Decoder = Callable[[CodedWeight, Tensor], object]
"""Decodes a weight into a contiguous (out, in) tensor, on the current stream."""


def decode_into(weight: CodedWeight, out: Tensor) -> None:
    """Decode ``weight`` into ``out`` by the backend that suits its device."""
    from dpqlab.kernels.linears import chosen_decode

    chosen_decode(weight, out.dtype, out)


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """One Linear of the model, in whatever form its weight is kept; nothing is copied.

    Exactly one of ``dense``, ``coded`` and ``packed`` is there.

    Attributes
    ----------
    shape
        (out, in).
    bias
        (out,) in its storage dtype, or None.
    dense
        The weight itself.
    coded
        Codes into codebooks, and ``decoder`` for them.
    packed
        A layer of another kind that can decode itself.
    """

    shape: tuple[int, int]
    bias: Tensor | None
    decoder: Decoder
    dense: Tensor | None = None
    coded: CodedWeight | None = None
    packed: PackedLinear | None = None

    @classmethod
    def of(cls, layer: nn.Module, name: str, decoder: Decoder = decode_into) -> Part:
        """Read a layer.

        Raises
        ------
        ConfigError
            If it is neither a plain nor a packed Linear: what it does is unknown then.
        """
        if not isinstance(layer, PackedLinear) and type(layer) is not nn.Linear:
            raise ConfigError(
                f"{name} is a {type(layer).__name__}: a runtime takes nn.Linear and dpqlab's "
                "compressed layers; sample with the transformer itself, or merge adapters first"
            )
        shape = (layer.out_features, layer.in_features)
        bias = None if layer.bias is None else layer.bias.detach()
        if isinstance(layer, CompressedLinear):
            return cls(shape=shape, bias=bias, decoder=decoder, coded=_detached(layer.coded()))
        if isinstance(layer, PackedLinear):
            return cls(shape=shape, bias=bias, decoder=decoder, packed=layer)
        return cls(shape=shape, bias=bias, decoder=decoder, dense=layer.weight.detach())

    def write(self, out: Tensor) -> None:
        """Write the weight into a contiguous tensor of its shape, rounding to the dtype there."""
        if self.dense is not None:
            out.copy_(self.dense)
        elif self.coded is not None:
            self.decoder(self.coded, out)
        else:
            assert self.packed is not None
            out.copy_(self.packed.decode(out.dtype))

    def held(self) -> Iterator[Held]:
        """Yield the tensors of the weight; a bias is kept by whoever multiplies."""
        if self.dense is not None:
            yield "dense", self.dense
        if self.packed is not None:
            for name, tensor in self.packed.named_parameters():
                if name != "bias":
                    yield ("codes" if name == "weight" else "scales"), tensor
        if self.coded is not None:
            yield from _held_by(self.coded)


def filler(parts: Sequence[Part], out: Tensor) -> Callable[[], object]:
    """Return what decodes ``parts`` below each other into ``out``, a buffer that stays.

    The function copies nothing to the device, so a CUDA graph can capture it; neighbours of one
    kind of codec are one launch on a GPU.
    """
    pairs = list(zip(parts, out.split([part.shape[0] for part in parts]), strict=True))
    coded = [part.coded for part in parts if part.coded is not None]
    if len(coded) == len(parts) and parts[0].decoder is decode_into:
        from dpqlab.kernels.linears import group_decodes

        together = group_decodes(coded, [there for _, there in pairs])
        if together is not None:
            return together
    return lambda: [part.write(there) for part, there in pairs]


def held_weight(parts: Sequence[Part], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the weights of ``parts`` below each other: a dense one itself, others written out."""
    if len(parts) == 1 and parts[0].dense is not None:
        return parts[0].dense.to(dtype)
    rows = [part.shape[0] for part in parts]
    weight = torch.empty(sum(rows), parts[0].shape[1], dtype=dtype, device=device)
    for part, out in zip(parts, weight.split(rows), strict=True):
        part.write(out)
    return weight


def joined_bias(parts: Sequence[Part], dtype: torch.dtype, device: torch.device) -> Tensor | None:
    """Return the biases of ``parts`` behind each other, one alone itself; None if none has one."""
    if all(part.bias is None for part in parts):
        return None
    if len(parts) == 1 and parts[0].bias is not None:
        return parts[0].bias.to(dtype)
    biases = [
        torch.zeros(part.shape[0], device=device) if part.bias is None else part.bias
        for part in parts
    ]
    return torch.cat([bias.to(dtype) for bias in biases])


def _detached(weight: CodedWeight) -> CodedWeight:
    return CodedWeight(
        codes=weight.codes.detach(),
        pool=weight.pool.detach(),
        first=weight.first,
        size=weight.size,
        table=weight.table,
        scale=None if weight.scale is None else weight.scale.detach(),
        shape=weight.shape,
        code_bits=weight.code_bits,
    )


def _held_by(weight: CodedWeight) -> Iterator[Held]:
    yield "codes", weight.codes
    yield "pools", weight.pool
    yield "scopes", weight.first
    yield "scopes", weight.size
    if weight.table is not None:
        yield "tables", weight.table
    if weight.scale is not None:
        yield "scales", weight.scale
