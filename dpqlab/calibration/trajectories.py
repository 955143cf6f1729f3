"""Calibration without data: noisy images from the teacher's own sampling trajectories.

As in VQ4DiT (arXiv 2408.17131): start from noise, and keep what the sampler passes through.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dpqlab.calibration.data import TrajectoryData
from dpqlab.diffusion.sampling import SampleRequest, initial_noise, sample_steps
from dpqlab.errors import ConfigError

AT_ONCE = 256  # trajectories in one batch; guidance doubles it


@torch.no_grad()
def teacher_trajectories(
    teacher: nn.Module,
    scheduler: Any,
    *,
    images: int,
    seed: int = 0,
    guidance: float = 1.5,
    steps: int = 50,
) -> TrajectoryData:
    """Sample from a teacher, and keep the noisy image at every step.

    Parameters
    ----------
    teacher
        A DiT, on the device that the data are wanted on.
    scheduler
        A diffusers scheduler.
    images
        Trajectories, all classes in turn. The result holds ``images * steps`` items in float16.
    seed, guidance, steps
        Of the sampling. Use a seed that no evaluation draws.

    Raises
    ------
    ConfigError
        If ``images`` is below 1.
    """
    if images < 1:
        raise ConfigError(f"images is {images}: expected at least 1 trajectory")
    config: Any = teacher.config
    device = next(teacher.parameters()).device
    labels = tuple(i % config.num_embeds_ada_norm for i in range(images))
    shape = (config.in_channels, config.sample_size, config.sample_size)
    parts: list[Tensor] = []
    times: list[int] = []
    for first in range(0, images, AT_ONCE):
        request = SampleRequest(
            labels=labels[first : first + AT_ONCE],
            seed=seed,
            first_index=first,
            steps=steps,
            guidance=guidance,
        )
        indices = range(first, first + len(request.labels))
        noisy = initial_noise(shape, seed, indices, device=device)
        seen: list[Tensor] = []
        times = []
        for step in sample_steps(teacher, scheduler, request, latents=noisy):
            seen.append(noisy.half())
            times.append(step.timestep)
            noisy = step.latents
        # one trajectory after the other: a tail held out for judging is of images never seen
        parts.append(torch.stack(seen, dim=1).flatten(0, 1))
    return TrajectoryData(
        noisy=torch.cat(parts),
        timesteps=torch.tensor(times, device=device).repeat(images),
        labels=torch.tensor(labels, device=device).repeat_interleave(len(times)),
        alphas=scheduler.alphas_cumprod.to(device),
    )
