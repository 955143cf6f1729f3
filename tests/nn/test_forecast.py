from __future__ import annotations

import pytest
import torch
from torch import nn

from dpqlab.core import CodebookCodec, Codec, PoolConfig, ScalarCodec
from dpqlab.nn.forecast import forecast_
from dpqlab.nn.plan import Coding, Plan, Rule
from dpqlab.nn.surgery import compress_
from tests.tiny import tiny_dit

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


@pytest.mark.parametrize("budget", [1.5, 50.0])
def test_a_ragged_pool_takes_no_more_than_its_budget_or_what_k_means_makes(budget: float) -> None:
    codec = CodebookCodec(d=4, k=8, across="kind", iterations=1)
    pool = PoolConfig(budget=budget, merge=0.0, form="ragged", refits=0)
    plan = Plan.for_blocks({"attn1.to_q": Coding(codec=codec, pool=pool)})
    expected = forecast_(tiny_dit(), plan).layers
    found = compress_(tiny_dit(), plan).ledger.layers
    stored, codes = sum(x.pool + x.table for x in found), sum(x.codes for x in found)
    most = min(budget * sum(x.codes for x in expected), 16 * 4 * 8 * 8 + 32 * 8)
    assert sum(x.pool for x in expected) == int(most)
    assert stored <= most
    assert codes <= sum(x.codes for x in expected)
