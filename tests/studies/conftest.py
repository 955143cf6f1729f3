"""A tiny model, and a study of one of its pools."""

from __future__ import annotations

from typing import Any

import pytest

from dpqlab.core import CodebookCodec
from dpqlab.nn import Plan
from dpqlab.studies.codewords import CodewordStudy, study_of
from tests.tiny import tiny_dit

CODEC = CodebookCodec(d=2, k=8, scope="position", across="kind", iterations=4)
PLAN = Plan.for_blocks(CODEC, name="tiny")
LAYER = "transformer_blocks.1.attn1.to_q"


@pytest.fixture(scope="package")
def model() -> Any:
    """The model; tests must not change it."""
    return tiny_dit().requires_grad_(False)


@pytest.fixture(scope="package")
def study(model: Any) -> CodewordStudy:
    """The pool of both layers of a kind; tests must not change it."""
    return study_of(model, PLAN, LAYER)
