"""What flows into the layers of a model while it draws images: no data is needed for it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from dpqlab.commands.terminal import Terminal
from dpqlab.diffusion.sampling import SampleRequest, sample_steps
from dpqlab.diffusion.schedules import make_scheduler
from dpqlab.nn.activations import input_grams, input_moments

IMAGES = 10
STEPS = 10
GUIDANCE = 1.5
SEED = 30_000
"""Added to the seed: no evaluation draws these images."""


@torch.no_grad()
def inputs_of(
    pipeline: Any, names: Iterable[str], terminal: Terminal, *, seed: int = 0, grams: bool = False
) -> dict[str, Tensor]:
    """Draw a few images, and return the second moments of what goes into the layers.

    Parameters
    ----------
    pipeline
        The full-precision model.
    names
        Of its Linears.
    terminal
        Shows the progress.
    seed
        Of the images.
    grams
        Return E[x x^T] (in, in) instead of E[x_j^2] (in,).

    Returns
    -------
    dict of name to float32 Tensor, on the CPU.
    """
    model = pipeline.transformer
    classes = model.config.num_embeds_ada_norm
    request = SampleRequest(
        labels=tuple(i % classes for i in range(IMAGES)),
        seed=SEED + seed,
        steps=STEPS,
        guidance=GUIDANCE,
    )
    gather = input_grams if grams else input_moments
    with (
        terminal.progress("Measuring the layers' inputs", STEPS) as meter,
        gather(model, names) as means,
    ):
        for _ in sample_steps(model, make_scheduler("ddim"), request):
            meter.advance()
    return {name: mean.mean.float().cpu() for name, mean in means.items()}
