"""How a product with a compressed weight is computed: one table of rules, read from top to bottom.

The choice is a pure function of the problem (rows of x, shape, codec, device) and of the backends
that a machine offers. ``DPQLAB_BACKEND`` overrides it.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from dpqlab.errors import BackendError
from dpqlab.kernels.coded import CodedWeight
from dpqlab.kernels.dispatch import VARIABLE, Backend, backends

Method = Literal["table", "fused", "decode"]


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What decides how a product is computed.

    Attributes
    ----------
    rows
        M, the rows of x.
    out, columns
        Shape of the weight.
    d, k
        Length of a sub-vector, and codewords of the largest codebook.
    device
        Type of the device: ``"cpu"``, ``"cuda"`` or another.
    dtype, stored
        Of x, and of the codewords.
    pool_bytes
        Of all codewords that the weight may use.
    """

    rows: int
    out: int
    columns: int
    d: int
    k: int
    device: str
    dtype: torch.dtype
    stored: torch.dtype = torch.float16
    pool_bytes: int = 0

    @classmethod
    def of(cls, x: Tensor, weight: CodedWeight) -> Problem:
        """Describe ``x @ W.T`` without looking at values."""
        out, columns = weight.shape
        return cls(
            rows=x.numel() // max(columns, 1),
            out=out,
            columns=columns,
            d=weight.d,
            k=min(1 << weight.code_bits, len(weight.pool)),
            device=x.device.type,
            dtype=x.dtype,
            stored=weight.pool.dtype,
            pool_bytes=weight.pool.nbytes,
        )

    @property
    def known(self) -> bool:
        """Whether the kernels compute in float32 what the reference would."""
        return torch.float64 not in (self.dtype, self.stored)


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One line of the table: which problems a method is for.

    Attributes
    ----------
    backend, method
        ``"table"`` looks up sums of x with codewords, ``"fused"`` decodes inside of the product,
        ``"decode"`` decodes first and leaves the product to PyTorch's library.
    device
        Type of the device; empty for any.
    most_rows
        Largest M that it is for.
    most_words
        Largest table of a row of x it is for, as codewords to an output feature (k / out): making
        the tables must cost less than it saves.
    lengths
        Values of d that it is for, where rows are a multiple of 8 long; empty for any.
    most_k
        Largest codebook.
    halves
        Whether it is for float16 codewords and 16-bit x only.
    least_pool
        Bytes of the smallest pool.
    why
        In a few words.
    """

    backend: str
    method: Method
    device: str
    most_rows: float = float("inf")
    most_words: float = float("inf")
    lengths: tuple[int, ...] = ()
    most_k: float = float("inf")
    halves: bool = False
    least_pool: int = 0
    why: str

    def fits(self, problem: Problem) -> bool:
        """Say whether the rule is for ``problem``."""
        whole = not problem.columns % 8
        halves = problem.stored == torch.float16 and problem.dtype != torch.float32
        return (
            self.device in ("", problem.device)
            and problem.rows <= self.most_rows
            and problem.k <= min(self.most_words * problem.out, self.most_k)
            and (not self.lengths or (problem.d in self.lengths and whole))
            and (halves or not self.halves)
            and problem.pool_bytes >= self.least_pool
            and (self.backend == "torch" or problem.known)
        )


L1_POOL = 64 << 10
"""Bytes of a pool beyond which the L1 cache, which serves a GEMM beside it too, loses codewords."""

RULES: tuple[Rule, ...] = (
    Rule(
        backend="numba",
        method="table",
        device="cpu",
        most_rows=16,
        most_words=0.25,
        why="few rows: a look-up for each code instead of d products",
    ),
    Rule(
        backend="numba",
        method="decode",
        device="cpu",
        why="decodes a tile that stays in the cache, then a dense product",
    ),
    Rule(
        backend="cuda",
        method="decode",
        device="cuda",
        lengths=(4, 8),
        most_k=1024,
        halves=True,
        least_pool=L1_POOL,
        why="a large pool: decodes once through shared memory into the L2 cache, then cuBLAS",
    ),
    Rule(
        backend="triton",
        method="decode",
        device="cuda",
        why="the same for any codec, with codewords from the L1 cache",
    ),
    Rule(backend="torch", method="decode", device="", why="the reference"),
)
"""First rule that fits and whose backend is there wins."""

_PRODUCTS = {
    ("numba", "table"): ("dpqlab.kernels.numba_linear", "table_linear"),
    ("numba", "decode"): ("dpqlab.kernels.numba_linear", "decoded_linear"),
    ("triton", "fused"): ("dpqlab.kernels.triton_linear", "fused_linear"),
}
"""Products of backends; any other is the backend's decoder and PyTorch's own product."""
_DECODERS = {
    "numba": "dpqlab.kernels.numba_linear",
    "cuda": "dpqlab.kernels.cuda_decode",
    "triton": "dpqlab.kernels.triton_decode",
    "torch": "dpqlab.kernels.reference",
}


def choose_linear(problem: Problem, wanted: str | None, offered: Sequence[Backend]) -> Rule:
    """Return the rule for a problem.

    Parameters
    ----------
    problem
        What is to be computed.
    wanted
        A backend's name, or None for the first that fits.
    offered
        The backends of this machine.

    Raises
    ------
    BackendError
        If ``wanted`` is unknown, cannot run here, or has no method for the problem.
    """
    refusals = {backend.name: backend.refusal(problem.device) for backend in offered}
    for rule in RULES:
        named = wanted in (None, rule.backend)
        if named and rule.fits(problem) and refusals.get(rule.backend, "absent") is None:
            return rule
    if wanted not in refusals:
        raise BackendError(
            f"unknown backend: got {VARIABLE}={wanted}, expected one of {', '.join(refusals)}"
        )
    why = refusals[wanted] or f"it has no product for {problem}"
    raise BackendError(
        f"backend {wanted!r} was asked for but cannot be used: {why}; "
        f"unset {VARIABLE} or choose another"
    )


def chosen_linear(x: Tensor, weight: CodedWeight, bias: Tensor | None) -> Tensor:
    """Compute ``x @ W.T + bias`` for x (M, in) by the rule for it."""
    rule = rule_for(Problem.of(x, weight), os.environ.get(VARIABLE) or None)
    if (rule.backend, rule.method) in _PRODUCTS:
        module, name = _PRODUCTS[rule.backend, rule.method]
        return getattr(importlib.import_module(module), name)(x, weight, bias)
    decoder: Any = importlib.import_module(_DECODERS[rule.backend])
    return F.linear(x, decoder.decode(weight, x.dtype), None if bias is None else bias.to(x.dtype))


def chosen_decode(weight: CodedWeight, dtype: torch.dtype, out: Tensor | None = None) -> Tensor:
    """Decode a weight by the backend that its device's large products use."""
    module: Any = importlib.import_module(_DECODERS[decoder_for(weight, dtype)])
    return module.decode(weight, dtype, out)


