"""Several processes, one result: who they are, what each takes, and how they agree.

``torchrun`` and ``accelerate launch`` start a process for each GPU and tell it by environment
variables which it is; :func:`team_of` lets them meet through ``torch.distributed``. A process that
was started alone is a team of one, for which everything here costs nothing.
"""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from dpqlab.errors import ConfigError
from dpqlab.kernels.devices import device_of

Item = TypeVar("Item")

PATIENCE = dt.timedelta(days=1)
"""How long a process waits for the others: shares differ, and a launcher ends those left behind."""


@dataclass(frozen=True, kw_only=True)
class Team:
    """The processes that work together: which of how many this one is, and its device."""

    rank: int = 0
    world: int = 1
    device: torch.device

    @property
    def leads(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """Return this process's part: every ``world``-th of the items."""
        return items[self.rank :: self.world]

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors of one dtype by their sums over the team, in place."""
        if self.world == 1 or not tensors:
            return
        if len(tensors) == 1:
            dist.all_reduce(tensors[0])
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        dist.all_reduce(flat)
        parts = flat.split([tensor.numel() for tensor in tensors])
        sums = [part.view_as(t) for part, t in zip(parts, tensors, strict=True)]
        torch._foreach_copy_(list(tensors), sums)

    def average_(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors of one floating dtype by their means over the team, in place."""
        if self.world == 1 or not tensors:
            return
        self.sum_(tensors)
        torch._foreach_div_(list(tensors), self.world)

    def follow_(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by the leader's, in place."""
        if self.world > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    def agreed(self, value: float) -> float:
        """Return the leader's value."""
        if self.world == 1:
            return value
        box = torch.tensor([value], dtype=torch.float64, device=self.device)
        dist.broadcast(box, 0)
        return box.item()

    def agreed_text(self, text: str) -> str:
        """Return the leader's text."""
        if self.world == 1:
            return text
        data = text.encode()
        box = torch.zeros(int(self.agreed(len(data))), dtype=torch.uint8, device=self.device)
        if self.leads and data:
            box.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
        dist.broadcast(box, 0)
        return bytes(box.tolist()).decode()

    def total(self, value: float) -> float:
        """Return the sum of everyone's values; all wait here for each other."""
        if self.world == 1:
            return value
        box = torch.tensor([value], dtype=torch.float64, device=self.device)
        dist.all_reduce(box)
        return box.item()

    def meet(self) -> None:
        """Wait until everyone is here."""
        self.total(0.0)


@contextmanager
def team_of(device: str = "auto") -> Iterator[Team]:
    """Meet the processes that the launcher started, and part from them when the block ends.

    Parameters
    ----------
    device
        ``"cpu"``, ``"cuda"``, ``"auto"`` (GPUs where there are some), or for a process that is
        alone any device's name. In a team each takes the GPU of its number on its machine.

    Raises
    ------
    ConfigError
        If a team is to share one GPU, or its machine has fewer GPUs than processes.
    BackendError
        If the device is not there.
    """
    rank, world, local = (_whole(*entry) for entry in _RANKS)
    if world == 1:
        yield Team(device=device_of(device))
        return
    mine = _own_device(device, local)
    if mine.type == "cuda":
        torch.cuda.set_device(mine)
    dist.init_process_group("nccl" if mine.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield Team(rank=rank, world=world, device=mine)
    finally:
        dist.destroy_process_group()


def launched_rank() -> int:
    """Return which process of its team this one is, before they have met; 0 alone."""
    return _whole(*_RANKS[0])


_RANKS = (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0))


def _whole(name: str, default: int) -> int:
    value = os.environ.get(name, str(default))
    if not value.isdecimal():
        raise ConfigError(f"{name} is {value!r}: expected the whole number that a launcher sets")
    return int(value)


def _own_device(name: str, local: int) -> torch.device:
    device = device_of(name)
    if device.type != "cuda":
        return device
    if device.index is not None:
        raise ConfigError(
            f"device {name} for several processes: expected cuda, of which each takes a GPU"
        )
    if local >= torch.cuda.device_count():
        raise ConfigError(
            f"process {local} of this machine has no GPU: it has {torch.cuda.device_count()}; "
            "start as many processes as there are GPUs"
        )
    return torch.device("cuda", local)
