"""What the tests of the Triton kernels share: weights, an oracle, the interpreter, machine code."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dpqlab.kernels.coded import CodedWeight
from tests.kernels.random_weights import random_weight
from tests.processes import call_in

# (out, in), d, k, scopes, extras. Codes are random bytes: where k is no power of two, many lie
# beyond the codebook. Rows start within a byte, columns end within a sub-vector or a tile.
RAGGED: list[tuple[tuple[int, int], int, int, str, tuple[str, ...]]] = [
    ((70, 96), 4, 256, "position", ()),
    ((70, 96), 4, 512, "layer", ("scale",)),
    ((33, 50), 8, 5, "position", ("scale", "table")),
    ((20, 50), 3, 5, "layer", ("scale",)),
    ((20, 31), 1, 600, "layer", ("table",)),
    ((20, 70), 6, 5000, "layer", ("scale",)),
    ((9, 70), 12, 60, "position", ()),
    ((3, 70), 1024, 60, "layer", ("scale",)),
    ((5, 40), 16, 40_000, "layer", ("scale",)),
    ((7, 9), 2, 1, "position", ()),
]


def weight_of(case: int, dtype: torch.dtype = torch.float16) -> CodedWeight:
    """Draw the weight of a case, its pool and scale of ``dtype``."""
    shape, d, k, scopes, extras = RAGGED[case]
    weight = random_weight(shape, d, k, scopes=scopes, extras=extras)
    scale = None if weight.scale is None else weight.scale.to(dtype)
    return replace(weight, pool=weight.pool.to(dtype), scale=scale)


def by_definition(weight: CodedWeight) -> Tensor:
    """Decode in float32, bit by bit as :mod:`dpqlab.core.packing` describes the stream; on CPU."""
    (out, columns), b = weight.shape, weight.code_bits
    stream = np.unpackbits(weight.codes.cpu().numpy(), bitorder="little")
    bits = stream[: out * weight.positions * b].reshape(out, weight.positions, b)
    codes = torch.from_numpy((bits * (1 << np.arange(b))).sum(-1))
    entry = weight.first.cpu() + torch.minimum(codes, weight.size.cpu() - 1)
    if weight.table is not None:
        entry = weight.table.cpu()[entry]
    rows = weight.pool.cpu().float()[entry.long()].reshape(out, -1)[:, :columns]
    return rows if weight.scale is None else rows * weight.scale.cpu().float()[:, None]


def run_interpreted(code: str) -> None:
    """Run code in a process where Triton interprets: that is chosen when it is imported."""
    call_in("interpreter", exec, code, {}, TRITON_INTERPRET="1").result()


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Instructions of a kernel compiled for an H100, by name, such as ``LDG.E.64``."""

    counts: Counter[str]

    def of(self, start: str) -> int:
        """How many instructions have a name that starts so."""
        return sum(n for name, n in self.counts.items() if name.startswith(start))


def compiled(
    kernel: Any, pointers: dict[str, str], constants: dict[str, Any], **options: int
) -> Machine:
    """Compile for sm_90, which takes no GPU, and read the instructions.

    Pointers are aligned to 16 bytes; sizes are int32 and multiples of 16, as in DiT-XL/2.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = kernel.arg_names
    sizes = {n: "i32" for n in names if n not in pointers and n not in constants}
    aligned = {*pointers, *sizes}
    signature = {n: pointers.get(n) or sizes.get(n) or "constexpr" for n in names}
    source = ASTSource(
        fn=kernel,
        signature=signature,
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in aligned},
    )
    built = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    lines = (text.rpartition("\t")[2] for text in built.asm["sass"].splitlines() if "\t" in text)
    # after the predicate, such as @!P0, comes the name
    names = (re.match(r"(?:@!?U?P\w+ )?([A-Z]\w+[\w.]*)", line) for line in lines)
    return Machine(counts=Counter(name[1] for name in names if name))
