"""The rows of the kernel suite: products with the weights of DiT-XL/2, against dense ones."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dpqlab.diffusion.runtime.belt import Belt
from dpqlab.diffusion.runtime.linears import TokenLinear, token_linear, token_linears
from dpqlab.diffusion.runtime.parts import Part, decode_into
from dpqlab.kernels.coded import CodedWeight
from dpqlab.speed.rows import SpeedRow
from dpqlab.speed.timing import (
    Ceilings,
    Timing,
    Work,
    captured,
    peak_details,
    time_together,
)
from dpqlab.speed.workloads import (
    DIT_XL_2,
    MODULATION,
    LayerKind,
    coded_layers,
    pool_bytes,
    stored_bytes,
)

PRESETS = ("dpq-2bit", "best-2bit", "dpq-1bit", "best-1bit")
TOKEN_ROWS = (256, 512, 4096)
L2_BYTES = 192 * 2**20  # several times that of any GPU of today
QKV = ("attn1.to_q", "attn1.to_k", "attn1.to_v")


def modulation_rows(
    ceilings: Ceilings, *, presets: Sequence[str] = PRESETS, rows: int = 2
) -> Generator[SpeedRow, None, None]:
    """Time all modulation layers of DiT-XL/2 in one launch.

    Parameters
    ----------
    ceilings
        Of the device.
    presets
        Whose codecs.
    rows
        M: both branches of guidance of one image are two.
    """
    kind = next(kind for kind in DIT_XL_2 if kind.name == MODULATION)
    x = torch.randn(rows, kind.shape[1], device="cuda").to(torch.bfloat16)
    total = kind.shape[0] * kind.blocks
    weight = torch.randn(total, kind.shape[1], device="cuda").to(torch.bfloat16)
    bias = torch.randn(total, device="cuda").to(torch.bfloat16)
    works: dict[str, Work] = {"dense": captured(lambda: F.linear(x, weight, bias))}
    copies, read, errors = {"dense": 1}, {"dense": weight.nbytes}, {}
    for name in presets:
        layers = coded_layers(name, kind, device="cuda")
        read[name] = sum(map(stored_bytes, layers)) + pool_bytes(layers)
        run, errors[name] = _table_product(layers, bias, x)
        copies[name] = -(-L2_BYTES // read[name])
        works[name] = captured(_repeated(run, copies[name]))
    times = time_together(works, device="cuda", passes=4)
    peak = peak_details("cuda")
    written = rows * total * 2
    for name, timing in times.items():
        yield SpeedRow(
            work=f"{kind.blocks} modulation layers, M={rows}",
            way=name,
            timing=Timing(rounds=tuple(t / copies[name] for t in timing.rounds)),
            floor=(read[name] + written + x.nbytes) / ceilings.copy,
            bytes=read[name],
            error=errors.get(name),
            flops=2 * rows * kind.weights,
            details=peak,
        )


def _table_product(
    layers: Sequence[CodedWeight], bias: Tensor, x: Tensor
) -> tuple[list[Work], float]:
    """Return the table kernel on several copies of the codes, and its error."""
    from dpqlab.kernels import cuda_table
    from dpqlab.kernels.table_layout import prepare

    biases = list(bias.split([weight.shape[0] for weight in layers]))
    prepared = [prepare(layers, biases)]
    copies = -(-L2_BYTES // sum(map(stored_bytes, layers)))
    prepared += [prepare(layers, biases) for _ in range(copies - 1)]
    expected = torch.cat(
        [
            F.linear(x.double(), _decoded(weight).double(), b.double())
            for weight, b in zip(layers, biases, strict=True)
        ],
        dim=1,
    )
    error = _distance(cuda_table.run(prepared[0], x), expected)
    return [lambda p=p: cuda_table.run(p, x) for p in prepared], error


def token_rows(
    ceilings: Ceilings, rows: int, *, presets: Sequence[str] = PRESETS
) -> Generator[SpeedRow, None, None]:
    """Time the token layers of all blocks of DiT-XL/2, one after the other as in a forward pass.

    The layers' 892 MB of dense weights pass through the L2 cache by themselves. The products take
    inputs that are there already; attention and what else lies between is left out.

    Parameters
    ----------
    ceilings
        Of the device.
    rows
        M: tokens of all images and of both branches of guidance.
    presets
        Whose codecs.
    """
    kinds = {kind.name: kind for kind in DIT_XL_2 if kind.name != MODULATION}
    inputs = {
        columns: torch.randn(rows, columns, device="cuda").to(torch.bfloat16)
        for columns in {kind.shape[1] for kind in kinds.values()}
    }
    blocks = kinds["attn1.to_q"].blocks
    weights = sum(kind.weights for kind in kinds.values())
    arithmetic = 2 * rows * weights / ceilings.product
    dense = _dense_parts(kinds)
    belt = Belt(torch.device("cuda"), torch.bfloat16, overlap=False)
    apart = [token_linear([part], "hold", belt) for block in dense for part in block.values()]
    joined = [token_linear(parts, "hold", belt) for block in dense for parts in _joined(block)]
    works: dict[str, Work] = {
        "dense": captured(lambda: _pass(apart, inputs)),
        "dense, one product for q, k, v": captured(lambda: _pass(joined, inputs)),
    }
    read = dict.fromkeys(works, 2 * weights)
    belts: list[Belt] = []
    for name in presets:
        coded = {n: coded_layers(name, kind, device="cuda") for n, kind in kinds.items()}
        all_layers = [weight for layers in coded.values() for weight in layers]
        parts = [
            {n: _coded_part(layers[block]) for n, layers in coded.items()}
            for block in range(blocks)
        ]
        for overlap in (False, True):
            way = name + (", decoding aside" if overlap else "")
            belts.append(Belt(torch.device("cuda"), torch.bfloat16, overlap=overlap))
            linears = [
                linear
                for block in parts
                for groups in _stops(block)
                for linear in token_linears(groups, "decode", belts[-1])
            ]
            belts[-1].make_buffers()
            works[way] = captured(lambda ls=linears, b=belts[-1]: _pass(ls, inputs, b))
            read[way] = sum(map(stored_bytes, all_layers)) + pool_bytes(all_layers)
            if not overlap:
                works[f"{name}: decoding alone"] = captured(
                    lambda b=belts[-1], n=3 * blocks: _decode_all(b, n)
                )
        read[f"{name}: decoding alone"] = read[name]
    times = time_together(works, device="cuda", rounds=12, passes=2 if rows > 1000 else 4)
    peak = peak_details("cuda")
    for way, timing in times.items():
        alone = way.endswith("alone")
        moved = read[way] / ceilings.copy
        yield SpeedRow(
            work=f"token layers, M={rows}",
            way=way,
            timing=timing,
            floor=moved if alone else max(moved, arithmetic),
            bytes=read[way],
            flops=0.0 if alone else 2 * rows * weights,
            details=peak,
        )


def _pass(linears: Sequence[TokenLinear], inputs: dict[int, Tensor], belt: Belt | None = None):
    if belt is not None:
        belt.start()
    for linear in linears:
        linear(inputs[_columns(linear)])


def _decode_all(belt: Belt, stops: int) -> None:
    for place in range(stops):
        belt.take(place)


def _columns(linear: Any) -> int:
    weight = getattr(linear, "weight", None)
    return linear.parts[0].shape[1] if weight is None else weight.shape[1]


def _joined(block: dict[str, Part]) -> list[list[Part]]:
    rest = [[part] for name, part in block.items() if name not in QKV]
    return [[block[name] for name in QKV], *rest]


def _stops(block: dict[str, Part]) -> list[list[list[Part]]]:
    """Cut a block as the runtime does into Linears that are decoded together."""
    qkv, *rest = _joined(block)
    return [[qkv, rest[0]], *([parts] for parts in rest[1:])]


def _dense_parts(kinds: dict[str, LayerKind]) -> list[dict[str, Part]]:
    blocks = next(iter(kinds.values())).blocks
    return [
        {
            name: Part(
                shape=kind.shape,
                bias=torch.randn(kind.shape[0], device="cuda").to(torch.bfloat16),
                decoder=decode_into,
                dense=torch.randn(kind.shape, device="cuda").to(torch.bfloat16),
            )
            for name, kind in kinds.items()
        }
        for _ in range(blocks)
    ]


def _coded_part(weight: CodedWeight) -> Part:
    bias = torch.randn(weight.shape[0], device=weight.codes.device).to(torch.bfloat16)
    return Part(shape=weight.shape, bias=bias, decoder=decode_into, coded=weight)


def _decoded(weight: CodedWeight) -> Tensor:
    out = torch.empty(weight.shape, device=weight.codes.device)
    decode_into(weight, out)
    return out


def _repeated(works: Sequence[Work], times: int) -> Work:
    def all_of_them() -> object:
        return [works[i % len(works)]() for i in range(times)]

    return all_of_them


def _distance(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected).norm() / expected.norm())
