"""Noisy images, made from real ones: what a DiT is trained and calibrated on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dpqlab.errors import ShapeError


@dataclass(frozen=True, kw_only=True)
class CalibrationData:
    """Real images to make noisy ones of.

    Parameters
    ----------
    images, labels
        uint8 (N, C, H, W) and int64 (N,), on the device to work on.
    alphas
        Cumulative products of the noise schedule (T,), ``scheduler.alphas_cumprod``, on the same
        device.
    """

    images: Tensor
    labels: Tensor
    alphas: Tensor

    def __post_init__(self) -> None:
        """Refuse images that would be misread."""
        shape, dtype = tuple(self.images.shape), self.images.dtype
        if len(shape) != 4 or dtype != torch.uint8 or tuple(self.labels.shape) != shape[:1]:
            raise ShapeError(
                f"images are {dtype} {shape} and labels {tuple(self.labels.shape)}: expected uint8 "
                "(N, C, H, W) and (N,)"
            )


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Inputs of the model: noisy images (N, C, H, W), timesteps (N,), labels (N,), both int64."""

    noisy: Tensor
    timesteps: Tensor
    labels: Tensor


def noisy_batch(
    images: Tensor,
    labels: Tensor,
    alphas: Tensor,
    *,
    size: int,
    null_class: int,
    label_drop: float,
    generator: torch.Generator,
) -> tuple[Batch, Tensor]:
    """Draw a batch of noisy images and the noise in them.

    Parameters
    ----------
    images, labels
        uint8 (N, C, H, W) and int64 (N,), on the device to work on.
    alphas
        Cumulative products of the noise schedule (T,), on the same device.
    size
        Images in the batch.
    null_class, label_drop
        Share of the labels replaced by ``null_class``, so that guidance's other branch is served.
    generator
        Of the same device.

    Returns
    -------
    The batch, and its noise (size, C, H, W). Images are drawn with replacement. Timesteps are
    stratified: one in each of ``size`` equal parts of the schedule, in order, which keeps the
    uniform law and lowers the variance.
    """
    device = images.device

    def uniform() -> Tensor:
        return torch.rand(size, device=device, generator=generator)

    pick = torch.randint(len(images), (size,), device=device, generator=generator)
    clean = images[pick].float() / 127.5 - 1
    strata = (torch.arange(size, device=device) + uniform()) / size
    timesteps = (strata * len(alphas)).long().clamp(max=len(alphas) - 1)
    noise = torch.randn(clean.shape, device=device, generator=generator)
    alpha = alphas[timesteps].view(-1, 1, 1, 1)
    kept = torch.where(uniform() < label_drop, null_class, labels[pick])
    noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
    return Batch(noisy=noisy, timesteps=timesteps, labels=kept), noise
