"""Tracing: where a student leaves its teacher, block by block, along the sampling trajectory.

Both models draw the same images from the same noise. At each step three questions are asked of
each block, and each compares the block's output with the one that the teacher's block gave on the
teacher's own trajectory:

local
    The student's block gets the very input of the teacher's block (hidden states, timestep, class).
    What is wrong is this block's own doing.
pass
    The student gets the teacher's noisy image, and carries its own activations from block to block.
    Errors add up over the blocks of one forward pass.
accumulated
    The student draws its own image: its own activations, in the noisy image that its own earlier
    steps left. Errors add up over blocks and over steps. This is what sampling with it means.

The difference between the first two is what blocks hand on to each other; between the last two,
what steps hand on.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from dpqlab.core.memory import with_less
from dpqlab.diffusion.sampling import SampleRequest, SampleStep, to_uint8
from dpqlab.errors import ConfigError, ShapeError
from dpqlab.nn.linear import hold_decoded
from dpqlab.tracing.blocks import Call, blocks_of, calls_of, watched
from dpqlab.tracing.compare import Comparison, compare
from dpqlab.tracing.config import Pair, TraceConfig

Measure = Literal["local", "pass", "accumulated"]
MEASURES: tuple[Measure, ...] = ("local", "pass", "accumulated")
MODEL = ""
"""The name under which the whole model is watched, beside its blocks."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TraceStep:
    """One sampling step of one batch of images.

    Attributes
    ----------
    first, count
        The images: ``count`` of them, from the request's image ``first`` on.
    index, total, timestep
        The step, how many there are, and the timestep that the models were asked about.
    blocks, branches
        Names.
    energy
        Squared error of the blocks' outputs, float64 (3 measures, branches, blocks, images).
    norm
        Squared norm of the teacher's, float64 (branches, blocks, images).
    counts
        Tokens by relative squared error, int64 (3, branches, blocks, bins): see
        :data:`dpqlab.tracing.EDGES`.
    output_energy, output_norm
        The same of what the model predicts, float64 (2, branches, images) for "pass" and
        "accumulated", and (branches, images).
    latent_energy, latent_norm
        Squared error and squared norm of the noisy images after the step, float64 (images,).
    image_error
        Mean squared error of the images that the models expect at the end, pixels from 0 to 1,
        float64 (images,).
    pictures
        uint8 (2, images, C, H, W): the first images that teacher and student expect at the end;
        None where none are kept.
    seconds, remaining
        Since the start, and to go if it goes on like this.
    """

    first: int
    count: int
    index: int
    total: int
    timestep: int
    blocks: tuple[str, ...]
    branches: tuple[str, ...]
    energy: np.ndarray
    norm: np.ndarray
    counts: np.ndarray
    output_energy: np.ndarray
    output_norm: np.ndarray
    latent_energy: np.ndarray
    latent_norm: np.ndarray
    image_error: np.ndarray
    pictures: np.ndarray | None
    seconds: float
    remaining: float


def trace_steps(
    pair: Pair, request: SampleRequest, config: TraceConfig | None = None, start: int = 0
) -> Generator[TraceStep, None, None]:
    """Trace a student beside its teacher: all steps of a batch of images, then the next batch.

    It takes four forward passes a step: the teacher's, and one of the student for each measure. At
    any time it holds the activations of one pass of one batch; where memory runs out as a batch
    begins, that one and those after it are of half as many images, and so on. Between two records
    both models are free: nothing is hooked to them.

    Parameters
    ----------
    pair
        The models and their sampler.
    request
        What both draw.
    config
        Batch, blocks, pictures.
    start
        Image to begin with, where an earlier run has traced those before it.

    Yields
    ------
    TraceStep
        One a step and batch. Closing the generator stops the work; going on later is possible at
        any time.

    Raises
    ------
    ConfigError
        If the models' blocks do not match, or a block does not run exactly once a step.
    """
    config = config or TraceConfig()
    teacher = blocks_of(pair.teacher, config.blocks)
    student = blocks_of(pair.student, config.blocks)
    if teacher.keys() != student.keys():
        odd = sorted(teacher.keys() ^ student.keys())
        raise ConfigError(
            f"teacher has {len(teacher)} blocks, student {len(student)} ({odd[0]} is in one "
            "alone): expected the same blocks in both"
        )
    return _steps(pair, request, config, teacher, student, start)


