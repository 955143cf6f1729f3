"""The layers that see timestep and label only (adaLN): 30 % of a DiT's weights, two rows of input.

All modulations of one (timestep, label) make a *row*: for each block shift, scale and gate of the
attention branch and of the feed-forward branch, and for the output layer shift and scale.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpqlab.diffusion.runtime.belt import Belt
from dpqlab.diffusion.runtime.config import Held
from dpqlab.diffusion.runtime.parts import Part, joined_bias
from dpqlab.diffusion.runtime.runs import runs_of

BULK_ROWS = 4096
"""Most rows of a product for the table: keeps what a chunk needs below some 100 MB."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where the values of each layer lie in a row: ``starts[layer]``, the output layer last.

    ``width`` is the model's; a row has ``total`` values.
    """

    starts: tuple[int, ...]
    width: int
    total: int

    def block(self, rows: Tensor, index: int) -> tuple[Tensor, ...]:
        """Return shift, scale, gate, shift, scale, gate of a block: six (N, width) views."""
        return self._cut(rows, self.starts[index], 6)

    def last(self, rows: Tensor) -> tuple[Tensor, ...]:
        """Return shift and scale of the output layer: two (N, width) views."""
        return self._cut(rows, self.starts[-1], 2)

    def _cut(self, rows: Tensor, start: int, count: int) -> tuple[Tensor, ...]:
        wide = rows[:, start : start + count * self.width]
        return wide.unflatten(1, (count, self.width)).unbind(1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Group:
    """Modulation layers behind the same embedder; ``layers`` are their places in a row's order."""

    embedder: Any
    layers: tuple[int, ...]
    parts: tuple[Part, ...]


def grouped(blocks: Sequence[nn.Module], parts: Sequence[Part]) -> tuple[Group, ...]:
    """Group modulation layers by embedder: copies that are equal are one.

    Parameters
    ----------
    blocks
        The model's blocks, each with its ``norm1.emb``.
    parts
        The modulation layer of each, and that of the output layer, which is fed by the first
        block's embedder.
    """
    found: list[tuple[Any, list[int]]] = []
    for index, block in enumerate(blocks):
        emb: Any = block.norm1.emb  # pyright: ignore[reportAttributeAccessIssue]
        same = next((layers for other, layers in found if _same_embedder(other, emb)), None)
        if same is None:
            found.append((emb, [index]))
        else:
            same.append(index)
    found[0][1].append(len(parts) - 1)
    return tuple(
        Group(embedder=emb, layers=tuple(layers), parts=tuple(parts[i] for i in layers))
        for emb, layers in found
    )


def layout_of(groups: Sequence[Group], width: int) -> Layout:
    """Lay the layers of ``groups`` out in a row, group after group."""
    starts: dict[int, int] = {}
    total = 0
    for group in groups:
        for layer, part in zip(group.layers, group.parts, strict=True):
            starts[layer] = total
            total += part.shape[0]
    return Layout(starts=tuple(starts[i] for i in sorted(starts)), width=width, total=total)


def embedded(embedder: Any, times: Tensor, labels: Tensor, dtype: torch.dtype) -> Tensor:
    """Return SiLU of the conditioning (M, width), as in evaluation mode: no label is dropped."""
    frequencies = embedder.time_proj(times).to(dtype)
    label = embedder.class_embedder.embedding_table(labels)
    return F.silu(embedder.timestep_embedder(frequencies) + label)


class BulkModulation:
    """Rows for many (timestep, label) pairs: each layer is decoded once, for all of them."""

    def __init__(self, groups: Sequence[Group], layout: Layout, belt: Belt) -> None:
        self.groups, self.layout, self.belt = tuple(groups), layout, belt
        for part in self._packed():
            belt.reserve([part])
        self.biases = [
            [joined_bias([part], belt.dtype, belt.device) for part in group.parts]
            for group in groups
        ]

    def __call__(self, times: Tensor, labels: Tensor) -> Tensor:
        """Return the rows (M, total) of float ``times`` (M,) and int64 ``labels`` (M,)."""
        rows = times.new_empty(len(times), self.layout.total, dtype=self.belt.dtype)
        for group, biases in zip(self.groups, self.biases, strict=True):
            x = embedded(group.embedder, times, labels, self.belt.dtype)
            for layer, part, bias in zip(group.layers, group.parts, biases, strict=True):
                start = self.layout.starts[layer]
                out = rows[:, start : start + part.shape[0]]
                weight = _weight(part, self.belt)
                for some, there in zip(x.split(BULK_ROWS), out.split(BULK_ROWS), strict=True):
                    there.copy_(F.linear(some, weight, bias))
        return rows

    def held(self) -> Iterator[Held]:
        """Yield the tensors kept."""
        for group, biases in zip(self.groups, self.biases, strict=True):
            yield from _embedder_tensors(group)
            for part, bias in zip(group.parts, biases, strict=True):
                yield from part.held()
                if bias is not None:
                    yield "biases", bias

    def _packed(self) -> Iterator[Part]:
        return (part for group in self.groups for part in group.parts if part.dense is None)


class StepModulation:
    """Rows for the few pairs of one step: as many layers as possible in one product.

    Dense layers behind one embedder are one weight; coded ones go to the kernel that looks up
    partial sums, on CUDA all of them in one launch.
    """

    def __init__(self, groups: Sequence[Group], layout: Layout, belt: Belt) -> None:
        self.groups, self.layout, self.belt = tuple(groups), layout, belt
        self.runs = [runs_of(group.parts, belt) for group in groups]

    def __call__(self, times: Tensor, labels: Tensor) -> Tensor:
        """Return the rows (M, total) of float ``times`` (M,) and int64 ``labels`` (M,)."""
        pieces: list[Tensor] = []
        for group, runs in zip(self.groups, self.runs, strict=True):
            x = embedded(group.embedder, times, labels, self.belt.dtype)
            pieces += [run(x) for run in runs]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=1)

    def held(self) -> Iterator[Held]:
        """Yield the tensors kept."""
        for group, runs in zip(self.groups, self.runs, strict=True):
            yield from _embedder_tensors(group)
            for run in runs:
                yield from run.held()


def _weight(part: Part, belt: Belt) -> Tensor:
    return belt.decoded([part]) if part.dense is None else part.dense.to(belt.dtype)


def _same_embedder(first: Any, other: Any) -> bool:
    if first is other:
        return True
    if _sinusoids(first.time_proj) != _sinusoids(other.time_proj):
        return False
    a, b = first.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(
        a[key].dtype == b[key].dtype and torch.equal(a[key], b[key]) for key in a
    )


def _sinusoids(projection: Any) -> tuple[Any, ...]:
    names = ("num_channels", "flip_sin_to_cos", "downscale_freq_shift", "scale")
    return tuple(getattr(projection, name, None) for name in names)


def _embedder_tensors(group: Group) -> Iterator[Held]:
    for parameter in group.embedder.parameters():
        yield "dense", parameter
