"""What a student is asked to match."""

from __future__ import annotations

import pytest
import torch

from dpqlab.calibration import distillation
from dpqlab.errors import ConfigError


def test_by_hand():
    mine = (torch.tensor([[1.0, 2.0]]), [torch.tensor([[2.0, 0.0]]), torch.tensor([[5.0, 5.0]])])
    theirs = (torch.tensor([[0.0, 4.0]]), [torch.tensor([[1.0, 2.0]]), torch.tensor([[4.0, 3.0]])])
    # output: (1 + 4) / 2; blocks: (1 + 4) / (1 + 4) and (1 + 4) / (16 + 9)
    loss = distillation(mine, theirs, feature_weight=0.5)
    assert loss.output.item() == 2.5
    assert loss.features.item() == pytest.approx((1.0 + 0.2) / 2)
    assert loss.total.item() == pytest.approx(2.5 + 0.5 * 0.6)
    assert distillation(mine, theirs, feature_weight=0.0).total.item() == 2.5


def test_equal_models_have_no_loss():
    blocks = [torch.randn(2, 3, 4) for _ in range(3)]
    out = torch.randn(2, 1, 4, 4)
    loss = distillation((out, blocks), (out.clone(), blocks), feature_weight=1.0)
    assert (loss.total.item(), loss.output.item(), loss.features.item()) == (0, 0, 0)


def test_a_block_counts_by_its_relative_error():
    """The scale of a block, which grows with depth, makes no difference."""
    out = torch.zeros(1, 1)
    mine, theirs = torch.randn(2, 3), torch.randn(2, 3)
    small = distillation((out, [mine]), (out, [theirs]), feature_weight=1.0)
    large = distillation((out, [100 * mine]), (out, [100 * theirs]), feature_weight=1.0)
    assert small.features.item() == pytest.approx(large.features.item())


def test_half_precision_is_compared_in_float32():
    big = torch.full((4,), 300.0, dtype=torch.float16)  # its square overflows
    loss = distillation((big, [big]), (-big, [-big]), feature_weight=1.0)
    assert loss.total.dtype == torch.float32
    assert loss.output.item() == 360_000
    assert loss.features.item() == 4


@pytest.mark.parametrize(("mine", "theirs"), [(1, 2), (2, 1), (0, 0)])
def test_blocks_that_do_not_match_are_refused(mine, theirs):
    x = torch.ones(2)
    with pytest.raises(ConfigError, match=f"student has {mine} blocks, teacher {theirs}"):
        distillation((x, [x] * mine), (x, [x] * theirs), feature_weight=0.1)