def group_decodes(
    weights: Sequence[CodedWeight], outs: Sequence[Tensor]
) -> Callable[[], object] | None:
    """Return what decodes weights into buffers that stay, in few launches; None on the CPU.

    It copies nothing to the device and allocates nothing, so that a CUDA graph can capture it.
    """
    names = {decoder_for(weight, out.dtype) for weight, out in zip(weights, outs, strict=True)}
    if not names <= {"cuda", "triton"} or len(names) != 1:
        return None
    module: Any = importlib.import_module(_DECODERS[names.pop()])
    groups = module.group_decodes(weights, outs)
    return lambda: module.decode_many(groups)


def decoder_for(weight: CodedWeight, dtype: torch.dtype) -> str:
    """Name the backend that decodes a weight."""
    out, columns = weight.shape
    problem = Problem(
        rows=1 << 30,
        out=out,
        columns=columns,
        d=weight.d,
        k=1 << weight.code_bits,
        device=weight.codes.device.type,
        dtype=dtype,
        stored=weight.pool.dtype,
        pool_bytes=weight.pool.nbytes,
    )
    return rule_for(problem, os.environ.get(VARIABLE) or None).backend


@lru_cache(maxsize=4096)
def rule_for(problem: Problem, wanted: str | None = None) -> Rule:
    """Return the rule for a problem with this machine's backends: see :func:`choose_linear`."""
    return choose_linear(problem, wanted, backends())
