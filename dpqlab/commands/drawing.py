"""Sampling as the commands do it: in batches, on a chosen device, with a meter running."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from dpqlab.commands.terminal import Meter
from dpqlab.core.memory import is_out_of_memory
from dpqlab.diffusion.sampling import SampleRequest, sample_steps, to_uint8
from dpqlab.nn.linear import hold_decoded

BATCH = 50  # images in flight; more gains nothing on a CPU


def add_device_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--device``."""
    parser.add_argument(
        "--device",
        default="auto",
        metavar="NAME",
        help="cpu, cuda, cuda:1, ... or auto: a GPU if there is one (default: auto)",
    )


def batches(count: int, batch: int = BATCH) -> int:
    """Return how many batches ``count`` images take."""
    return -(-count // batch)


def draw(
    pipeline: Any,
    request: SampleRequest,
    *,
    meter: Meter | None = None,
    unit: float = 1,
    note: str = "",
) -> Tensor:
    """Sample a request, ``BATCH`` images at a time; where memory runs out, half as many.

    Parameters
    ----------
    pipeline
        Transformer and scheduler.
    request
        What to draw. An image does not depend on the batch it is in.
    meter, unit, note
        Advanced by ``unit`` after every step of every batch.

    Returns
    -------
    uint8 images (N, C, H, W).
    """
    images: list[Tensor] = []
    start, batch = 0, BATCH
    with hold_decoded(pipeline.transformer):
        while start < len(request.labels):
            part = replace(
                request,
                labels=request.labels[start : start + batch],
                first_index=request.first_index + start,
            )
            try:
                latents = _last_latents(pipeline, part, meter, unit, note)
            except (MemoryError, RuntimeError) as error:
                if len(part.labels) == 1 or not is_out_of_memory(error):
                    raise
                batch = len(part.labels) // 2
                continue
            images.append(to_uint8(latents))
            start += len(part.labels)
    return torch.cat(images)


def _last_latents(
    pipeline: Any, part: SampleRequest, meter: Meter | None, unit: float, note: str
) -> Tensor:
    """Draw one batch, and return what its last step left."""
    latents = None
    for step in sample_steps(pipeline.transformer, pipeline.scheduler, part):
        latents = step.latents
        if meter is not None:
            meter.advance(unit, note)
    assert latents is not None
    return latents
