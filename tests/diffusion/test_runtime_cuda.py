"""The runtime on a GPU: bfloat16, graphs, decoding ahead, and the size it is meant for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from dpqlab.core import CodebookCodec
from dpqlab.diffusion import SampleRequest, make_scheduler, sample_images, sample_steps
from dpqlab.diffusion.dit import DIT_XL_2
from dpqlab.diffusion.runtime import DiTRuntime, RuntimeConfig, prepare_runtime
from dpqlab.nn import Plan, compress_
from tests.tiny import tiny_dit

pytestmark = [
    pytest.mark.gpu,
    # in diffusers, which hands a tensor to numpy
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

REQUEST = SampleRequest(labels=(3, 0, 9, 3), seed=5, steps=5, guidance=2.5)
# 64 wide, so that every kernel has whole tiles, and more blocks than there are buffers
SMALL: dict[str, Any] = {"attention_head_dim": 32, "num_layers": 4, "patch_size": 2}
EVERY = [
    RuntimeConfig(modulation=modulation, linear=linear)
    for modulation in ("ahead", "per step")
    for linear in ("decode", "kernel", "hold")
]


def small(*, coded: bool) -> Any:
    model = tiny_dit(**SMALL)
    if coded:
        compress_(model, Plan.for_blocks(CodebookCodec(d=4, k=16, row_scale=True, iterations=2)))
    return model.to("cuda")


def error(ours: Tensor, expected: Tensor) -> float:
    return ((ours.float() - expected.float()).norm() / expected.float().norm()).item()


def inputs(model: Any, count: int) -> tuple[Tensor, Tensor, Tensor]:
    config, parameter = model.config, next(model.parameters())
    side, classes = config.sample_size, config.num_embeds_ada_norm
    x = torch.randn(count, config.in_channels, side, side).to(parameter)
    labels = torch.tensor([classes, 0, 3, 1] * count)[:count].to("cuda")
    return x, torch.full((count,), 777, device="cuda"), labels


@torch.no_grad()
def plain(model: Any, x: Tensor, times: Tensor, labels: Tensor) -> Tensor:
    return model(x, timestep=times, class_labels=labels).sample


def result(runtime: DiTRuntime, x: Tensor, times: Tensor, labels: Tensor) -> Tensor:
    return runtime(x, timestep=times, class_labels=labels).sample


@pytest.mark.parametrize("graphs", [False, True])
@pytest.mark.parametrize("config", EVERY, ids=lambda c: f"{c.modulation}-{c.linear}")
@pytest.mark.parametrize("coded", [False, True])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 2e-3), (torch.float16, 5e-3), (torch.bfloat16, 3e-2)]
)
def test_it_is_the_same_function(dtype, tolerance, coded, config, graphs):
    """Looking products up costs float32 some digits; half precision rounds at other places."""
    model = small(coded=coded)
    x, times, labels = inputs(model, 4)
    exact = plain(model, x, times, labels)
    model = model.to(dtype)
    runtime = prepare_runtime(model, replace(config, graphs=graphs))
    ours = result(runtime, x.to(dtype), times, labels)
    assert ours.dtype == dtype
    assert error(ours, exact) < tolerance
    assert error(ours, exact) < 2 * error(plain(model, x.to(dtype), times, labels), exact) + 1e-3


@pytest.mark.parametrize("modulation", ["ahead", "per step"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_graphs_and_overlap_change_no_bit(dtype, modulation):
    model = small(coded=True).to(dtype)
    results: list[list[Tensor]] = []
    for graphs in (False, True):
        for overlap in (False, True):
            config = RuntimeConfig(modulation=modulation, graphs=graphs, overlap=overlap)
            runtime = prepare_runtime(model, config)
            torch.manual_seed(1)
            results.append([result(runtime, *inputs(model, n)) for n in (4, 1, 4, 3)])
    for other in results[1:]:
        for ours, expected in zip(other, results[0], strict=True):
            assert torch.equal(ours, expected)


def test_overlap_is_never_too_early():
    """Each layer is multiplied with its own weight, however the two streams run."""
    model = small(coded=True)
    serial = prepare_runtime(model, RuntimeConfig(graphs=False, overlap=False))
    overlapped = prepare_runtime(model, RuntimeConfig(overlap=True))
    for count in (1, 2, 8, 32):
        x, times, labels = inputs(model, count)
        expected = result(serial, x, times, labels)
        for _ in range(20):
            assert torch.equal(result(overlapped, x, times, labels), expected)


def test_a_result_is_not_written_over():
    model = small(coded=False)
    runtime = prepare_runtime(model)
    x, times, labels = inputs(model, 2)
    first = result(runtime, x, times, labels)
    kept = first.clone()
    result(runtime, 2 * x, times, labels)
    assert torch.equal(first, kept)


def test_many_signatures():
    """More batch sizes than graphs are kept."""
    model = small(coded=True)
    runtime = prepare_runtime(model)
    for count in [*range(1, 12), 1, 11]:
        x, times, labels = inputs(model, count)
        assert error(result(runtime, x, times, labels), plain(model, x, times, labels)) < 1e-4
    assert runtime.weight_bytes.graphs > 0


@pytest.mark.parametrize("modulation", ["ahead", "per step"])
@pytest.mark.parametrize("coded", [False, True])
def test_sampling_end_to_end(coded, modulation):
    model = small(coded=coded)
    runtime = prepare_runtime(model, RuntimeConfig(modulation=modulation))
    expected = sample_images(model, make_scheduler(), REQUEST)
    squared = (sample_images(runtime, make_scheduler(), REQUEST) - expected.double()).square()
    assert squared.mean() < 255**2 / 10**4  # 40 dB


def test_sampling_waits_for_the_device_at_its_end_only():
    model = small(coded=False)
    runtime = prepare_runtime(model)
    sample_images(runtime, make_scheduler(), REQUEST)  # captured, tables of labels made
    steps = sample_steps(runtime, make_scheduler(), REQUEST)
    next(steps)  # the table of modulations
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in steps:
            pass
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("modulation", ["ahead", "per step"])
@pytest.mark.parametrize("preset", [None, "dpq-2bit", "best-1bit"])
def test_dit_xl_2(preset, modulation):
    from dpqlab.speed.models import code_randomly_, random_dit

    model = random_dit(DIT_XL_2, device="cuda", dtype=torch.bfloat16, tied=False)
    if preset is not None:
        code_randomly_(model, preset)
    x, times, labels = inputs(model, 2)
    runtime = prepare_runtime(model, RuntimeConfig(modulation=modulation))
    expected = plain(model, x, times, labels)
    ours = result(runtime, x, times, labels)
    assert ours.shape == (2, 8, 32, 32)
    assert error(ours, expected) < 5e-2
    serial = RuntimeConfig(modulation=modulation, overlap=False, graphs=False)
    assert torch.equal(result(prepare_runtime(model, serial), x, times, labels), ours)
    if preset is not None:
        assert runtime.weight_bytes.scratch == 2 * 2 * 4608 * 1152 or modulation == "ahead"
