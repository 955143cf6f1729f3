"""Tying and untying the embedders of a DiT."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dpqlab.errors import ConfigError
from dpqlab.nn.embedder import is_embedder, tie_embedders_, tied_groups, untie_embedders_


class Norm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.emb = nn.Sequential(nn.Linear(2, 3))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1 = Norm()
        self.act = nn.GELU()


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.transformer_blocks = nn.ModuleList(Block() for _ in range(3))


def equal_model() -> Model:
    model = Model()
    for block in model.transformer_blocks:
        block.load_state_dict(model.transformer_blocks[0].state_dict())
    return model


def test_tie_and_untie() -> None:
    model = equal_model()
    assert tied_groups(model) == []
    assert tie_embedders_(model) == 2
    names = tuple(f"transformer_blocks.{i}.norm1.emb" for i in range(3))
    assert tied_groups(model) == [names]
    assert tie_embedders_(model) == 0
    assert sum(p.numel() for p in model.parameters()) == 9
    assert untie_embedders_(model) == 2
    assert tied_groups(model) == []
    assert untie_embedders_(model) == 0


def test_different_embedders_are_not_tied() -> None:
    model = equal_model()
    with torch.no_grad():
        model.transformer_blocks[2].norm1.emb[0].bias[0] += 1
    with pytest.raises(ConfigError, match="differs from the first block's"):
        tie_embedders_(model)
    assert tied_groups(model) == []


def test_a_shared_activation_is_no_tied_group() -> None:
    model = Model()
    model.transformer_blocks[1].act = model.transformer_blocks[0].act
    assert tied_groups(model) == []


def test_models_without_embedders_are_left_alone() -> None:
    assert tie_embedders_(nn.Linear(2, 2)) == 0


def test_is_embedder() -> None:
    assert is_embedder("transformer_blocks.0.norm1.emb.timestep_embedder.linear_1.weight")
    assert is_embedder("transformer_blocks.0.norm1.emb")
    assert not is_embedder("transformer_blocks.0.norm1.embedding")
    assert not is_embedder("transformer_blocks.0.norm1.linear")
