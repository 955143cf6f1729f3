"""What a DiT is calibrated on: noisy images, made from real ones or by the teacher itself."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol, Self

import torch
from torch import Tensor

from dpqlab.calibration.batch import Batch
from dpqlab.diffusion.schedules import velocity
from dpqlab.errors import ConfigError, ShapeError


class CalibrationSource(Protocol):
    """Anything that noisy images can be drawn from, on the device to work on."""

    @property
    def alphas(self) -> Tensor:
        """Cumulative products of the noise schedule, (T,)."""
        ...

    def __len__(self) -> int: ...

    def split(self, holdout: int) -> tuple[Self, Self]:
        """Return what to train on, and the last ``holdout`` items, which serve for judging."""
        ...

    def draw(
        self, size: int, *, null_class: int, label_drop: float, generator: torch.Generator
    ) -> Batch:
        """Draw a batch; a share ``label_drop`` of its labels becomes ``null_class``."""
        ...


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
    prediction
        What the model predicts, one of ``dpqlab.diffusion.schedules.PREDICTIONS``.
    """

    images: Tensor
    labels: Tensor
    alphas: Tensor
    prediction: str = "epsilon"

    def __post_init__(self) -> None:
        """Refuse images that would be misread."""
        shape, dtype = tuple(self.images.shape), self.images.dtype
        if len(shape) != 4 or dtype != torch.uint8 or tuple(self.labels.shape) != shape[:1]:
            raise ShapeError(
                f"images are {dtype} {shape} and labels {tuple(self.labels.shape)}: expected uint8 "
                "(N, C, H, W) and (N,)"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def split(self, holdout: int) -> tuple[CalibrationData, CalibrationData]:
        """Return what to train on, and the last ``holdout`` images, which serve for judging."""
        check_holdout(len(self), holdout)
        parts = (slice(None, -holdout), slice(-holdout, None))
        train, judge = (replace(self, images=self.images[p], labels=self.labels[p]) for p in parts)
        return train, judge

    def draw(
        self, size: int, *, null_class: int, label_drop: float, generator: torch.Generator
    ) -> Batch:
        """Draw a batch of noisy images, with what to predict of them: see :func:`noisy_batch`."""
        return noisy_batch(
            self.images,
            self.labels,
            self.alphas,
            size=size,
            null_class=null_class,
            label_drop=label_drop,
            generator=generator,
            prediction=self.prediction,
        )


@dataclass(frozen=True, kw_only=True)
class TrajectoryData:
    """Noisy images from a teacher's own sampling: calibration without data.

    Made by :func:`dpqlab.calibration.trajectories.teacher_trajectories`.

    Parameters
    ----------
    noisy
        Floats (N, C, H, W), neighbours from the same trajectory.
    timesteps, labels
        int64 (N,).
    alphas
        As in :class:`CalibrationData`.
    """

    noisy: Tensor
    timesteps: Tensor
    labels: Tensor
    alphas: Tensor

    def __post_init__(self) -> None:
        """Refuse parts of different lengths."""
        sizes = [len(self.noisy), len(self.timesteps), len(self.labels)]
        if self.noisy.ndim != 4 or len(set(sizes)) > 1 or not self.noisy.is_floating_point():
            raise ShapeError(
                f"noisy is {self.noisy.dtype} {tuple(self.noisy.shape)}, with {sizes[1]} timesteps "
                f"and {sizes[2]} labels: expected floats (N, C, H, W) and N of each"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def split(self, holdout: int) -> tuple[TrajectoryData, TrajectoryData]:
        """Return what to train on, and the last ``holdout`` items, which serve for judging."""
        check_holdout(len(self), holdout)
        parts = (slice(None, -holdout), slice(-holdout, None))
        train, judge = (
            replace(self, noisy=self.noisy[p], timesteps=self.timesteps[p], labels=self.labels[p])
            for p in parts
        )
        return train, judge

    def draw(
        self, size: int, *, null_class: int, label_drop: float, generator: torch.Generator
    ) -> Batch:
        """Draw with replacement."""
        device = self.noisy.device
        pick = torch.randint(len(self), (size,), device=device, generator=generator)
        dropped = torch.rand(size, device=device, generator=generator) < label_drop
        return Batch(
            noisy=self.noisy[pick].float(),
            timesteps=self.timesteps[pick],
            labels=torch.where(dropped, null_class, self.labels[pick]),
        )


def check_holdout(items: int, holdout: int) -> None:
    """Raise :class:`ConfigError` if nothing would be left to train on."""
    if items <= holdout:
        raise ConfigError(f"{items} images: expected more than the {holdout} kept apart")


def noisy_batch(
    images: Tensor,
    labels: Tensor,
    alphas: Tensor,
    *,
    size: int,
    null_class: int,
    label_drop: float,
    generator: torch.Generator,
    prediction: str = "epsilon",
) -> Batch:
    """Draw a batch of noisy images, with what a model should predict of them.

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
    prediction
        As in :class:`CalibrationData`.

    Returns
    -------
    Batch
        Images are drawn with replacement. Timesteps are stratified: one in each of ``size`` equal
        parts of the schedule, in order, which keeps the uniform law and lowers the variance.
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
    target = velocity(noise, noisy, alpha) if prediction == "v_prediction" else noise
    return Batch(noisy=noisy, timesteps=timesteps, labels=kept, target=target)
