"""Modulations made ahead: a table of rows for the steps of a schedule and the labels of a request.

Conditioning never sees the image, so all its layers can run before sampling begins, with all
(timestep, label) pairs as the rows of one product: each layer is read, or decoded, once instead of
once a step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from dpqlab.diffusion.runtime.conditions import KEPT_ORDERS, distinct_pairs
from dpqlab.diffusion.runtime.config import Held
from dpqlab.diffusion.runtime.modulation import BulkModulation


class ModulationTable:
    """Rows of a schedule, in runs of steps that fit into ``limit`` bytes; others when asked for."""

    def __init__(self, compute: BulkModulation, limit: int) -> None:
        self.compute, self.limit = compute, limit
        self.device = compute.belt.device
        self._steps: dict[float, int] = {}
        self._labels: tuple[int, ...] = ()
        self._columns: dict[tuple[int, ...], Tensor] = {}
        self._first = 0
        self._table: Tensor | None = None

    def expect(self, times: Sequence[float], labels: Sequence[int]) -> None:
        """Plan for these timesteps, in this order, each with any of these labels."""
        self._steps = {time: step for step, time in enumerate(dict.fromkeys(times))}
        self._labels = tuple(dict.fromkeys(labels))
        self._columns.clear()
        self._table = None

    def rows(self, times: Sequence[float], labels: tuple[int, ...]) -> Tensor:
        """Return the rows (N, total) of N timesteps and labels, expected or not."""
        step = self._steps.get(times[0])
        alike = all(time == times[0] for time in times)
        if not alike or step is None or not set(labels) <= set(self._labels):
            return self._on_demand(times, labels)
        table = self._table
        if table is None or not self._first <= step < self._first + len(table):
            table = self._fill(step)
        return table[step - self._first].index_select(0, self._columns_of(labels))

    def held(self) -> Iterator[Held]:
        """Yield the tensors kept."""
        yield from self.compute.held()
        if self._table is not None:
            yield "modulation", self._table

    def _fill(self, step: int) -> Tensor:
        """Compute the run of steps that ``step`` is in: each run as long as the limit allows."""
        self._table = None  # freed before the next is made
        count, total = len(self._labels), self.compute.layout.total
        length = max(1, self.limit // (count * total * self.compute.belt.dtype.itemsize))
        self._first = step // length * length
        steps = list(self._steps)[self._first : self._first + length]
        times = torch.tensor(steps, dtype=torch.float32, device=self.device)
        labels = torch.tensor(self._labels, device=self.device)
        rows = self.compute(times.repeat_interleave(count), labels.repeat(len(steps)))
        self._table = rows.view(len(steps), count, total)
        return self._table

    def _columns_of(self, labels: tuple[int, ...]) -> Tensor:
        """Return the place of each label in the table; copied to the device once for a batch."""
        if labels not in self._columns:
            if len(self._columns) >= KEPT_ORDERS:
                self._columns.clear()
            places = [self._labels.index(label) for label in labels]
            self._columns[labels] = torch.tensor(places, device=self.device)
        return self._columns[labels]

    def _on_demand(self, times: Sequence[float], labels: Sequence[int]) -> Tensor:
        pairs, index = distinct_pairs(times, labels)
        rows = self.compute(
            torch.tensor([time for time, _ in pairs], dtype=torch.float32, device=self.device),
            torch.tensor([label for _, label in pairs], device=self.device),
        )
        return rows.index_select(0, torch.tensor(index, device=self.device))
