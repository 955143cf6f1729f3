"""The E-step: a student's codes chosen again, so that its layers give what the teacher's give.

Layer by layer, each against the outputs of the same layer of the teacher, on inputs that the
*student* makes: errors of the layers before it are then something it can make up for
(arXiv 2411.12306 asks for output reconstruction; the solver is :mod:`dpqlab.core.assignment`).
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import nn
from torch.utils.weak import WeakTensorKeyDictionary

from dpqlab.calibration.batch import Batch
from dpqlab.core.assignment import AssignmentConfig, reassign
from dpqlab.core.codecs import decode
from dpqlab.core.memory import with_less
from dpqlab.distributed import Team
from dpqlab.errors import ConfigError
from dpqlab.nn.activations import PairedMoments, paired_statistics
from dpqlab.nn.linear import CompressedLinear
from dpqlab.nn.packed import hold_decoded
from dpqlab.nn.plan import split_block_name

Refresh = Literal["layer", "block", "model"]


@dataclass(frozen=True, kw_only=True)
class EStepConfig:
    """How the codes of a model are chosen again.

    Attributes
    ----------
    assignment
        How those of one layer are.
    refresh
        When statistics are gathered anew, with the codes chosen so far: for every ``"layer"`` (one
        pass serves layers that have the same input, such as query, key and value), every
        ``"block"``, or once for the ``"model"``. The rarer, the faster; but a layer then answers to
        inputs that the layers before it no longer give. The moments of all layers that a pass
        serves are held at once.
    """

    assignment: AssignmentConfig = field(default_factory=AssignmentConfig)
    refresh: Refresh = "layer"

    def __post_init__(self) -> None:
        if self.refresh not in get_args(Refresh):
            raise ConfigError(
                f"unknown refresh: got {self.refresh!r}, expected one of "
                f"{', '.join(get_args(Refresh))}"
            )


@dataclass(frozen=True, kw_only=True)
class EStepRecord:
    """What became of one layer.

    ``changed`` of ``total`` codes are new. The errors are E|y - y'|^2 / E|y - b|^2 over the
    batches: y the teacher's output, y' the student's, b the student's bias. ``error_after`` is
    never above ``error_before``. ``seconds`` were spent on the layer, its share of the gathering
    included.
    """

    layer: str
    changed: int
    total: int
    error_before: float
    error_after: float
    seconds: float


def assign_codes(
    student: nn.Module,
    teacher: nn.Module,
    batches: Sequence[Batch],
    config: EStepConfig | None = None,
    team: Team | None = None,
    chunk: int | None = None,
) -> Iterator[EStepRecord]:
    """Choose the codes of all compressed layers of ``student`` again, in place.

    Works in float32 unless called under autocast. Layers come in the order in which they run; a
    record is yielded as soon as its layer has its new codes, and the loop can be left at any time.

    With ``chunk`` and a teacher whose weights are lent (:mod:`dpqlab.checkpoint.lending`) neither
    model is decoded or in memory as a whole. Beside what the student stores there are at most, in
    bytes, ::

        8 * (the largest Linear)                              lent by the teacher's file, or decoded
      + sum over the layers of a stage:  8 * in * (in + out)  moments
                                      +  4 * rows * out       the teacher's outputs of a chunk
      + 40 * in * (in + out) of the largest layer + 134 MB    while its codes are chosen

    and the activations of one block for ``chunk`` images; nothing grows with the number of blocks.
    A stage is what ``refresh`` says: ``"block"`` is the one to take for a large model, since every
    stage reads all that comes before it anew.

    Parameters
    ----------
    student
        A model with :class:`CompressedLinear` layers, on the device of the batches. It is put into
        evaluation mode.
    teacher
        The full-precision model, same device; likewise.
    batches
        Inputs to gather the statistics on. A layer that sees each image once, such as adaLN's, has
        as many samples as there are images: have more of them than it has inputs.
    config
        See :class:`EStepConfig`.
    team
        Processes with the same models and batches of their own: statistics are those of all
        batches, so that all choose the same codes.
    chunk
        Most images of a batch that pass through the models at a time; weights are then decoded
        when they are used, not all beforehand. Takes longer, and sums up in another order (errors
        agree to about 1e-5). None passes whole batches.

    Yields
    ------
    EStepRecord

    Raises
    ------
    ConfigError
        If there are no batches, no compressed layers that run, or no image in a chunk.
    """
    config = EStepConfig() if config is None else config
    student.eval()
    teacher.eval()
    if not batches:
        raise ConfigError("no batches: the E-step needs activations to judge codes by")
    if chunk is not None and chunk < 1:
        raise ConfigError(f"chunk is {chunk}: expected at least one image, or None for all")
    calls = _calls(student, batches[0].pieces(1)[0])
    if not calls:
        raise ConfigError("no compressed layer runs: run compress_ before the E-step")
    for names in _stages(calls, config.refresh):
        started = time.perf_counter()
        run = partial(_run_until, names[-1], len(calls[names[-1]]))
        moments = _moments(teacher, student, names, run, batches, chunk, team)
        share = (time.perf_counter() - started) / len(names)
        for name in names:
            started = time.perf_counter()
            layer = student.get_submodule(name)
            assert isinstance(layer, CompressedLinear)
            old, seen = layer.encoded(), moments.pop(name)
            found = reassign(old, seen.gram, seen.cross, config.assignment)
            layer.set_codes_(found.codes)
            new = replace(old, codes=found.codes)
            yield EStepRecord(
                layer=name,
                changed=found.changed,
                total=found.codes.numel(),
                error_before=seen.output_error(decode(old, torch.float64)),
                error_after=seen.output_error(decode(new, torch.float64)),
                seconds=share + time.perf_counter() - started,
            )


def _moments(
    teacher: nn.Module,
    student: nn.Module,
    names: Sequence[str],
    run: Callable[[nn.Module, Batch], None],
    batches: Sequence[Batch],
    chunk: int | None,
    team: Team | None,
) -> dict[str, PairedMoments]:
    """Gather a stage's statistics; where memory runs out, with half as many images at a time."""
    largest = max(len(batch) for batch in batches)

    def gathered(size: int) -> dict[str, PairedMoments]:
        pieces = (piece for batch in batches for piece in batch.pieces(size))
        roomy = chunk is None and size == largest
        with hold_decoded(student) if roomy else nullcontext():
            return paired_statistics(teacher, student, names, run, pieces, team)

    return with_less(gathered, largest if chunk is None else chunk, tries=2)


