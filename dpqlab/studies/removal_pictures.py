"""What a model draws when its pools lose the codewords that a measure calls least important."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from dpqlab.core import Measure, decode
from dpqlab.diffusion.sampling import SampleRequest, sample_steps, to_uint8
from dpqlab.diffusion.schedules import scheduler_for
from dpqlab.errors import ConfigError
from dpqlab.studies.codewords import CodewordStudy
from dpqlab.studies.removals import Manner, remove_steps


@dataclass(frozen=True, kw_only=True)
class RemovalTask:
    """What to remove, and what to draw then.

    Attributes
    ----------
    measure, manner
        What chooses the codewords, and how.
    share
        Of the codewords of every pool; 0 keeps all. Every codebook keeps one whatever the share.
    request
        The pictures.
    """

    measure: Measure
    manner: Manner
    share: float
    request: SampleRequest

    def __post_init__(self) -> None:
        """Refuse an impossible share."""
        if not 0.0 <= self.share <= 1.0:
            raise ConfigError(f"share is {self.share}: expected 0 to 1")


@dataclass(frozen=True, kw_only=True, eq=False)
class RemovalPicture:
    """How far it is, and what there is to see.

    Attributes
    ----------
    stage
        ``"remove"`` or ``"draw"``.
    done
        Share of the stage, 0 to 1.
    left
        Estimated seconds until the stage ends.
    removed
        Codewords that are gone, over all pools.
    images
        uint8 (N, C, H, W): what the model expects to draw, at last what it drew; None while
        removing.
    """

    stage: str
    done: float
    left: float
    removed: int
    images: np.ndarray | None


@torch.no_grad()
def student_of(teacher: nn.Module, studies: Sequence[CodewordStudy]) -> nn.Module:
    """Copy a model, and give the layers of some pools their decoded weights."""
    student = copy.deepcopy(teacher)
    for study in studies:
        for name, member in zip(study.names, study.members, strict=True):
            layer: Any = student.get_submodule(name)
            layer.weight.copy_(decode(member.encoded))
    return student


def removal_pictures(
    teacher: nn.Module, studies: Sequence[CodewordStudy], task: RemovalTask
) -> Iterator[RemovalPicture]:
    """Remove codewords of some pools, and draw; what is in no pool stays at full precision.

    Parameters
    ----------
    teacher
        The full-precision model; it does not change.
    studies
        The pools, with all codewords.
    task
        What to do.
    """
    removed = 0
    left: list[CodewordStudy] = []
    started = time.monotonic()
    for i, study in enumerate(studies):
        total = len(study.scope)
        count = min(round(task.share * total), total - len(study.pool.sizes))
        after = study
        for after in remove_steps(study, task.measure, task.manner, count) if count else ():
            part = (total - len(after.scope)) / count
            done = (i + part) / len(studies)
            yield RemovalPicture(
                stage="remove",
                done=done,
                left=(time.monotonic() - started) * (1 - done) / done,
                removed=removed + total - len(after.scope),
                images=None,
            )
        removed += total - len(after.scope)
        left.append(after)
    student = student_of(teacher, left)
    started = time.monotonic()
    for step in sample_steps(student, scheduler_for(teacher), task.request):
        done = (step.index + 1) / step.total
        seen = step.latents if done == 1 else step.predicted_clean
        yield RemovalPicture(
            stage="draw",
            done=done,
            left=(time.monotonic() - started) * (1 - done) / done,
            removed=removed,
            images=to_uint8(seen).numpy(),
        )


def picture_difference(images: np.ndarray, wanted: np.ndarray) -> float:
    """Return the mean square of the difference of uint8 pictures, white being 1."""
    return float(np.square((images.astype(np.float64) - wanted) / 255).mean())
