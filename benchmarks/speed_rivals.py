"""What else multiplies with small weights on a GPU: AQLM's kernels, torchao, SDNQ.

None of them is a dependency: a rival that is not installed, or does not run here, is left out, with
the reason in the record. AQLM (1.1.7) builds its kernels with nvcc when it is first imported.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dpqlab.speed import (
    DIT_XL_2,
    MODULATION,
    Ceilings,
    LayerKind,
    SpeedRow,
    Timing,
    captured,
    time_together,
)

Work = Callable[[], object]
Product = Callable[[Tensor], Tensor]
TOKEN_KINDS = tuple(kind for kind in DIT_XL_2 if kind.name != MODULATION)


def rival_rows(
    rows: int, ceilings: Ceilings, names: Sequence[str] | None = None
) -> Iterator[SpeedRow]:
    """Time the token layers of all blocks by every rival that is here.

    Parameters
    ----------
    rows
        M, rows of the input.
    ceilings
        Of the device.
    names
        Of rivals; all where it is None.
    """
    inputs = {
        columns: torch.randn(rows, columns, device="cuda").to(torch.bfloat16)
        for columns in {kind.shape[1] for kind in TOKEN_KINDS}
    }
    for name, make in RIVALS.items():
        if names is not None and name not in names:
            continue
        try:
            products = [
                (make(kind), inputs[kind.shape[1]])
                for _ in range(TOKEN_KINDS[0].blocks)
                for kind in TOKEN_KINDS
            ]

            def once(products: Any = products) -> None:
                for product, x in products:
                    product(x)

            with torch.no_grad():
                times = _timed(name, captured(once))
        except Exception as error:  # a rival's trouble is not ours: say it, go on
            reason = " ".join(str(error).split())[:200]
            print(f"{name} does not run: {type(error).__name__}: {reason}", file=sys.stderr)
            continue
        weights = sum(kind.weights for kind in TOKEN_KINDS)
        yield SpeedRow(
            work=f"token layers, M={rows}",
            way=name,
            timing=times[name],
            floor=2 * rows * weights / ceilings.product,
            bytes=weights * BITS[name] // 8,
            flops=2 * rows * weights,
        )


def _timed(name: str, work: Work) -> dict[str, Timing]:
    """Time a rival in as many passes as it deserves: some take half a second."""
    trial = time_together({name: work}, device="cuda", rounds=1, passes=1)
    if trial[name].median > 0.02:
        return time_together({name: work}, device="cuda", rounds=4, passes=1)
    return time_together({name: work}, device="cuda", rounds=12, passes=4)


def aqlm_product(kind: LayerKind, books: int) -> Product:
    """Return AQLM's product for a layer of d=8 and ``books`` additive codebooks of 256.

    Up to 6 rows by its matrix-vector kernel, as its layer decides; more by decoding into a dense
    weight, then a dense product.
    """
    importlib.import_module("aqlm.inference_kernels.cuda_kernel")  # registers the operators
    out, columns = kind.shape
    codes = torch.randint(-128, 128, (out, columns // 8, books), device="cuda").to(torch.int8)
    codebooks = torch.randn(books, 256, 1, 8, device="cuda").to(torch.bfloat16)
    scales = torch.rand(out, 1, 1, 1, device="cuda").to(torch.bfloat16)
    bias = torch.randn(out, device="cuda").to(torch.bfloat16)
    few = getattr(torch.ops.aqlm, f"code{books}x8_matmat")
    many = getattr(torch.ops.aqlm, f"code{books}x8_matmat_dequant")

    def product(x: Tensor) -> Tensor:
        return (few if len(x) <= 6 else many)(x, codes, codebooks, scales, bias)

    return product


def torchao_product(kind: LayerKind, config: str) -> Product:
    """Return torchao's weight-only product, compiled, as its documentation advises."""
    quantization: Any = importlib.import_module("torchao.quantization")
    layer = _linear(kind)
    quantization.quantize_(layer, getattr(quantization, config)())
    compiled: Any = torch.compile(layer, fullgraph=True)
    return compiled


def sdnq_product(kind: LayerKind, dtype: str) -> Product:
    """Return SDNQ's product: weights unpacked and dequantized, then a dense one."""
    os.environ.setdefault("SDNQ_REGISTER_TRANSFORMERS", "0")
    sdnq: Any = importlib.import_module("sdnq")
    config = sdnq.SDNQConfig(weights_dtype=dtype, use_codebook=True)
    return sdnq.sdnq_post_load_quant(
        _linear(kind), torch_dtype=torch.bfloat16, quantization_config=config
    )


RIVALS: dict[str, Callable[[LayerKind], Product]] = {
    "AQLM 2x8": partial(aqlm_product, books=2),
    "AQLM 1x8": partial(aqlm_product, books=1),
    "torchao int8 weight-only": partial(torchao_product, config="Int8WeightOnlyConfig"),
    "torchao int4 weight-only": partial(torchao_product, config="Int4WeightOnlyConfig"),
    "SDNQ uint2": partial(sdnq_product, dtype="uint2"),
}
BITS = {
    "AQLM 2x8": 2,
    "AQLM 1x8": 1,
    "torchao int8 weight-only": 8,
    "torchao int4 weight-only": 4,
    "SDNQ uint2": 2,
}
"""Of a code; scales and codebooks come on top."""


def _linear(kind: LayerKind) -> nn.Module:
    out, columns = kind.shape
    with torch.device("cuda"):
        return nn.Sequential(nn.Linear(columns, out)).to(torch.bfloat16).requires_grad_(False)
