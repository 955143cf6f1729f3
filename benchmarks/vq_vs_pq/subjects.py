"""Weights to be quantized: of the bundled model, of a wider one, of none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from dpqlab.core import CodebookCodec
from dpqlab.evaluation.projection import DIT_XL_2, Geometry
from dpqlab.nn import Plan, kind_of
from dpqlab.nn.targets import targets_of

BLOCK = 3
KINDS = ("attn1.to_q", "ff.net.0.proj", "ff.net.2", "norm1.linear")  # one of each shape
DRAWN = 1152 * 1152  # values of a random layer: columns are alike, so a few do for a large one


@dataclass(frozen=True, kw_only=True)
class Subject:
    """Weights to be quantized, and the geometry that decides what their codebooks cost.

    Attributes
    ----------
    name, width
        For the records.
    geometry
        Shapes of a block's Linears, and how many blocks share codebooks.
    layers
        Weights of a kind: of the judged layer, which comes first, and if asked for of the same
        layer in all other blocks.
    gaussian
        Whether the weights are iid Gaussian, so that Shannon's bound holds.
    """

    name: str
    width: int
    geometry: Geometry
    layers: Callable[[str, bool], list[Tensor]]
    gaussian: bool = False

    def part(self, kinds: Sequence[str]) -> Geometry:
        """Return the geometry of some kinds alone."""
        linears = {kind: self.geometry.linears[kind] for kind in kinds}
        return replace(self.geometry, linears=linears)


def model_subject(name: str, model: nn.Module, block: int = BLOCK) -> Subject:
    """Return the block Linears of a DiT; layers of ``block`` are judged (the last, if fewer)."""
    weights: dict[str, list[Tensor]] = {}
    for target in targets_of(model, Plan.for_blocks(CodebookCodec(d=4, k=16))):
        weights.setdefault(kind_of(target.name), []).append(target.linear.weight.detach().float())
    shapes = {kind: (len(found[0]), found[0].shape[1]) for kind, found in weights.items()}
    blocks = len(next(iter(weights.values())))
    judged = min(block, blocks - 1)

    def layers(kind: str, shared: bool) -> list[Tensor]:
        found = weights[kind]
        rest = [w for index, w in enumerate(found) if index != judged]
        return [found[judged], *(rest if shared else [])]

    parameters = sum(p.numel() for p in model.parameters())
    geometry = Geometry(name=name, linears=shapes, blocks=blocks, parameters=parameters)
    return Subject(name=name, width=shapes[KINDS[0]][1], geometry=geometry, layers=layers)


def random_subject(geometry: Geometry = DIT_XL_2, *, values: int = DRAWN, seed: int = 0) -> Subject:
    """Return iid Gaussian layers with all rows, and columns for about ``values`` values.

    Nothing tells the columns of such a weight apart, so the error on some is the error on all;
    bits are those of the whole layer.
    """

    def layers(kind: str, shared: bool) -> list[Tensor]:
        out, columns = geometry.linears[kind]
        count = geometry.blocks if shared else 1
        step = 48 if shared else 192  # whole sub-vectors of every d; whole groups of four
        some = min(columns, max(step, values // (out * count) // step * step))
        generator = torch.Generator().manual_seed(seed + sum(kind.encode()))
        return list(torch.randn(count, out, some, generator=generator).unbind())

    width = geometry.linears[KINDS[0]][1]
    name = f"random {geometry.name}"
    return Subject(name=name, width=width, geometry=geometry, layers=layers, gaussian=True)
