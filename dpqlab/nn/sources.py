"""Where the weights of a model that is compressed come from: its modules, or files."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from dpqlab.nn.targets import Target


class WeightSource(Protocol):
    """Gives the values of one Linear at a time, as often as they are asked for."""

    def weight(self, target: Target) -> Tensor:
        """Return the weight of a target, float32 (out, in)."""
        ...

    def bias(self, target: Target) -> Tensor | None:
        """Return its bias, (out,), or None without one."""
        ...

    def device(self, target: Target) -> torch.device:
        """Return where :meth:`weight` puts it."""
        ...


class ModuleWeights:
    """The weights that a model's modules hold."""

    def weight(self, target: Target) -> Tensor:
        """Return the weight of a target, float32 (out, in); no copy if it is of this dtype."""
        return target.linear.weight.detach().float()

    def bias(self, target: Target) -> Tensor | None:
        """Return its bias, (out,), or None without one."""
        return target.linear.bias

    def device(self, target: Target) -> torch.device:
        """Return where the weight lies."""
        return target.linear.weight.device
