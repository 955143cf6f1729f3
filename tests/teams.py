"""Work done by several processes on CPUs, as ``torchrun`` would start them."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from dpqlab.distributed import Team, team_of
from tests.processes import all_of, call_in


def in_team(work: Callable[..., None], *args: Any, world: int = 2) -> None:
    """Call ``work(team, *args)`` in each of some processes; an error in one of them is raised."""
    in_processes(_joined, work, args, world=world)


def in_processes(work: Callable[..., None], *args: Any, world: int = 2) -> None:
    """Call ``work(*args)`` in processes that a launcher might have started."""
    given = (free_port(), world, work, args)
    names = [f"member {rank}" for rank in range(world)]
    all_of({name: call_in(name, _member, rank, *given) for rank, name in enumerate(names)})


def free_port() -> int:
    """Return a port for processes to meet at; each meeting needs one of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def launched(rank: int, world: int, port: int) -> Iterator[None]:
    """Set the environment that a launcher gives to one of its processes."""
    given = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(world)}
    given |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "NUMBA_NUM_THREADS": "1"}
    before = {name: os.environ.get(name) for name in given}
    os.environ |= given
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _member(rank: int, port: int, world: int, work: Callable[..., None], args: Any) -> None:
    torch.set_num_threads(1)
    with launched(rank, world, port):
        work(*args)


def _joined(work: Callable[..., None], args: Any) -> None:
    with team_of("cpu") as team:
        work(team, *args)


def alone() -> Team:
    """Return a team of one, on the CPU."""
    return Team(device=torch.device("cpu"))
