"""What flows into the layers of a model while it draws images, with a progress meter."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from dpqlab.commands.terminal import Terminal
from dpqlab.diffusion.inputs import STEPS, input_steps, moments_request


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
    request = moments_request(model.config.num_embeds_ada_norm, seed)
    inputs: dict[str, Tensor] = {}
    with terminal.progress("Measuring the layers' inputs", STEPS) as meter:
        for step in input_steps(model, names, request, grams=grams):
            inputs = step.inputs or {}
            meter.advance()
    return inputs
