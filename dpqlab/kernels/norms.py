"""The steps between the products of a DiT block, in PyTorch: normalize, modulate, gate, add.

As in ``AdaLayerNormZero`` and ``BasicTransformerBlock`` of diffusers, but float32 inside with one
rounding at the end. ``triton_norm`` has the same functions with the same arguments. Everywhere x,
residual and y are (batch, tokens, C) and shift, scale and gate (batch, C), the same for all tokens
of an image.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def norm_modulate(x: Tensor, shift: Tensor, scale: Tensor, eps: float = 1e-6) -> Tensor:
    """Return ``norm(x) * (1 + scale) + shift``, of the dtype of x.

    ``norm`` brings every token to mean 0 and variance 1 over its C values, without weights.

    Parameters
    ----------
    x
        (batch, tokens, C).
    shift, scale
        (batch, C).
    eps
        Added to the variance.
    """
    normed = F.layer_norm(x.float(), x.shape[-1:], eps=eps)
    return (normed * (1 + _wide(scale)) + _wide(shift)).to(x.dtype)


def gate_add(residual: Tensor, y: Tensor, gate: Tensor) -> Tensor:
    """Return ``residual + gate * y``, of the dtype of ``residual``."""
    return (_wide(gate) * y.float() + residual.float()).to(residual.dtype)


def gate_add_norm_modulate(
    residual: Tensor, y: Tensor, gate: Tensor, shift: Tensor, scale: Tensor, eps: float = 1e-6
) -> tuple[Tensor, Tensor]:
    """Return ``gate_add(residual, y, gate)`` and ``norm_modulate`` of that, as rounded."""
    added = gate_add(residual, y, gate)
    return added, norm_modulate(added, shift, scale, eps)


def _wide(modulation: Tensor) -> Tensor:
    return modulation.to(torch.float32)[:, None]
