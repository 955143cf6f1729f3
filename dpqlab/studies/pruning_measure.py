"""What a model draws and misses after pruning: the teacher's trajectories, walked by the student.

The same few pictures for every student: they show what an error means, and their trajectories are
where predicted noises are compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dpqlab.diffusion.sampling import (
    SampleRequest,
    guided_prediction,
    initial_noise,
    sample_images,
    sample_steps,
    to_uint8,
)
from dpqlab.diffusion.schedules import scheduler_for
from dpqlab.nn.linear import hold_decoded

EVERY = 4  # of the teacher's steps, one is kept to compare noises at


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a student draws and misses.

    Attributes
    ----------
    images
        uint8 (N, C, H, W).
    noise_error
        ``|e - e'|**2 / |e|**2`` of the predicted noise, with guidance, at the teacher's latents.
    image_error
        Mean square of the difference from the teacher's pictures, 1 being white.
    """

    images: np.ndarray
    noise_error: float
    image_error: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Sight:
    """The teacher's pictures, and its noises on the way to them.

    ``points`` are (timestep, latents, predicted noise), every fourth step.
    """

    request: SampleRequest
    images: np.ndarray
    points: tuple[tuple[Tensor, Tensor, Tensor], ...]

    @torch.no_grad()
    def of(self, student: nn.Module) -> Seen:
        """Let a student draw the same pictures."""
        labels = torch.tensor(self.request.labels)
        missed = whole = 0.0
        with hold_decoded(student):
            for timestep, latents, wanted in self.points:
                noise = guided_prediction(student, latents, timestep, labels, self.request.guidance)
                missed += float((noise - wanted).double().square().sum())
                whole += float(wanted.double().square().sum())
            images = sample_images(student, scheduler_for(student), self.request).numpy()
        off = (images.astype(np.float64) - self.images) / 255
        return Seen(
            images=images, noise_error=missed / whole, image_error=float(np.square(off).mean())
        )


@torch.no_grad()
def sight_of(teacher: Any, request: SampleRequest) -> Sight:
    """Draw the teacher's pictures with DDIM, and keep what it predicts on the way."""
    labels = torch.tensor(request.labels)
    scheduler = scheduler_for(teacher)
    config = teacher.config
    side = config.sample_size
    before = initial_noise((config.in_channels, side, side), request.seed, range(len(labels)))
    points: list[tuple[Tensor, Tensor, Tensor]] = []
    for step in sample_steps(teacher, scheduler, request):
        if step.index % EVERY == 0:
            timestep = torch.tensor(step.timestep)
            noise = guided_prediction(teacher, before, timestep, labels, request.guidance)
            points.append((timestep, before, noise))
        before = step.latents
    return Sight(request=request, images=to_uint8(before).numpy(), points=tuple(points))
