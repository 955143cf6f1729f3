"""The steps between the products of a DiT block, against the block of diffusers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dpqlab.kernels import norms


class Products(torch.nn.Module):
    """Stands for an attention or a feed-forward: some function of its input."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor, *_: object, **__: object) -> Tensor:
        return (self.factor * x).sin().flip(1)


class Given(torch.nn.Module):
    """Stands for the layer of the modulations: what they are, whatever comes in."""

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.values = values

    def forward(self, *_: object, **__: object) -> Tensor:
        return self.values


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
def test_a_block_of_diffusers(dtype: torch.dtype, tolerance: float) -> None:
    attention = pytest.importorskip("diffusers.models.attention")
    block = attention.BasicTransformerBlock(
        48, 4, 12, num_embeds_ada_norm=10, norm_type="ada_norm_zero", norm_elementwise_affine=False
    )
    modulation = torch.randn(3, 6 * 48).to(dtype)
    block.norm1.emb = block.norm1.silu = torch.nn.Identity()
    block.norm1.emb = Given(modulation)
    block.norm1.linear = Given(modulation)
    block.attn1, block.ff = Products(1.3), Products(0.7)
    x = (2 * torch.randn(3, 5, 48) + 1).to(dtype)
    expected = block(x, timestep=torch.zeros(3), class_labels=torch.zeros(3, dtype=torch.long))

    shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = modulation.chunk(6, dim=1)
    y = block.attn1(norms.norm_modulate(x, shift, scale, block.norm1.norm.eps))
    h, normed = norms.gate_add_norm_modulate(x, y, gate, shift_mlp, scale_mlp, block.norm3.eps)
    got = norms.gate_add(h, block.ff(normed), gate_mlp)
    assert got.dtype == dtype
    torch.testing.assert_close(got, expected, rtol=tolerance, atol=10 * tolerance)


def test_each_image_has_its_modulation() -> None:
    x, modulation = torch.randn(4, 3, 8), torch.randn(3, 4, 8)
    shift, scale, gate = modulation
    normed = norms.norm_modulate(x, shift, scale)
    added = norms.gate_add(x, normed, gate)
    for i in range(4):
        alone = norms.norm_modulate(x[i : i + 1], shift[i : i + 1], scale[i : i + 1])
        assert torch.equal(normed[i : i + 1], alone)
        assert torch.equal(added[i], x[i] + gate[i] * normed[i])


def test_one_rounding() -> None:
    x = (3 + torch.randn(2, 4, 64)).bfloat16()
    shift, scale = torch.randn(2, 2, 64).bfloat16()
    expected = norms.norm_modulate(x.float(), shift.float(), scale.float()).bfloat16()
    assert torch.equal(norms.norm_modulate(x, shift, scale), expected)
