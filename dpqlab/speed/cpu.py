"""The rows of the CPU's kernel suite: products with compressed weights, against dense ones.

A pass computes every layer of a workload once, so that dense weights come from memory as they do in
sampling. All sides add a bias and write fresh results, in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dpqlab.kernels import ops, reference
from dpqlab.kernels.coded import CodedWeight
from dpqlab.kernels.linears import Problem, rule_for
from dpqlab.nn import CompressedLinear
from dpqlab.speed.models import coded_like
from dpqlab.speed.rows import DENSE, SpeedRow
from dpqlab.speed.timing import Ceilings, Work, time_together
from dpqlab.speed.workloads import MODULATION, coded_layers, layer_kinds, pool_bytes, stored_bytes

XL_WIDTH = 1152
XL_COPIES = 4  # of the modulation layer: 127 MB as float32
XL_ROWS = 512  # tokens of a guided image of DiT-XL/2
SMALL_ROWS = (1, 4)  # images whose tokens the bundled model's layers are given


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One compressed Linear: ``weight``, and ``bias`` (out,) in float32 or None."""

    weight: CodedWeight
    bias: Tensor | None


@dataclass(frozen=True, kw_only=True)
class CpuWorkload:
    """Layers that are each applied once, at some number of rows.

    Attributes
    ----------
    name
        What the rows call it.
    rows
        M, rows of x.
    layers
        Makes the layers as a preset codes them.
    """

    name: str
    rows: int
    layers: Callable[[str], Sequence[Layer]]


def cpu_workloads(model: Any, title: str) -> tuple[CpuWorkload, ...]:
    """Return the workloads of the suite.

    Parameters
    ----------
    model
        A full-precision DiT, whose geometry is timed beside DiT-XL/2's.
    title
        What the rows call it: a bundled name, whose shipped weights are taken then.
    """
    config, coded = model.config, coded_like(model, title)
    tokens = (config.sample_size // config.patch_size) ** 2
    own = next(block.norm1.linear for block in model.transformer_blocks)
    wide = f"{own.in_features}->{own.out_features}"
    return (
        CpuWorkload(
            name=f"modulation layer {XL_WIDTH}->{6 * XL_WIDTH}, M=1", rows=1, layers=_xl_modulation
        ),
        CpuWorkload(
            name=f"modulation layers {wide} of {title}, M=2",
            rows=2,
            layers=lambda preset: layers_of(coded(preset), modulation=True),
        ),
        *(
            CpuWorkload(
                name=f"token layers of {title}, M={2 * images * tokens}",
                rows=2 * images * tokens,
                layers=lambda preset: layers_of(coded(preset), modulation=False),
            )
            for images in SMALL_ROWS
        ),
        CpuWorkload(
            name=f"token layers of a block of DiT-XL/2, M={XL_ROWS}",
            rows=XL_ROWS,
            layers=_xl_tokens,
        ),
    )


def layers_of(model: Any, *, modulation: bool) -> list[Layer]:
    """Return the compressed modulation layers of a DiT's blocks, or all others."""
    return [
        Layer(
            weight=layer.coded(), bias=None if layer.bias is None else layer.bias.detach().float()
        )
        for name, layer in model.named_modules()
        if isinstance(layer, CompressedLinear) and name.endswith(MODULATION) == modulation
    ]


@torch.no_grad()
def cpu_rows(
    workload: CpuWorkload, presets: Sequence[str], ceilings: Ceilings, *, rounds: int = 15
) -> list[SpeedRow]:
    """Time a workload as presets code it, in turns with dense weights.

    Parameters
    ----------
    workload
        What to compute.
    presets
        Whose codecs.
    ceilings
        Of the CPU.
    rounds
        In which each has its turn.
    """
    # not in inference mode: what the kernels prepare is kept by tensors that can tell of changes
    coded = {name: workload.layers(name) for name in presets}
    dense = _decoded(next(iter(coded.values())))
    generator = torch.Generator().manual_seed(1)
    xs = {
        columns: torch.randn(workload.rows, columns, generator=generator)
        for columns in {weight.shape[1] for weight, _ in dense}
    }
    works: dict[str, Work] = {DENSE: lambda: [F.linear(xs[w.shape[1]], w, b) for w, b in dense]}
    works |= {name: _product(layers, xs) for name, layers in coded.items()}
    times = time_together(works, device="cpu", rounds=rounds, passes=1)
    flops = 2.0 * workload.rows * sum(weight.numel() for weight, _ in dense)
    read = {DENSE: sum(weight.nbytes for weight, _ in dense)}
    read |= {name: _bytes(layers) for name, layers in coded.items()}
    return [
        SpeedRow(
            work=workload.name,
            way=way,
            timing=timing,
            # two operations a weight are not needed where sums are looked up
            floor=max(read[way] / ceilings.copy, flops / ceilings.product * (workload.rows > 4)),
            bytes=read[way],
            flops=flops,
            error=None if way == DENSE else _error(coded[way], xs),
            details={"layers": len(dense)} | _method(coded.get(way), xs),
        )
        for way, timing in times.items()
    ]


def _xl_modulation(preset: str) -> list[Layer]:
    return _random_layers(preset, XL_COPIES, modulation=True)


def _xl_tokens(preset: str) -> list[Layer]:
    return _random_layers(preset, 1, modulation=False)


def _random_layers(preset: str, blocks: int, *, modulation: bool) -> list[Layer]:
    return [
        Layer(weight=weight, bias=torch.zeros(kind.shape[0]))
        for kind in layer_kinds(XL_WIDTH, blocks)
        if (kind.name == MODULATION) == modulation
        for weight in coded_layers(preset, kind, device="cpu")
    ]


def _decoded(layers: Sequence[Layer]) -> list[tuple[Tensor, Tensor | None]]:
    return [(reference.decode(one.weight, torch.float32), one.bias) for one in layers]


def _product(layers: Sequence[Layer], xs: Mapping[int, Tensor]) -> Work:
    return lambda: [ops.linear(xs[one.weight.shape[1]], one.weight, one.bias) for one in layers]


def _bytes(layers: Sequence[Layer]) -> int:
    weights = [one.weight for one in layers]
    return sum(map(stored_bytes, weights)) + pool_bytes(weights)


def _error(layers: Sequence[Layer], xs: Mapping[int, Tensor]) -> float:
    """Return the largest relative distance of a layer's result from the dense product."""

    def distance(one: Layer) -> float:
        x = xs[one.weight.shape[1]]
        dense = reference.decode(one.weight, torch.float32)
        expected = F.linear(x, dense, one.bias).double()
        found = ops.linear(x, one.weight, one.bias).double()
        return float((found - expected).norm() / expected.norm())

    return max(map(distance, layers))


def _method(layers: Sequence[Layer] | None, xs: Mapping[int, Tensor]) -> dict[str, str]:
    """Say which rules of the dispatch table compute some layers."""
    if layers is None:
        return {"method": "F.linear"}
    rules = [rule_for(Problem.of(xs[one.weight.shape[1]], one.weight)) for one in layers]
    return {"method": ", ".join(dict.fromkeys(f"{r.backend} {r.method}" for r in rules))}