def _forward(model: nn.Module, batch: Batch) -> None:
    model(batch.noisy, timestep=batch.timesteps, class_labels=batch.labels)


class _Reached(Exception):  # noqa: N818
    """The pass has come as far as it is needed."""


def _run_until(last: str, calls: int, model: nn.Module, batch: Batch) -> None:
    """Run a model up to the last call of a layer: what comes behind it is not looked at."""
    left = calls

    def stop(module: nn.Module, args: Any, output: Any) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise _Reached

    # hooked last, so that it runs behind the hooks that gather
    hook = model.get_submodule(last).register_forward_hook(stop)
    try:
        _forward(model, batch)
    except _Reached:
        pass
    finally:
        hook.remove()


@torch.no_grad()
def _calls(student: nn.Module, batch: Batch) -> dict[str, list[int]]:
    """List the inputs of each compressed layer, call by call; layers in order of their last.

    An input is a number: the same one for the same tensor. The tensors are not kept.
    """
    calls: dict[str, list[int]] = {}
    seen = WeakTensorKeyDictionary()
    count = itertools.count()

    def note(name: str, module: nn.Module, args: Any) -> None:
        if args[0] not in seen:
            seen[args[0]] = next(count)
        calls[name] = [*calls.pop(name, []), seen[args[0]]]

    layers = [(n, m) for n, m in student.named_modules() if isinstance(m, CompressedLinear)]
    hooks = [layer.register_forward_pre_hook(partial(note, name)) for name, layer in layers]
    try:
        _forward(student, batch)
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def _stages(calls: Mapping[str, list[int]], refresh: Refresh) -> list[list[str]]:
    """Group neighbours in the order in which layers run: each group is served by one pass."""

    def same(one: str, other: str) -> bool:
        if refresh == "layer":
            return calls[one] == calls[other]
        return refresh == "model" or _block(one) == _block(other)

    stages: list[list[str]] = []
    for name in calls:
        if stages and same(stages[-1][-1], name):
            stages[-1].append(name)
        else:
            stages.append([name])
    return stages


def _block(name: str) -> str:
    _, inside = split_block_name(name)
    return name.removesuffix(inside) if inside else name
