"""What flows into the layers of a model while it draws images, with a progress meter."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from dpqlab.checkpoint.dense import DenseFolder
from dpqlab.checkpoint.journal import Journal
from dpqlab.checkpoint.lending import lent_model
from dpqlab.commands.terminal import Terminal
from dpqlab.diffusion.inputs import input_steps, moments_request

PREFIX = "inputs."
"""Of the journal's entries with what flows into a layer; the name of the layer follows."""


def inputs_of(
    model: Any, names: Iterable[str], terminal: Terminal, *, seed: int = 0, grams: bool = False
) -> dict[str, Tensor]:
    """Draw a few images, and return the second moments of what goes into the layers.

    Parameters
    ----------
    model
        The full-precision model; a lent one (:mod:`dpqlab.checkpoint.lending`) will do.
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
    found: dict[str, Tensor] = {}
    for part in _measured(model, names, terminal, seed=seed, grams=grams):
        found |= part
    return found


def journaled_inputs(
    dense: DenseFolder,
    names: Sequence[str],
    journal: Journal,
    terminal: Terminal,
    *,
    seed: int,
    grams: bool = False,
    device: torch.device | str = "cpu",
) -> dict[str, Tensor]:
    """Return the same of a folder that need not fit into memory, by way of a journal.

    The weights are lent by the files, layer by layer; what was measured goes to the journal in
    parts, and comes back mapped from there. What the journal has is not measured again.
    """
    entries = {name: journal.read(PREFIX + name) for name in names}
    missing = [name for name, entry in entries.items() if entry is None]
    if missing:
        model = lent_model(dense, device)
        for part in _measured(model, missing, terminal, seed=seed, grams=grams):
            for name, value in part.items():
                journal.write(PREFIX + name, {"value": value}, {})
            del part
    return {name: journal.expect(PREFIX + name).tensors["value"] for name in names}


def _measured(
    model: Any, names: Iterable[str], terminal: Terminal, *, seed: int, grams: bool
) -> Iterator[dict[str, Tensor]]:
    """Yield what flows into the layers, as many of them at a time as are watched together."""
    request = moments_request(model.config.num_embeds_ada_norm, seed)
    with terminal.progress("Measuring the layers' inputs", 1) as meter:
        for step in input_steps(model, names, request, grams=grams):
            meter.advance(1 / step.total)
            if step.inputs is not None:
                yield step.inputs
