"""A guided step through the runtime is the guided step of the plain model."""

from __future__ import annotations

import pytest
import torch

from dpqlab.diffusion.dit import FASHION_DIT
from dpqlab.speed.models import code_randomly_, random_dit
from dpqlab.speed.sampler import Contender, runtime_contenders, step_rows

TINY = FASHION_DIT | {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 16}


@pytest.mark.parametrize("name", ["dense", "dpq-1bit", "best-2bit"])
def test_contenders_agree(name: str) -> None:
    model = random_dit(TINY, device="cpu", dtype=torch.float32)
    if name != "dense":
        code_randomly_(model, name)
    contenders = (Contender(name="plain", model=model), *runtime_contenders(name, model))
    rows = list(step_rows(contenders, 2, "cpu"))
    assert [row.images for row in rows] == [2, 2, 2]
    assert rows[0].error is None
    for row in rows[1:]:
        assert row.error is not None
        assert row.error < 1e-5
        assert row.timing.median > 0
        assert (row.bytes["codes"] > 0) == (name != "dense")
