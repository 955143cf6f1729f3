"""The Linears of a model's blocks, read without the model."""

from __future__ import annotations

import pytest
import torch

from dpqlab.diffusion.pipeline import PixelDiTPipeline
from dpqlab.diffusion.schedules import make_scheduler
from dpqlab.nn import preset
from dpqlab.nn.targets import targets_of
from dpqlab.studies.bare_linears import linears_of
from dpqlab.studies.layer_weights import LayerWeights
from tests.tiny import tiny_dit


@pytest.mark.parametrize("name", ["dpq-4bit", "best-1bit"])
def test_a_plan_finds_the_same_targets_as_in_the_model(name, tmp_path):
    model = tiny_dit()
    PixelDiTPipeline(model, make_scheduler()).save_pretrained(tmp_path)
    bare = linears_of(LayerWeights.open(tmp_path))
    plan = preset(name)
    wanted = {target.name: target for target in targets_of(model, plan)}
    found = {target.name: target for target in targets_of(bare, plan)}
    assert found.keys() == wanted.keys()
    assert len(found) == 14
    for layer, target in found.items():
        assert torch.equal(target.linear.weight, wanted[layer].linear.weight)
        assert (target.codec, target.pool_key) == (wanted[layer].codec, wanted[layer].pool_key)
        assert not target.linear.weight.requires_grad
