"""Which product is computed how: a pure table, tested without the devices it speaks of."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from dpqlab.errors import BackendError
from dpqlab.kernels import Backend
from dpqlab.kernels.linears import RULES, Problem, choose_linear

NUMBA = Backend(name="numba", devices=("cpu",), available=True, reason="here")
CUDA = Backend(name="cuda", devices=("cuda",), available=True, reason="here")
TRITON = Backend(name="triton", devices=("cuda",), available=True, reason="here")
TORCH = Backend(name="torch", devices=(), available=True, reason="the reference")
NO_TRITON = replace(TRITON, available=False, reason="triton is missing")
ALL = (NUMBA, CUDA, TRITON, TORCH)
WIDE = Problem(
    rows=1,
    out=6912,
    columns=1152,
    d=8,
    k=256,
    device="cpu",
    dtype=torch.float32,
    pool_bytes=1 << 20,
)


def chosen(wanted: str | None = None, offered: Any = ALL, **changes: Any) -> tuple[str, str]:
    rule = choose_linear(replace(WIDE, **changes), wanted, offered)
    return rule.backend, rule.method


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ("numba", "table")),
        ({"rows": 98}, ("numba", "decode")),
        ({"k": 65_536}, ("numba", "decode")),  # tables would cost more than they save
        ({"dtype": torch.float64}, ("torch", "decode")),
        ({"device": "cuda", "rows": 512}, ("triton", "decode")),
        ({"device": "cuda", "rows": 512, "dtype": torch.bfloat16}, ("cuda", "decode")),
        ({"device": "cuda", "dtype": torch.bfloat16, "pool_bytes": 8192}, ("triton", "decode")),
        ({"device": "cuda", "dtype": torch.bfloat16, "d": 6}, ("triton", "decode")),
        ({"device": "cuda", "dtype": torch.bfloat16, "columns": 1156}, ("triton", "decode")),
        ({"device": "cuda", "dtype": torch.bfloat16, "k": 2048}, ("triton", "decode")),
        (
            {"device": "cuda", "dtype": torch.bfloat16, "stored": torch.float32},
            ("triton", "decode"),
        ),
        ({"device": "cuda", "stored": torch.float64}, ("torch", "decode")),
        ({"device": "mps"}, ("torch", "decode")),
    ],
)
def test_the_table(changes: dict[str, Any], expected: tuple[str, str]) -> None:
    assert chosen(**changes) == expected


def test_a_missing_backend_leaves_the_next_rule() -> None:
    assert chosen(offered=(NUMBA, NO_TRITON, TORCH), device="cuda") == ("torch", "decode")
    assert chosen(offered=(TORCH,)) == ("torch", "decode")


def test_one_can_ask_for_a_backend() -> None:
    assert chosen("torch") == ("torch", "decode")
    assert chosen("triton", device="cuda")[0] == "triton"


@pytest.mark.parametrize(
    ("wanted", "changes", "offered", "why"),
    [
        ("numba", {"device": "cuda"}, ALL, "cpu only"),
        ("triton", {"device": "cuda"}, (NUMBA, NO_TRITON, TORCH), "triton is missing"),
        ("numba", {"dtype": torch.float64}, ALL, "no product"),
        ("abacus", {}, ALL, "expected one of numba, cuda, triton, torch"),
    ],
)
def test_refusals_say_why(wanted: str, changes: Any, offered: Any, why: str) -> None:
    with pytest.raises(BackendError, match=why):
        chosen(wanted, offered, **changes)


def test_every_problem_has_a_rule() -> None:
    assert RULES[-1].fits(replace(WIDE, device="tpu", rows=10**9, dtype=torch.float64))
