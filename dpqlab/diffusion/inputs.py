"""What flows into the layers of a model while it draws images: no data is needed for it.

Sums of column moments take 8 * in bytes a layer, nothing to speak of; grams take 8 * in^2. The same
images are drawn several times where the grams of all layers would be more than :data:`AT_ONCE`
bytes, each time for some of the layers. With a lent model (:mod:`dpqlab.checkpoint.lending`) memory
is thus bounded, whatever the number of blocks, by that model's largest Linear, the activations of a
pass, and three times the larger of :data:`AT_ONCE` and one gram.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dpqlab.diffusion.sampling import SampleRequest, sample_steps
from dpqlab.diffusion.schedules import scheduler_for
from dpqlab.nn.activations import input_grams, input_moments

IMAGES = 10
STEPS = 10
GUIDANCE = 1.5
SEED = 30_000
"""Added to the seed: no evaluation draws these images."""
AT_ONCE = 2**29
"""Most bytes of sums that are gathered together, unless those of one layer are more."""


@dataclass(frozen=True, kw_only=True, eq=False)
class InputStep:
    """One sampling step is watched.

    ``inputs`` comes with the last step of the images that a layer was watched on: moments by layer
    name, float32 on the CPU. Every layer comes once; the last step, ``index == total - 1``, brings
    some or all of them.
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
    parts = list(_parts(model, list(names))) if grams else [list(names)]
    total = request.steps * len(parts)
    for i, part in enumerate(parts):
        with gather(model, part) as means:
            for step in sample_steps(model, scheduler_for(model), request):
                if step.index < step.total - 1:
                    yield InputStep(index=i * request.steps + step.index, total=total)
        found = {name: means.pop(name).mean.float().cpu() for name in part}
        yield InputStep(index=(i + 1) * request.steps - 1, total=total, inputs=found)
        del found


def _parts(model: nn.Module, names: list[str]) -> Iterator[list[str]]:
    """Split layers so that the grams of a part fit into :data:`AT_ONCE`; at least one each."""
    part: list[str] = []
    size = 0
    for name in names:
        layer: Any = model.get_submodule(name)
        gram = 8 * getattr(layer, "in_features", 0) ** 2
        if part and size + gram > AT_ONCE:
            yield part
            part, size = [], 0
        part.append(name)
        size += gram
    yield part


@torch.no_grad()
def inputs_of(
    model: Any, names: Iterable[str], request: SampleRequest, *, grams: bool = False
) -> dict[str, Tensor]:
    """Return what :func:`input_steps` gathers, at once."""
    found: dict[str, Tensor] = {}
    for step in input_steps(model, names, request, grams=grams):
        found |= step.inputs or {}
    return found
