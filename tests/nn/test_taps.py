"""Collecting the outputs of blocks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dpqlab.errors import ConfigError
from dpqlab.nn.taps import block_outputs


class Tuple(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, None]:
        return x * 2, None


def test_collects_in_order_and_removes_its_hooks() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4))
    x = torch.ones(1, 2, requires_grad=True)
    with block_outputs(model, ["1", model[0]]) as outputs:
        y = model(x)
        assert [tuple(o.shape) for o in outputs] == [(1, 3), (1, 4)]
        assert outputs[1] is y
        outputs[0].sum().backward()
    assert x.grad is not None
    model(x)
    assert len(outputs) == 2


def test_tuples_and_exceptions() -> None:
    model = nn.Module()
    model.transformer_blocks = nn.ModuleList([Tuple()])
    with pytest.raises(RuntimeError, match="stop"), block_outputs(model) as outputs:
        model.transformer_blocks[0](torch.ones(2))
        raise RuntimeError("stop")
    assert outputs[0].tolist() == [2, 2]
    assert not model.transformer_blocks[0]._forward_hooks


def test_unknown_blocks_are_refused_before_hooking() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(ConfigError, match="no module named 'x'"), block_outputs(model, ["0", "x"]):
        pass
    assert not model[0]._forward_hooks
    with pytest.raises(ConfigError, match="no transformer_blocks"), block_outputs(model):
        pass
