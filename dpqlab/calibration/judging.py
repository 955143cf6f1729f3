"""How far a student is from its teacher on held-out images."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn

from dpqlab.calibration.batch import Batch
from dpqlab.calibration.forward import mixed_precision, predict
from dpqlab.calibration.objectives import DistillationLoss, distance_of, distance_terms
from dpqlab.core.memory import with_less

AT_ONCE = 256
"""Images that are judged as one; a larger batch gets the mean of such parts."""


@torch.no_grad()
def judge(
    student: nn.Module, teacher: nn.Module, batch: Batch, masters: Mapping[str, Tensor]
) -> DistillationLoss:
    """Measure the distance of a student with ``masters`` as its parameters from its teacher.

    Where memory runs out, fewer images pass through the models at a time.
    """

    def distance(part: Batch, at_once: int) -> DistillationLoss:
        found: list[list[Tensor]] = []
        for piece in part.pieces(at_once):
            with mixed_precision(piece.noisy.device):
                mine, wanted = predict(student, piece, masters), predict(teacher, piece, {})
            share = len(piece) / len(part)
            found.append([term * share for term in distance_terms(mine, wanted)])
        return distance_of(*(torch.stack(terms).sum(0) for terms in zip(*found, strict=True)))

    parts = batch.pieces(AT_ONCE)
    losses = [with_less(partial(distance, part), len(part), tries=2) for part in parts]
    return _average(losses, [len(part) / len(batch) for part in parts])


def _average(losses: list[DistillationLoss], shares: list[float]) -> DistillationLoss:
    def mean(name: str) -> Tensor:
        parts = [getattr(loss, name) * share for loss, share in zip(losses, shares, strict=True)]
        return torch.stack(parts).sum(0)

    return DistillationLoss(
        total=mean("total"),
        output=mean("output"),
        features=mean("features"),
        blocks=mean("blocks"),
    )
