"""What flows into the layers of a model while it draws images: no data is needed for it."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dpqlab.diffusion.sampling import SampleRequest, sample_steps
from dpqlab.diffusion.schedules import make_scheduler
from dpqlab.nn.activations import input_grams, input_moments

IMAGES = 10
STEPS = 10
GUIDANCE = 1.5
SEED = 30_000
"""Added to the seed: no evaluation draws these images."""


@dataclass(frozen=True, kw_only=True, eq=False)
class InputStep:
    """One sampling step is watched.

    ``inputs`` comes with the last one, ``index == total - 1``: moments by layer name, float32 on
    the CPU.
    """

    index: int
    total: int
    inputs: dict[str, Tensor] | None = None


def moments_request(classes: int, seed: int = 0) -> SampleRequest:
    """Return the images whose activations are measured: ``IMAGES``, the classes in turn."""
    return SampleRequest(
        labels=tuple(i % classes for i in range(IMAGES)),
        seed=SEED + seed,
        steps=STEPS,
        guidance=GUIDANCE,
    )


def input_steps(
    model: Any, names: Iterable[str], request: SampleRequest, *, grams: bool = False
) -> Generator[InputStep, None, None]:
    """Draw images, and gather the second moments of what goes into some layers.

    Parameters
    ----------
    model
        The transformer.
    names
        Of its Linears.
    request
        What to draw; :func:`moments_request` is what the commands draw.
    grams
        Gather E[x x^T] (in, in) instead of E[x_j^2] (in,).
    """
    gather = input_grams if grams else input_moments
    with gather(model, names) as means:
        for step in sample_steps(model, make_scheduler("ddim"), request):
            if step.index < step.total - 1:
                yield InputStep(index=step.index, total=step.total)
    found = {name: mean.mean.float().cpu() for name, mean in means.items()}
    yield InputStep(index=request.steps - 1, total=request.steps, inputs=found)


@torch.no_grad()
def inputs_of(
    model: Any, names: Iterable[str], request: SampleRequest, *, grams: bool = False
) -> dict[str, Tensor]:
    """Return what :func:`input_steps` gathers, at once."""
    *_, last = input_steps(model, names, request, grams=grams)
    assert last.inputs is not None
    return last.inputs
