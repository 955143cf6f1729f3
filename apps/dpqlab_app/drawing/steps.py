"""One version's pictures, a step at a time; in smaller batches where memory is short."""

from __future__ import annotations

import copy
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from dpqlab.diffusion import SampleRequest, SampleStep, sample_steps, to_uint8
from dpqlab_app.drawing.frames import MemoryShortError
from dpqlab_app.drawing.loaded import Loaded
from dpqlab_app.drawing.settings import DrawSettings


@dataclass(frozen=True, kw_only=True, eq=False)
class Step:
    """A version after a step: ``images`` uint8 (N, H, W, C), drawn in ``batches`` of them.

    ``seconds`` is what the step took, until its images had arrived.
    """

    index: int
    total: int
    images: np.ndarray
    seconds: float
    batches: int


def version_steps(loaded: Loaded, settings: DrawSettings) -> Generator[Step, None, None]:
    """Draw with one version.

    When memory runs out, the batch is halved and everything is drawn again up to where it was:
    an image does not depend on the batch it is in.

    Parameters
    ----------
    loaded
        The version.
    settings
        What to draw.

    Raises
    ------
    MemoryShortError
        If not even one image at a time fits.
    """
    size, reached = len(settings.labels), 0
    while True:
        batches = -(-len(settings.labels) // size)
        run = _in_batches(loaded, settings, size)
        try:
            while True:
                started = time.perf_counter()
                step = _next(run)
                if step is None:
                    return
                if step.index < reached:
                    continue  # seen before memory ran out
                reached = step.index + 1
                images = _pixels(step)
                seconds = time.perf_counter() - started
                yield Step(
                    index=step.index,
                    total=step.total,
                    images=images,
                    seconds=seconds,
                    batches=batches,
                )
        except _OutOfMemoryError:
            if size == 1:
                raise MemoryShortError(
                    "There is not enough memory here for a single image: close other programs "
                    "that use it, or choose fewer versions."
                ) from None
        run.close()
        loaded.forget_request()
        if loaded.runtime.device.type == "cuda":
            torch.cuda.empty_cache()
        size = -(-size // 2)


def ran_out_of_memory(error: BaseException) -> bool:
    """Say whether an error means that memory is used up, on a GPU or on the CPU."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    # the CPU's allocator has no class of its own
    return isinstance(error, RuntimeError) and "allocate memory" in str(error)


class _OutOfMemoryError(Exception):
    """So that what a consumer throws into the generator is not taken for it."""


def _next(run: Iterator[SampleStep]) -> SampleStep | None:
    try:
        return next(run, None)
    except (RuntimeError, MemoryError) as error:
        if ran_out_of_memory(error):
            # nothing of it is kept: its traceback holds the tensors that are in the way
            raise _OutOfMemoryError from None
        raise


def _in_batches(
    loaded: Loaded, settings: DrawSettings, size: int
) -> Generator[SampleStep, None, None]:
    """Draw all images, ``size`` at a time, all batches step by step."""
    runs = [
        sample_steps(
            loaded.runtime,
            copy.deepcopy(loaded.scheduler),
            SampleRequest(
                labels=settings.labels[first : first + size],
                first_index=first,
                seed=settings.seed,
                steps=settings.steps,
                guidance=settings.guidance,
            ),
        )
        for first in range(0, len(settings.labels), size)
    ]
    for steps in zip(*runs, strict=True):
        if len(steps) == 1:
            yield steps[0]
            continue
        yield SampleStep(
            index=steps[0].index,
            total=steps[0].total,
            timestep=steps[0].timestep,
            latents=torch.cat([step.latents for step in steps]),
            predicted_clean=torch.cat([step.predicted_clean for step in steps]),
        )


def _pixels(step: SampleStep) -> np.ndarray:
    last = step.index + 1 == step.total
    images = to_uint8(step.latents if last else step.predicted_clean)
    return np.ascontiguousarray(images.permute(0, 2, 3, 1).numpy())
