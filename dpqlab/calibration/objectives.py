"""What a student is asked to match."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from dpqlab.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class DistillationLoss:
    """Losses of one batch, scalars: ``total = output + weight * features``.

    ``output`` is the mean squared error of the predicted noise; ``features`` the mean over blocks
    of the relative squared error of the block's output.
    """

    total: Tensor
    output: Tensor
    features: Tensor


def distillation(
    student: tuple[Tensor, Sequence[Tensor]],
    teacher: tuple[Tensor, Sequence[Tensor]],
    *,
    feature_weight: float,
) -> DistillationLoss:
    """Compare a student's prediction and block outputs with its teacher's.

    Parameters
    ----------
    student, teacher
        Predicted noise (N, C, H, W), and the outputs of the blocks, each (N, tokens, width).
    feature_weight
        Weight of the block features beside the output.

    Raises
    ------
    ConfigError
        If the two have different numbers of blocks.
    """
    predicted, blocks = student
    wanted, wanted_blocks = teacher
    if len(blocks) != len(wanted_blocks) or not blocks:
        raise ConfigError(
            f"student has {len(blocks)} blocks, teacher {len(wanted_blocks)}: expected as many"
        )
    output = (predicted.float() - wanted.float()).square().mean()
    features = sum(
        (
            (mine.float() - theirs.float()).square().mean() / theirs.float().square().mean()
            for mine, theirs in zip(blocks, wanted_blocks, strict=True)
        ),
        start=output.new_zeros(()),
    ) / len(blocks)
    return DistillationLoss(
        total=output + feature_weight * features, output=output, features=features
    )
