"""The starting point of training."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from dpqlab.diffusion.dit import FASHION_DIT, make_dit
from dpqlab.nn.embedder import tied_groups

GEOMETRY = FASHION_DIT | {"num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 3}


@pytest.fixture
def fresh() -> Any:
    torch.manual_seed(0)
    return make_dit(GEOMETRY)


def inputs(count: int = 4) -> dict[str, torch.Tensor]:
    return {
        "hidden_states": torch.randn(count, 1, 28, 28),
        "timestep": torch.arange(count) * 100,
        "class_labels": torch.arange(count),
    }


def test_every_block_starts_as_the_identity_and_the_output_as_zero(fresh):
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    for block in fresh.transformer_blocks:
        block.register_forward_hook(lambda module, args, output: seen.append((args[0], output)))
    assert torch.count_nonzero(fresh(**inputs()).sample) == 0
    assert len(seen) == 3
    for before, after in seen:
        assert torch.equal(before, after)
        assert before.std() > 0.1


def test_one_embedder_serves_all_blocks(fresh):
    names = tuple(f"transformer_blocks.{i}.norm1.emb" for i in range(3))
    assert tied_groups(fresh) == [names]


def test_labels_are_not_dropped_in_training_mode(fresh):
    for linear in (fresh.proj_out_1, fresh.proj_out_2):
        nn.init.normal_(linear.weight)
    fresh.train()
    given = {
        "hidden_states": torch.randn(1, 1, 28, 28).expand(200, -1, -1, -1),
        "timestep": torch.zeros(200, dtype=torch.int64),
        "class_labels": torch.full((200,), 4),
    }
    out = fresh(**given).sample
    torch.testing.assert_close(out, out[:1].expand_as(out))
    unlabelled = fresh(**given | {"class_labels": torch.full((200,), 10)}).sample
    assert (out - unlabelled).abs().max() > 1e-4


def test_weights_are_xavier_uniform(fresh):
    linear = fresh.transformer_blocks[1].ff.net[0].proj
    bound = math.sqrt(6 / (linear.in_features + linear.out_features))
    assert linear.weight.abs().max() <= bound
    assert linear.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
    assert torch.count_nonzero(linear.bias) == 0
    # a patch counts as a row of 16 inputs, unlike in a convolution's own default
    patches = fresh.pos_embed.proj.weight
    bound = math.sqrt(6 / (16 + 32))
    assert 0.9 * bound < patches.abs().max() <= bound
    embedder = fresh.transformer_blocks[0].norm1.emb
    for weight in (
        embedder.timestep_embedder.linear_1.weight,
        embedder.class_embedder.embedding_table.weight,
    ):
        assert weight.std().item() == pytest.approx(0.02, rel=0.15)


def test_gradients_reach_the_end_at_once_and_everything_after_a_step(fresh):
    loss = (fresh(**inputs()).sample - 1).square().mean()
    loss.backward()
    assert fresh.proj_out_2.weight.grad.abs().max() > 0
    with torch.no_grad():
        for parameter in fresh.parameters():
            if parameter.grad is not None:
                parameter -= 0.1 * parameter.grad
    for _ in range(2):
        fresh.zero_grad()
        (fresh(**inputs()).sample - 1).square().mean().backward()
        with torch.no_grad():
            for parameter in fresh.parameters():
                parameter -= 0.1 * parameter.grad
    idle = [n for n, p in fresh.named_parameters() if p.grad.abs().max() == 0]
    # attention does not see what is added to all keys alike
    assert [name for name in idle if not name.endswith("to_k.bias")] == []


def test_geometries_without_attention_bias():
    model: Any = make_dit(GEOMETRY | {"attention_bias": False})
    assert model.transformer_blocks[0].attn1.to_q.bias is None
    assert torch.count_nonzero(model(**inputs()).sample) == 0


def test_the_bundled_geometry():
    with torch.device("meta"):
        from diffusers import DiTTransformer2DModel

        model: Any = DiTTransformer2DModel(**FASHION_DIT)
    embedder = sum(p.numel() for p in model.transformer_blocks[0].norm1.emb.parameters())
    total = sum(p.numel() for p in model.parameters()) - 7 * embedder
    assert 21e6 < total < 23e6
