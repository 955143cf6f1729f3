"""Products on a CPU: the workloads are what they say, the results those of dense weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dpqlab.diffusion.dit import FASHION_DIT
from dpqlab.kernels import numba_available
from dpqlab.nn import CompressedLinear
from dpqlab.speed import Ceilings, cpu
from dpqlab.speed.cpu import CpuWorkload, cpu_rows, cpu_workloads, layers_of
from dpqlab.speed.models import coded_like, random_dit

TINY = FASHION_DIT | {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 16}
CEILINGS = Ceilings(copy=1e9, product=1e9)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def model() -> Any:
    """A small DiT with random weights."""
    return random_dit(TINY, device="cpu", dtype=torch.float32)


def test_layers_are_all_of_the_blocks(model: Any) -> None:
    coded = coded_like(model, "no-such-model")("best-1bit")
    modulation = layers_of(coded, modulation=True)
    tokens = layers_of(coded, modulation=False)
    assert [one.weight.shape for one in modulation] == [(192, 32)] * 2
    assert len(tokens) == 2 * 6
    assert all(one.bias is not None and one.bias.dtype == torch.float32 for one in tokens)
    assert not any(isinstance(m, CompressedLinear) for m in model.modules()), "it is a copy"


def test_the_shipped_weights_are_taken_where_there_are_some(model: Any) -> None:
    shipped: Any = coded_like(model, "fashion-dit")("best-1bit")
    assert shipped.config.num_layers == 8
    assert isinstance(shipped.transformer_blocks[0].attn1.to_q, CompressedLinear)


def test_workloads_have_the_rows_of_guided_images(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "XL_WIDTH", 64)
    monkeypatch.setattr(cpu, "XL_COPIES", 2)
    workloads = cpu_workloads(model, "tiny")
    assert [workload.rows for workload in workloads] == [1, 2, 98, 392, 512]
    shapes = [one.weight.shape for one in workloads[0].layers("best-1bit")]
    assert shapes == [(384, 64)] * 2
    block = [one.weight.shape for one in workloads[-1].layers("dpq-1bit")]
    assert block == [(64, 64)] * 4 + [(256, 64), (64, 256)]


@pytest.mark.parametrize("rows", [1, 40])
def test_a_row_says_what_it_takes(model: Any, rows: int) -> None:
    coded = coded_like(model, "no-such-model")
    layers = {name: layers_of(coded(name), modulation=True) for name in ("dpq-1bit", "best-2bit")}
    workload = CpuWorkload(name="some work", rows=rows, layers=layers.__getitem__)
    dense, *ours = cpu_rows(workload, list(layers), CEILINGS, rounds=2)
    weights = 2 * 192 * 32
    assert (dense.way, dense.bytes, dense.error) == ("dense", 4 * weights, None)
    arithmetic = 2 * rows * weights / 1e9
    assert dense.floor == max(4 * weights / 1e9, arithmetic if rows > 4 else 0)
    assert [row.way for row in ours] == list(layers)
    for row in ours:
        assert row.work == "some work"
        assert row.flops == 2 * rows * weights
        assert row.error is not None
        assert row.error < 1e-5
        assert len(row.timing.rounds) == 2
    if numba_available():
        best = next(row for row in ours if row.way == "best-2bit")
        # 32 codewords are few beside 192 rows of the weight, 256 are not
        assert best.details["method"] == ("numba table" if rows == 1 else "numba decode")
    one = layers["best-2bit"][0].weight
    stored = sum(layer.weight.codes.numel() + 2 * 192 for layer in layers["best-2bit"])
    assert ours[1].bytes == stored + one.pool.nbytes, "the pool of a kind counts once"
