from __future__ import annotations

import pytest
import torch
from torch import nn

from dpqlab.core import CodebookCodec, Codec, ScalarCodec
from dpqlab.nn.forecast import forecast_
from dpqlab.nn.plan import Plan, Rule
from dpqlab.nn.surgery import compress_

CODECS: dict[str, Codec] = {
    "scalar, a shorter last group": ScalarCodec(bits=3, group_size=16),
    "fewer rows than codewords": CodebookCodec(d=4, k=64, row_scale=True),
    "a width that d does not divide": CodebookCodec(d=3, k=8),
    "shared by unequal layers": CodebookCodec(d=4, k=16, scope="layer", across="model"),
}


@pytest.mark.parametrize("case", CODECS)
def test_equals_the_ledger_of_what_was_compressed(case: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 24), nn.LayerNorm(24), nn.Linear(24, 9, bias=False))
    plan = Plan(rules=(Rule(pattern="*", codec=CODECS[case]),), rest_dtype="float16")
    with torch.device("meta"):
        empty = nn.Sequential(nn.Linear(40, 24), nn.LayerNorm(24), nn.Linear(24, 9, bias=False))
    assert forecast_(empty, plan) == compress_(model, plan).ledger
