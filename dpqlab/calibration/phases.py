"""A training step as CUDA graphs, and as the parts between which a team exchanges what it needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dpqlab.distributed import Team

Work = Callable[[], None]


@dataclass(frozen=True, kw_only=True, eq=False)
class Lesson:
    """What the teacher says of a batch: its prediction, the outputs of its blocks, their power.

    ``power`` (B,) are the mean squares of the outputs; both are None where nobody asks for them.
    """

    wanted: tuple[Tensor, list[Tensor]] | None = None
    power: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The parts of a step: ask the teacher, find the gradients, move what is trained."""

    ask: Callable[[], Lesson]
    learn: Callable[[Lesson], None]
    move: Work


def lone_step(parts: Parts, *, capture: bool) -> Work:
    """Return a step of one process; on a GPU, if captured, it is one CUDA graph."""

    def step() -> None:
        parts.learn(parts.ask())
        parts.move()

    return graph_of(step) if capture else step


def team_step(parts: Parts, trained: Sequence[Tensor], team: Team, *, capture: bool) -> Work:
    """Return a step that several processes take together, each on its part of the batch.

    What they exchange are means: of the power of the teacher's blocks, before they learn, and of
    the gradients, before they move. So a step is the one that a single process would take with the
    whole batch, but for the order in which floats are added. Captured, each part is a CUDA graph,
    with the exchange between them: a collective inside of a graph would bind it to its peers.

    Parameters
    ----------
    trained
        The leaves that get gradients: here they are given views of one buffer, which travels.
    """
    flat = trained[0].new_zeros(sum(tensor.numel() for tensor in trained))
    for tensor, part in zip(trained, flat.split([t.numel() for t in trained]), strict=True):
        tensor.grad = part.view_as(tensor)
    box: list[Lesson] = []

    def ask() -> None:
        box[:] = [parts.ask()]

    def learn() -> None:
        parts.learn(box[0])

    asked = ran(graph_of(ask)) if capture else ask
    learned = ran(graph_of(learn)) if capture else learn
    moved = graph_of(parts.move) if capture else parts.move

    def step() -> None:
        asked()
        if box[0].power is not None:
            team.average_([box[0].power])
        learned()
        team.average_([flat])
        moved()

    return step


def ran(work: Work) -> Work:
    """Run some work once and return it: a graph that was only recorded has computed nothing."""
    work()
    return work


def graph_of(work: Work) -> Work:
    """Run some work a few times, as CUDA graphs ask for, record it, and return its replay."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    # of this thread alone: a communicator's watchdog asks for its events meanwhile
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        work()
    return graph.replay