@torch.no_grad()
def _steps(
    pair: Pair,
    request: SampleRequest,
    config: TraceConfig,
    teacher: dict[str, nn.Module],
    student: dict[str, nn.Module],
    start: int,
) -> Generator[TraceStep, None, None]:
    branches = config.branch_names(request.guidance)
    images = len(request.labels)
    started, done = time.monotonic(), 0
    first, size = start, config.batch

    def opened(size: int) -> tuple[SampleRequest, _Measured, Iterator[_Measured]]:
        """Take the first step of a batch: no later one needs more memory."""
        part = replace(
            request,
            labels=request.labels[first : first + size],
            first_index=request.first_index + first,
        )
        runs = pair.draw(pair.teacher, part), pair.draw(pair.student, part)
        steps = _batch(pair, runs, teacher, student, len(branches))
        return part, next(steps), steps

    with hold_decoded(pair.teacher), hold_decoded(pair.student):
        while first < images:
            part, opening, later = with_less(opened, size, tries=2)
            size = len(part.labels)
            for measured in itertools.chain([opening], later):
                theirs, mine = measured.states
                done += len(part.labels)
                seconds = time.monotonic() - started
                yield TraceStep(
                    first=first,
                    count=len(part.labels),
                    index=theirs.index,
                    total=theirs.total,
                    timestep=theirs.timestep,
                    blocks=tuple(teacher),
                    branches=branches,
                    **measured.arrays(len(part.labels)),
                    **_states(pair, theirs, mine),
                    pictures=_pictures(pair, config, measured.states, first),
                    seconds=seconds,
                    remaining=seconds * (theirs.total * (images - start) / done - 1),
                )
            first += size


@dataclass(frozen=True, kw_only=True, eq=False)
class _Measured:
    """What one step of one batch gave: comparisons by measure, of blocks and of the model."""

    states: tuple[SampleStep, SampleStep]
    found: Mapping[Measure, Mapping[str, Comparison]]

    def arrays(self, images: int) -> dict[str, np.ndarray]:
        """Return the arrays of a :class:`TraceStep`."""
        names = [name for name in self.found["local"] if name != MODEL]
        of_blocks = [[self.found[m][name] for name in names] for m in MEASURES]
        of_model = [self.found[m][MODEL] for m in MEASURES[1:]]
        if of_model[0].energy.shape[1] != images:
            raise ShapeError(
                f"the model ran {of_model[0].energy.shape} (branches, images): expected {images} "
                "images; name the branches that the sampler stacks"
            )
        return {
            "energy": np.stack([np.stack([c.energy for c in row], 1) for row in of_blocks]),
            "norm": np.stack([c.norm for c in of_blocks[0]], 1),
            "counts": np.stack([np.stack([c.counts for c in row], 1) for row in of_blocks]),
            "output_energy": np.stack([c.energy for c in of_model]),
            "output_norm": of_model[0].norm,
        }


