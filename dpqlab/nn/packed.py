"""The base of Linear layers whose weight is stored as packed codes.

They subclass :class:`torch.nn.Linear`, so that code that looks for Linears (PEFT, offloading,
readers of ``linear.weight.dtype``) keeps working; ``weight`` holds the packed codes as uint8.
Everything that is stored is a frozen parameter, never a buffer: accelerate's offloading moves
parameters only.

Moving a model to another float dtype (``.half()``, ``.to(torch.bfloat16)``) changes what the layers
compute in, never what they store.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PackedLinear(nn.Linear, ABC):
    """Base of the layers with packed weights; subclasses say how to decode.

    Parameters
    ----------
    shape
        (out_features, in_features) of the weight that the codes stand for.
    weight
        uint8 codes of shape (bytes,).
    bias
        (out_features,) in its storage dtype, or None.
    compute_dtype
        The dtype of the layer that this one replaces.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        weight: Tensor,
        bias: Tensor | None,
        compute_dtype: torch.dtype,
    ) -> None:
        nn.Module.__init__(self)
        self.out_features, self.in_features = shape
        self.weight = frozen(weight)
        self.bias = None if bias is None else frozen(bias)
        self._compute_dtype = compute_dtype
        self._held: Tensor | None = None

    @property
    def compute_dtype(self) -> torch.dtype:
        """The float dtype that the surrounding model works in; inputs of any other work too."""
        return self._compute_dtype

    def set_compute_dtype_(self, dtype: torch.dtype) -> None:
        """Say what the surrounding model works in; nothing that is stored changes."""
        self._compute_dtype = dtype

    @abstractmethod
    def decode(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the weight, shape (out, in): decoded in float32, then rounded to ``dtype``."""

    def decoded_weight(self, dtype: torch.dtype) -> Tensor:
        """Return :meth:`decode`, or what :func:`hold_decoded` holds where that is as good."""
        held = self._held
        if held is not None and held.dtype == dtype and held.device == self.weight.device:
            return held
        return self.decode(dtype)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name nn.Linear gives it
        """Apply the layer to (..., in), giving (..., out) in the dtype of the input."""
        bias = None if self.bias is None else self.bias.to(input.dtype)
        return F.linear(input, self.decoded_weight(input.dtype), bias)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        def moved(tensor: Tensor) -> Tensor:
            new = fn(tensor)
            return new if new.dtype == tensor.dtype else tensor.to(new.device)

        self._held = None
        super()._apply(moved, recurse)
        self._compute_dtype = fn(torch.empty(0, dtype=self._compute_dtype)).dtype
        return self


@contextmanager
def hold_decoded(model: nn.Module, dtype: torch.dtype | None = None) -> Iterator[None]:
    """Decode every packed layer of ``model`` once and keep the weights until the block ends.

    For many forward passes in a row (sampling on the CPU). It costs the memory of the dense
    weights. What is held follows no change of the layers' parameters; do not train inside. It
    nests: an inner block leaves the outer one's weights in place, on exceptions too.

    Parameters
    ----------
    model
        Any module; layers that are not packed are left alone.
    dtype
        Dtype to hold; default: each layer's ``compute_dtype``. Inputs of another dtype are served
        as outside the block.
    """
    layers = [module for module in model.modules() if isinstance(module, PackedLinear)]
    before = [layer._held for layer in layers]
    try:
        with torch.no_grad():
            for layer in layers:
                layer._held = layer.decoded_weight(dtype or layer.compute_dtype)
        yield
    finally:
        for layer, held in zip(layers, before, strict=True):
            layer._held = held


def frozen(tensor: Tensor) -> nn.Parameter:
    """Return ``tensor`` as a Parameter that wants no gradient (a Parameter stays itself)."""
    if isinstance(tensor, nn.Parameter):
        tensor.requires_grad_(False)
        return tensor
    return nn.Parameter(tensor.detach(), requires_grad=False)
