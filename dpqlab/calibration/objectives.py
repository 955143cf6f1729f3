"""What a student is asked to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dpqlab.calibration.config import Objective
from dpqlab.errors import ConfigError

JUDGED_FEATURES = 0.1
"""Weight of the block features in the held-out loss, whatever a run minimises."""


@dataclass(frozen=True, kw_only=True)
class DistillationLoss:
    """Distance from a teacher on one batch: ``total = output + feature_weight * features``.

    ``output`` is the mean squared error of the prediction; ``features`` the mean over blocks
    of ``blocks`` (B,), the relative squared error of each block's output. Scalars otherwise.
    """

    total: Tensor
    output: Tensor
    features: Tensor
    blocks: Tensor


def distillation(
    student: tuple[Tensor, Sequence[Tensor]],
    teacher: tuple[Tensor, Sequence[Tensor]],
    *,
    feature_weight: float = JUDGED_FEATURES,
) -> DistillationLoss:
    """Compare a student's prediction and block outputs with its teacher's.

    Parameters
    ----------
    student, teacher
        Predictions (N, C, H, W), and the outputs of the blocks, each (N, tokens, width).
    feature_weight
        Weight of the block features beside the output.

    Raises
    ------
    ConfigError
        If the two have different numbers of blocks.
    """
    return distance_of(*distance_terms(student, teacher), feature_weight=feature_weight)


def distance_terms(
    student: tuple[Tensor, Sequence[Tensor]], teacher: tuple[Tensor, Sequence[Tensor]]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the means over images that :func:`distance_of` needs; of pieces, they may be averaged.

    The mean squared errors of the prediction and of each block's output (B,), and the teacher's
    :func:`block_power`.
    """
    output = (student[0].float() - teacher[0].float()).square().mean()
    return output, block_misses(student[1], teacher[1]), block_power(teacher[1])


def distance_of(
    output: Tensor, misses: Tensor, power: Tensor, *, feature_weight: float = JUDGED_FEATURES
) -> DistillationLoss:
    """Return the distance that has the terms of :func:`distance_terms`."""
    blocks = misses / power
    features = blocks.mean()
    total = output + feature_weight * features
    return DistillationLoss(total=total, output=output, features=features, blocks=blocks)


def block_errors(
    student: Sequence[Tensor], teacher: Sequence[Tensor], power: Tensor | None = None
) -> Tensor:
    """Return the relative squared error of each block's output, (B,).

    ``power`` (B,) is what they are relative to, if not to the teacher's own :func:`block_power`.
    """
    misses = block_misses(student, teacher)
    return misses / (block_power(teacher) if power is None else power)


def block_misses(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Return the mean squared error of each block's output, (B,)."""
    if len(student) != len(teacher) or not student:
        raise ConfigError(
            f"student has {len(student)} blocks, teacher {len(teacher)}: expected as many"
        )
    pairs = zip(student, teacher, strict=True)
    missed = [(mine.float() - theirs.float()).square().mean() for mine, theirs in pairs]
    return torch.stack(missed)


def block_power(blocks: Sequence[Tensor]) -> Tensor:
    """Return the mean square of each block's output, (B,)."""
    return torch.stack([block.float().square().mean() for block in blocks])


def training_loss(
    student: tuple[Tensor, Sequence[Tensor]],
    teacher: tuple[Tensor, Sequence[Tensor]] | None,
    objective: Objective,
    *,
    target: Tensor | None,
    weights: Tensor,
    power: Tensor | None = None,
) -> Tensor:
    """Return what a step minimises, a scalar.

    Parameters
    ----------
    student, teacher
        As in :func:`distillation`; the teacher may be None for an objective that does not distil.
        With ``objective.guidance`` the second half of the batch is the first without labels.
    target
        What the model should predict (N, C, H, W), for the DDPM loss.
    weights
        Of each image in the output's error, (N,).
    power
        What the errors of the blocks are relative to, (B,), if not to this teacher's outputs: those
        of a batch of which this is a part.

    Raises
    ------
    ConfigError
        If the DDPM loss is asked for and the target is not known.
    """
    predicted = student[0].float()
    total = predicted.new_zeros(())
    if objective.distils:
        assert teacher is not None
        error = predicted - teacher[0].float()
        if objective.guidance is not None:
            with_class, without = error.chunk(2)
            error = without + objective.guidance * (with_class - without)
            weights = weights.chunk(2)[0]
        output = (weights * error.square().flatten(1).mean(1)).mean()
        total = total + objective.output * output
        if objective.features:
            errors = block_errors(student[1], teacher[1], power)
            total = total + objective.features * errors.mean()
    if objective.ddpm:
        if target is None:
            raise ConfigError(
                "the DDPM loss needs real images, whose noise is known: "
                "calibrate by distillation, or give images"
            )
        # channels beyond the image's are a learned variance, which this loss says nothing about
        ddpm = (predicted[:, : target.shape[1]] - target).square().mean()
        total = total + objective.ddpm * ddpm
    return total


def timestep_weights(alphas: Tensor, power: float) -> Tensor:
    """Return the weight of each timestep, (T,) with mean 1: see :class:`Objective`."""
    sigma = ((1 - alphas) / alphas).sqrt().clamp(0.05, 10.0)
    weights = sigma**power
    return weights / weights.mean()
