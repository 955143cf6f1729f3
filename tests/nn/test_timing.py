"""Seconds that a compression is said to take: where they are booked, and that they are near."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from dpqlab.core import CodebookCodec, PoolConfig, ScalarCodec
from dpqlab.nn import timing
from dpqlab.nn.plan import Coding, Plan
from dpqlab.nn.surgery import compress_
from dpqlab.nn.targets import targets_of
from dpqlab.nn.timing import Rates, rates_of, seconds_of
from tests.tiny import tiny_dit

KIND = CodebookCodec(d=4, k=16, scope="layer", across="kind", iterations=5)
RATES = Rates(start=1.0, iteration=0.1, encode=10.0, settle=100.0)


def booked(
    coding: Coding | CodebookCodec | ScalarCodec, monkeypatch: pytest.MonkeyPatch
) -> dict[str, float]:
    monkeypatch.setattr(timing, "rates_of", lambda coding, device: RATES)
    return seconds_of(targets_of(tiny_dit(), Plan.for_blocks({"attn1.to_q": coding})))


def test_what_layers_share_counts_for_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    count = 32 * 32 // 4
    own = booked(replace(KIND, across="layer"), monkeypatch)
    assert set(own.values()) == {count * (10.0 + 1.0 + 5 * 0.1)}
    shared = booked(KIND, monkeypatch)
    assert list(shared) == [f"transformer_blocks.{i}.attn1.to_q" for i in range(2)]
    assert list(shared.values()) == [count * 10.0 + 2 * count * (1.0 + 5 * 0.1), count * 10.0]


def test_squeezing_counts_more_the_more_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = booked(KIND, monkeypatch)
    totals = [
        sum(booked(Coding(codec=KIND, pool=pool), monkeypatch).values())
        for pool in (
            PoolConfig(budget=10.0, form="ragged"),
            PoolConfig(budget=0.05, form="ragged"),
            PoolConfig(budget=0.05, form="indexed"),
        )
    ]
    assert sum(plain.values()) < totals[0] < totals[1] < totals[2]


def test_scalar_codes_have_no_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    found = booked(ScalarCodec(bits=2, group_size=16), monkeypatch)
    assert set(found.values()) == {32 * 32 * 10.0}


@pytest.mark.parametrize(
    "coding",
    [
        Coding(codec=KIND),
        Coding(codec=replace(KIND, scope="position", across="layer"), pool=PoolConfig()),
        Coding(codec=ScalarCodec(bits=1, group_size=32)),
    ],
    ids=lambda coding: coding.codec.describe(),
)
def test_rates_are_measured(coding: Coding) -> None:
    rates = rates_of(coding)
    assert 0 < rates.encode < 1e-3
    assert rates.start >= 0
    assert rates.iteration >= 0
    assert (rates.settle > 0) == (coding.pool is not None)


@pytest.mark.slow
@pytest.mark.parametrize("across", ["layer", "kind"])
def test_the_estimate_is_near(across: Any) -> None:
    codec = CodebookCodec(d=8, k=256, scope="layer", across=across, row_scale=True)
    torch.manual_seed(0)
    model = nn.Module()
    blocks = [nn.ModuleDict({"up": nn.Linear(1024, 1024)}) for _ in range(6)]
    model.transformer_blocks = nn.ModuleList(blocks)
    plan = Plan.for_blocks(codec)
    expected = sum(seconds_of(targets_of(model, plan)).values())
    started = time.perf_counter()
    compress_(model, plan)
    found = time.perf_counter() - started
    assert expected / 5 < found < expected * 5
