"""Calibration: train a student's codebooks to do what its teacher does, codes fixed.

The M-step of the method (arXiv 2411.12306) with distillation in place of the diffusion loss: the
target is the teacher's own prediction, so the gradient carries no noise of its own.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from dpqlab.calibration.config import CalibrationConfig
from dpqlab.calibration.data import Batch, CalibrationData, noisy_batch
from dpqlab.calibration.distiller import Distiller, store_masters_
from dpqlab.calibration.objectives import DistillationLoss
from dpqlab.calibration.rates import warmup_cosine
from dpqlab.errors import ConfigError
from dpqlab.nn.linear import CompressedLinear


@dataclass(frozen=True, kw_only=True)
class CalibrationRecord:
    """State after ``step`` steps.

    ``total``, ``output`` and ``features`` are the held-out losses (see
    :class:`~dpqlab.calibration.objectives.DistillationLoss`), ``best`` says whether ``total`` is
    the lowest so far, ``seconds`` have passed and ``remaining`` are to come.
    """

    step: int
    total: float
    output: float
    features: float
    best: bool
    seconds: float
    remaining: float


def calibrate(
    student: nn.Module, teacher: nn.Module, data: CalibrationData, config: CalibrationConfig
) -> Generator[CalibrationRecord, None, None]:
    """Calibrate ``student`` in place, yielding a record each ``config.every`` steps.

    The state that did best on the held-out batch so far is in the student whenever a record is
    yielded, so the loop can be left at any time; the rounding to stored precision is included in
    what is judged.

    Parameters
    ----------
    student
        A model with :class:`CompressedLinear` layers, on the device of ``data``. It is put into
        evaluation mode.
    teacher
        The full-precision model, same device; likewise.
    data
        Images to add noise to; the last ``config.holdout`` serve for judging alone.

    Yields
    ------
    CalibrationRecord
        First the state before calibration (step 0).

    Raises
    ------
    ConfigError
        If the student has no compressed layers, too few images are given, or the training diverges;
        the student then is in the best state so far.
    """
    if len(data.images) <= config.holdout:
        raise ConfigError(
            f"{len(data.images)} images: expected more than the {config.holdout} kept apart"
        )
    dit: Any = teacher
    generator = torch.Generator(data.images.device).manual_seed(config.seed)

    def draw(part: slice, size: int) -> Batch:
        return noisy_batch(
            data.images[part],
            data.labels[part],
            data.alphas,
            size=size,
            null_class=dit.config.num_embeds_ada_norm,
            label_drop=config.label_drop,
            generator=generator,
        )[0]

    # in training mode every block would drop labels on its own
    student.eval()
    teacher.eval()
    held_out = draw(slice(-config.holdout, None), config.holdout)
    training = slice(0, -config.holdout)
    packed = [m for m in student.modules() if isinstance(m, CompressedLinear)]
    for module in packed:
        module.cache_codes_()
    try:
        distiller = Distiller(student, teacher, config, draw(training, config.batch))
        losses = distiller.judge(held_out)
        lowest = losses.total.item()
        started = time.perf_counter()
        yield _record(losses, config, step=0, best=True, seconds=0.0)
        for step in range(1, config.steps + 1):
            done = (step - 1) / config.steps
            rate = warmup_cosine(config.learning_rate, step - 1, warmup=config.warmup, done=done)
            distiller.step(draw(training, config.batch), rate)
            if step % config.every and step != config.steps:
                continue
            losses = distiller.judge(held_out)
            total = losses.total.item()
            if not math.isfinite(total):
                raise ConfigError(
                    f"calibration diverged at step {step}: the student keeps the best state so "
                    f"far; try a learning rate below {config.learning_rate}"
                )
            best = total < lowest
            if best:
                store_masters_(student, distiller.masters)
                lowest = total
            seconds = time.perf_counter() - started
            yield _record(losses, config, step=step, best=best, seconds=seconds)
    finally:
        for module in packed:
            module.drop_codes_()


def _record(
    losses: DistillationLoss, config: CalibrationConfig, *, step: int, best: bool, seconds: float
) -> CalibrationRecord:
    return CalibrationRecord(
        step=step,
        total=losses.total.item(),
        output=losses.output.item(),
        features=losses.features.item(),
        best=best,
        seconds=seconds,
        remaining=seconds / max(step, 1) * (config.steps - step),
    )
