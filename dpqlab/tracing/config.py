"""What to trace and how: two models, the way they are sampled, and how much of it to keep."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from dpqlab.diffusion.models import load_pipeline
from dpqlab.diffusion.sampling import SampleRequest, SampleStep, sample_steps
from dpqlab.diffusion.schedules import scheduler_for
from dpqlab.errors import ConfigError

if TYPE_CHECKING:
    from diffusers import SchedulerMixin

Sampler = Callable[[nn.Module, SampleRequest], Iterator[SampleStep]]
"""Draws the images of a request with a model, one record a step.

It must call the model once a step, with the branches of guidance one after the other in one batch,
and must draw equal images for equal models."""

MOST_PICTURES = 64


@dataclass(frozen=True, kw_only=True)
class TraceConfig:
    """How a pair of models is traced.

    Parameters
    ----------
    batch
        Images that are in flight; memory grows with it, results do not depend on it.
    blocks
        Names of the blocks; default: everything in the model's outermost ``nn.ModuleList``.
    branches
        Names of the branches of guidance in the order in which the sampler stacks them; default:
        with and without class, or with class alone where guidance is 1.
    pictures
        Steps whose images are kept, evenly spread, first and last among them; 0 keeps none.
    shown
        Images that are kept at each of these steps: the first ones of the request.
    """

    batch: int = 20
    blocks: tuple[str, ...] | None = None
    branches: tuple[str, ...] | None = None
    pictures: int = 20
    shown: int = 4

    def __post_init__(self) -> None:
        """Refuse what cannot be traced."""
        for name, low, high in (
            ("batch", 1, 1 << 16),
            ("pictures", 0, MOST_PICTURES),
            ("shown", 1, MOST_PICTURES),
        ):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
                raise ConfigError(f"{name} is {value!r}: expected a whole number, {low} to {high}")
        for name in ("blocks", "branches"):
            value = getattr(self, name)
            if value is not None and (not value or len(set(value)) < len(value)):
                raise ConfigError(f"{name} are {value}: expected one name or more, each once")

    def branch_names(self, guidance: float) -> tuple[str, ...]:
        """Return the names of the branches at a guidance scale."""
        if self.branches is not None:
            return self.branches
        return ("with class",) if guidance == 1 else ("with class", "without class")

    def picture_steps(self, total: int) -> tuple[int, ...]:
        """Return the indices of the steps whose images are kept, rising."""
        count = min(self.pictures, total)
        if count < 2:
            return (total - 1,) * count
        return tuple(round(i * (total - 1) / (count - 1)) for i in range(count))


@dataclass(frozen=True, kw_only=True, eq=False)
class Pair:
    """A teacher, its student, and how both are sampled.

    Parameters
    ----------
    teacher, student
        Transformers with the same blocks, on one device, computing in the same dtype.
    teacher_name, student_name
        For the record.
    sampler
        Draws images with either; default: class-conditional DiTs with DDIM.
    sampler_name
        For the record.
    decode
        Turns what the sampler predicts into images in [-1, 1], (N, 1 or 3, H, W); default: it
        predicts such images. A latent diffusion model decodes with its VAE here.
    """

    teacher: nn.Module
    student: nn.Module
    teacher_name: str = "teacher"
    student_name: str = "student"
    sampler: Sampler | None = None
    sampler_name: str = "ddim"
    decode: Callable[[Tensor], Tensor] | None = None

    def __post_init__(self) -> None:
        """Refuse models that cannot be fed each other's tensors."""
        places = [_place(self.teacher), _place(self.student)]
        if places[0] != places[1]:
            raise ConfigError(
                f"the teacher computes in {places[0][1]} on {places[0][0]}, the student in "
                f"{places[1][1]} on {places[1][0]}: expected the same, as each block of the "
                "student is given the teacher's inputs"
            )

    def draw(self, model: nn.Module, request: SampleRequest) -> Iterator[SampleStep]:
        """Sample one of the two."""
        return (self.sampler or dit_sampler(scheduler_for(self.teacher)))(model, request)


def _place(model: nn.Module) -> tuple[torch.device, torch.dtype]:
    parameters = [p for p in model.parameters() if p.is_floating_point()]
    if not parameters:
        raise ConfigError(f"{type(model).__name__} has no parameters: expected a transformer")
    return parameters[0].device, parameters[0].dtype


def dit_sampler(scheduler: SchedulerMixin) -> Sampler:
    """Return the sampler of class-conditional DiTs; each run gets a copy of the scheduler."""

    def draw(model: nn.Module, request: SampleRequest) -> Iterator[SampleStep]:
        return sample_steps(model, copy.deepcopy(scheduler), request)

    return draw


def load_pair(
    teacher: str | Path,
    student: str | Path,
    *,
    scheduler: str = "ddim",
    device: torch.device | str = "cpu",
) -> Pair:
    """Load two bundled models or folders to be traced, in float32.

    Parameters
    ----------
    teacher, student
        Bundled names or folders.
    scheduler
        Of both, as :func:`dpqlab.diffusion.make_scheduler` names it.

    Raises
    ------
    ConfigError
        For an unknown name.
    CheckpointError
        For a damaged folder.
    """
    models = [load_pipeline(name, device=device).transformer for name in (teacher, student)]
    return Pair(
        teacher=models[0],
        student=models[1],
        teacher_name=Path(teacher).name,
        student_name=Path(student).name,
        sampler=dit_sampler(scheduler_for(models[0], scheduler)),
        sampler_name=scheduler,
    )
