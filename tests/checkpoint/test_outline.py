"""The outline of a model is what diffusers builds, and costs the same whatever a config claims."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dpqlab.checkpoint import load_compressed
from dpqlab.checkpoint.layout import CONFIG
from dpqlab.checkpoint.load import inspect_folder
from dpqlab.checkpoint.model_config import MAX_TOKENS, build_skeleton, model_config_of
from dpqlab.checkpoint.outline import outline_of
from dpqlab.errors import CheckpointError
from dpqlab.nn.accounting import kept_tensors
from tests.bounded import bounded
from tests.checkpoint.forge import BLOCK, config_edit, dense_dit, json_edit, model_edit

CONFIGS: dict[str, dict[str, Any]] = {
    "one block": {"num_layers": 1},
    "twelve blocks": {"num_layers": 12},
    "no attention bias": {"attention_bias": False},
    "a gate": {"activation_fn": "geglu"},
    "affine norms": {"norm_elementwise_affine": True},
    "wider, other ends": {"attention_head_dim": 24, "in_channels": 3, "out_channels": 6},
}


@pytest.mark.parametrize("case", CONFIGS)
def test_outlines_are_what_diffusers_builds(case: str) -> None:
    config = model_config_of(dense_dit(**CONFIGS[case]))
    outline, model = outline_of(config), build_skeleton(config)
    assert outline.tensors == {name: tuple(t.shape) for name, t in kept_tensors(model)}
    assert outline.linears == {
        name: ((m.out_features, m.in_features), getattr(m, "bias", None) is not None)
        for name, m in model.named_modules()
        if type(m) is nn.Linear
    }


@pytest.mark.parametrize("blocks", [3, 255])
def test_no_model_is_built_of_blocks_that_are_not_listed(
    blocks: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(config: Mapping[str, Any]) -> nn.Module:
        pytest.fail(f"a model of {config['num_layers']} blocks was built")

    inspect_folder(folder)  # imports diffusers
    model_edit(num_layers=blocks)(folder)
    monkeypatch.setattr("dpqlab.checkpoint.load.build_skeleton", never)
    with bounded(2), pytest.raises(CheckpointError, match=r"safetensors.*\d+ more are missing"):
        load_compressed(folder)


def tie_everything(value: dict[str, Any]) -> None:
    value["tied"] = [[f"{BLOCK}.norm1.emb", [f"x{i}.y" for i in range(100_000)]]]


def test_many_ties_to_nothing_take_no_time(folder: Path) -> None:
    inspect_folder(folder)
    config_edit(tie_everything)(folder)
    with bounded(3), pytest.raises(CheckpointError, match="which the model does not have"):
        load_compressed(folder)


def test_patches_are_bounded(folder: Path) -> None:
    def enlarge(value: dict[str, Any]) -> None:
        value["sample_size"] = 4 * (int(MAX_TOKENS**0.5) + 1)

    json_edit(CONFIG, enlarge)(folder)
    with pytest.raises(CheckpointError, match="number of patches is 16641: expected 1 to 16384"):
        load_compressed(folder)


def test_the_most_patches_still_load(folder: Path) -> None:
    model_edit(sample_size=4 * int(MAX_TOKENS**0.5))(folder)
    table = load_compressed(folder).get_submodule("pos_embed").pos_embed
    assert isinstance(table, torch.Tensor)
    assert table.shape == (1, MAX_TOKENS, 32)
