"""DiTs that predict the variance of a sampling step as well, and the sampler that uses it.

DiT-XL/2 was trained as in Nichol & Dhariwal (arXiv 2102.09672): of twice as many channels as the
image has, the first half predicts the noise and the second half, v, how uncertain a step back is.
The variance lies between the two extremes that are right for no data and for all data::

    log variance = u log beta + (1 - u) log beta~        u = (v + 1) / 2           (equation 15)

Ancestral sampling (DDPM) draws noise of that variance; this is how the tables of the DiT paper
(arXiv 2212.09748) were made, with 250 steps. DDIM and DPM-Solver++ draw none and leave v unused.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dpqlab.errors import ConfigError

LEARNED = ("learned", "learned_range")
"""What diffusers' schedulers call a variance that the model predicts (``variance_type``)."""


def predicts_variance(model: Any) -> bool:
    """Say whether a DiT's output has the channels of a variance behind those of the image."""
    config: Any = model.config
    return config.out_channels == 2 * config.in_channels


def uses_variance(scheduler: Any) -> bool:
    """Say whether a scheduler's ``step`` takes the variance that a model predicts."""
    return scheduler.config.get("variance_type") in LEARNED


def check_variance(model: Any, scheduler: Any) -> None:
    """Refuse a scheduler that wants a variance of a model that predicts none.

    Raises
    ------
    ConfigError
        If so; diffusers would fail somewhere in the middle of a formula.
    """
    if uses_variance(scheduler) and not predicts_variance(model):
        config: Any = model.config
        raise ConfigError(
            f"the scheduler takes a learned variance (variance_type "
            f"{scheduler.config['variance_type']!r}), and the model predicts "
            f"{config.out_channels or config.in_channels} channels for images of "
            f"{config.in_channels}: expected twice as many, or variance_type 'fixed_small'"
        )


def guided(both: Tensor, channels: int, guidance: float) -> Tensor:
    """Join the two branches of classifier-free guidance.

    All channels of the image are guided, as in diffusers; the code of the DiT paper guides the
    first three of four. A variance is that of the branch with the class, as in both.

    Parameters
    ----------
    both
        Predictions (2N, C', H, W), first with the class, then without.
    channels
        Those of the image, C; what lies behind them is a variance.
    guidance
        Scale.

    Returns
    -------
    Tensor of shape (N, C', H, W).
    """
    with_class, without_class = both.chunk(2)
    image, variance = with_class[:, :channels], with_class[:, channels:]
    without = without_class[:, :channels]
    joined = without + guidance * (image - without)
    return torch.cat([joined, variance], dim=1) if variance.shape[1] else joined