def _batch(
    pair: Pair,
    runs: tuple[Iterator[SampleStep], Iterator[SampleStep]],
    teacher: dict[str, nn.Module],
    student: dict[str, nn.Module],
    branches: int,
) -> Iterator[_Measured]:
    """Take both models through all steps of one batch."""
    while True:
        with calls_of({MODEL: pair.teacher, **teacher}) as calls:
            theirs = next(runs[0], None)
        if theirs is None:
            return
        _check_calls(calls, {MODEL: pair.teacher, **teacher})
        channels = theirs.latents.shape[1]
        reference = _Reference(calls, branches, channels)
        with reference.collect(student) as local:
            for name, block in student.items():
                block(*calls[name].args, **calls[name].kwargs)
        watched_student = {MODEL: pair.student, **student}
        with reference.collect(watched_student) as carried:
            pair.student(*calls[MODEL].args, **calls[MODEL].kwargs)
        with reference.collect(watched_student) as accumulated:
            mine = next(runs[1], None)
        if mine is None or mine.timestep != theirs.timestep:
            raise ConfigError("the sampler takes other steps with the student than the teacher")
        found: dict[Measure, dict[str, Comparison]] = {
            "local": local,
            "pass": carried,
            "accumulated": accumulated,
        }
        for measure, names in zip(
            MEASURES, (student, watched_student, watched_student), strict=True
        ):
            _check_calls(found[measure], names)
        yield _Measured(states=(theirs, mine), found=found)


class _Reference:
    """The teacher's outputs at a step, which the student's are compared with as they come."""

    def __init__(self, calls: Mapping[str, Call], branches: int, channels: int) -> None:
        self.calls, self.branches, self.channels = calls, branches, channels

    @contextmanager
    def collect(self, modules: Mapping[str, nn.Module]) -> Iterator[dict[str, Comparison]]:
        """Compare each call of the modules; keep sums, not tensors."""
        found: dict[str, Comparison] = {}

        def see(name: str, call: Call) -> None:
            if name in found:
                raise ConfigError(f"{name or 'the student'} ran twice in one step: expected once")
            mine, theirs = call.tensors, self.calls[name].tensors
            if name == MODEL:
                # channels beyond the image's are a learned variance; no last dimension is a width
                mine, theirs = self._prediction(mine), self._prediction(theirs)
            found[name] = compare(mine, theirs, self.branches)
            if not np.isfinite(found[name].energy).all():
                where = f"block {name}" if name else "the model"
                raise ConfigError(f"{where} of the student gives numbers that are not finite")

        with watched(modules, see):
            yield found

    def _prediction(self, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (tensors[0][:, : self.channels].flatten(1),)


def _check_calls(calls: Mapping[str, Any], modules: Mapping[str, nn.Module]) -> None:
    missing = [name for name in modules if name not in calls]
    if missing:
        raise ConfigError(
            f"{missing[0] or 'the model'} did not run in a step: expected every block once; name "
            "those that do in blocks"
        )


def _images(pair: Pair, clean: Tensor) -> Tensor:
    return clean if pair.decode is None else pair.decode(clean)


def _states(pair: Pair, theirs: SampleStep, mine: SampleStep) -> dict[str, np.ndarray]:
    """Compare the noisy images after a step, and the images expected at the end."""
    ours, reference = mine.latents.double().flatten(1), theirs.latents.double().flatten(1)
    seen, wanted = (_images(pair, state.predicted_clean).double() for state in (mine, theirs))
    # pixels from -1 to 1 span twice as much as those from 0 to 1
    error = ((seen - wanted) / 2).square().flatten(1).mean(1)
    return {
        "latent_energy": (ours - reference).square().sum(1).cpu().numpy(),
        "latent_norm": reference.square().sum(1).cpu().numpy(),
        "image_error": error.cpu().numpy(),
    }


def _pictures(
    pair: Pair, config: TraceConfig, states: tuple[SampleStep, SampleStep], first: int
) -> np.ndarray | None:
    """Return what teacher and student expect at the end, of images that are kept at this step."""
    left = config.shown - first
    if left <= 0 or states[0].index not in config.picture_steps(states[0].total):
        return None
    images = [_images(pair, state.predicted_clean[:left]) for state in states]
    if images[0].ndim != 4 or images[0].shape[1] not in (1, 3):
        raise ShapeError(
            f"predicted images have shape {tuple(images[0].shape)}: expected (N, 1 or 3, H, W); "
            "give the pair a decode, or keep no pictures"
        )
    return np.stack([to_uint8(image).numpy() for image in images])
