"""What a model is given in a step of calibration, whole, in shares and in pieces."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dpqlab.distributed import Team


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Inputs of the model: noisy images (N, C, H, W), timesteps (N,), labels (N,), both int64.

    ``target`` (N, C, H, W) is what the model should predict: the noise that was added to clean
    images, or the velocity; None where nobody knows it.
    """

    noisy: Tensor
    timesteps: Tensor
    labels: Tensor
    target: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def share(self, team: Team) -> Batch:
        """Return what a process of a team works on: as many of each part of the schedule."""
        if team.world == 1:
            return self
        return self._of(slice(team.rank, None, team.world))

    def pieces(self, most: int, parts: int = 1) -> list[Batch]:
        """Cut the batch up.

        Parameters
        ----------
        most
            Images of a piece; but it has at least one of each part.
        parts
            Equal parts that the batch consists of, 2 if it is :func:`paired`: a piece takes as much
            of each, the same images of all.
        """
        if most >= len(self):
            return [self]
        whole, size = len(self) // parts, max(1, most // parts)
        every = torch.arange(len(self), device=self.labels.device).view(parts, whole)
        return [self._of(part.flatten()) for part in every.split(size, dim=1)]

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors of the batch."""
        found = (self.noisy, self.timesteps, self.labels, self.target)
        return [tensor for tensor in found if tensor is not None]

    def _of(self, pick: slice | Tensor) -> Batch:
        return Batch(
            noisy=self.noisy[pick].contiguous(),
            timesteps=self.timesteps[pick].contiguous(),
            labels=self.labels[pick].contiguous(),
            target=None if self.target is None else self.target[pick].contiguous(),
        )


def paired(batch: Batch, null_class: int) -> Batch:
    """Return the batch with class labels, followed by the same images without: both branches.

    Labels that were dropped stay so; the two halves of such an image are equal.
    """
    twice = [torch.cat([tensor, tensor]) for tensor in (batch.noisy, batch.timesteps)]
    return Batch(
        noisy=twice[0],
        timesteps=twice[1],
        labels=torch.cat([batch.labels, torch.full_like(batch.labels, null_class)]),
        target=None if batch.target is None else torch.cat([batch.target, batch.target]),
    )
