"""A tiny teacher and a compressed student of it."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from dpqlab.core import CodebookCodec
from dpqlab.diffusion.sampling import SampleRequest
from dpqlab.nn import Plan, compress_
from dpqlab.tracing import Pair, Trace, TraceConfig, trace
from tests.tiny import tiny_dit

REQUEST = SampleRequest(labels=(0, 3, 7, 1, 9), steps=4, seed=3)
CONFIG = TraceConfig(batch=2, pictures=3, shown=3)


@pytest.fixture(autouse=True)
def models_are_tiny(one_thread: None) -> None:
    """Run every test of this folder on one thread."""


@pytest.fixture(scope="session")
def teacher() -> Any:
    """The full-precision model; tests must not change it."""
    return tiny_dit(num_layers=3)


@pytest.fixture(scope="session")
def student(teacher: Any) -> Any:
    """Its compressed copy; tests must not change it."""
    model = copy.deepcopy(teacher)
    compress_(model, Plan.for_blocks(CodebookCodec(d=4, k=16, row_scale=True, iterations=2)))
    return model


@pytest.fixture(scope="session")
def pair(teacher: Any, student: Any) -> Pair:
    """Both, drawn with DDIM."""
    return Pair(teacher=teacher, student=student, teacher_name="tiny", student_name="tiny-pq")


@pytest.fixture(scope="session")
def traced(pair: Pair) -> Trace:
    """A trace of five images in batches of two; tests must not change it."""
    return trace(pair, REQUEST, CONFIG)
