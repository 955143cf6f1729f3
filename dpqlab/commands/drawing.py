"""Sampling as the commands do it: in batches, on a chosen device, with a meter running."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from dpqlab.commands.terminal import Meter
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
    """Sample a request, ``BATCH`` images at a time.

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
    with hold_decoded(pipeline.transformer):
        for start in range(0, len(request.labels), BATCH):
            part = replace(
                request,
                labels=request.labels[start : start + BATCH],
                first_index=request.first_index + start,
            )
            latents = None
            for step in sample_steps(pipeline.transformer, pipeline.scheduler, part):
                latents = step.latents
                if meter is not None:
                    meter.advance(unit, note)
            assert latents is not None
            images.append(to_uint8(latents))
    return torch.cat(images)
