"""A tiny teacher, its compressed student, and images to calibrate on."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from dpqlab.calibration import CalibrationConfig, CalibrationData, EStepConfig
from dpqlab.core import CodebookCodec
from dpqlab.core.assignment import AssignmentConfig
from dpqlab.diffusion.schedules import make_scheduler
from dpqlab.nn import Plan, compress_
from tests.tiny import tiny_dit

PQ = CodebookCodec(d=4, k=8, row_scale=True, iterations=2)
VQ_KIND = CodebookCodec(d=4, k=16, scope="layer", across="kind", iterations=2)
CONFIG = CalibrationConfig(
    steps=30, batch=16, warmup=3, holdout=32, every=5, learning_rate=0.05, cuda_graph=False
)

QUICK = EStepConfig(refresh="model", assignment=AssignmentConfig(candidates=4, sweeps=1))


@pytest.fixture(autouse=True)
def models_are_tiny(one_thread: None) -> None:
    """Run every test of this folder on one thread."""


@pytest.fixture(scope="session")
def teacher() -> Any:
    """The full-precision model; tests must not change it."""
    return tiny_dit().requires_grad_(False)


@pytest.fixture(scope="session")
def compressed() -> Callable[..., Any]:
    """``compressed(codec)``: a student of the teacher, a new one at each call."""
    made: dict[CodebookCodec, Any] = {}

    def make(codec: CodebookCodec = PQ) -> Any:
        if codec not in made:
            model = tiny_dit()
            compress_(model, Plan.for_blocks(codec))
            made[codec] = model
        return copy.deepcopy(made[codec])

    return make


@pytest.fixture
def student(compressed: Callable[..., Any]) -> Any:
    """A PQ student to do anything with."""
    return compressed()


@pytest.fixture(scope="session")
def data() -> CalibrationData:
    """96 smooth images of three classes; tests must not change it."""
    generator = torch.Generator().manual_seed(3)
    coarse = torch.rand(96, 1, 2, 2, generator=generator)
    images = torch.nn.functional.interpolate(coarse, size=8, mode="bilinear")
    scheduler: Any = make_scheduler()
    return CalibrationData(
        images=(images * 255).to(torch.uint8),
        labels=torch.arange(96) % 3,
        alphas=scheduler.alphas_cumprod,
    )


@pytest.fixture
def config() -> CalibrationConfig:
    """30 steps, judged every 5."""
    return replace(CONFIG)
