"""The original DiT's forward pass, written from its paper and for nothing but comparison.

Class-conditional DiT with adaLN-zero (Peebles & Xie, arXiv 2212.09748, section 3.2): patches plus a
fixed table of sines, blocks of attention and MLP modulated by the embedded timestep and class, a
modulated linear layer at the end. Tensors carry the names under which that model stores them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def random_state(
    *, width: int, heads: int, depth: int, side: int, patch: int, channels: int, classes: int
) -> dict[str, Tensor]:
    """Return random weights; large ones, so that every part shows in the output."""
    del heads
    generator = torch.Generator().manual_seed(0)

    def linear(name: str, rows: int, columns: int) -> dict[str, Tensor]:
        weight = torch.randn(rows, columns, generator=generator) * columns**-0.5
        return {f"{name}.weight": weight, f"{name}.bias": torch.randn(rows, generator=generator)}

    state = linear("x_embedder.proj", width, channels * patch**2)
    state["x_embedder.proj.weight"] = state["x_embedder.proj.weight"].reshape(
        width, channels, patch, patch
    )
    state |= linear("t_embedder.mlp.0", width, 256) | linear("t_embedder.mlp.2", width, width)
    state["y_embedder.embedding_table.weight"] = torch.randn(
        classes + 1, width, generator=generator
    )
    state["pos_embed"] = positions(width, side // patch)[None]
    for block in range(depth):
        name = f"blocks.{block}"
        state |= linear(f"{name}.attn.qkv", 3 * width, width)
        state |= linear(f"{name}.attn.proj", width, width)
        state |= linear(f"{name}.mlp.fc1", 4 * width, width)
        state |= linear(f"{name}.mlp.fc2", width, 4 * width)
        state |= linear(f"{name}.adaLN_modulation.1", 6 * width, width)
    state |= linear("final_layer.adaLN_modulation.1", 2 * width, width)
    return state | linear("final_layer.linear", patch**2 * 2 * channels, width)


def positions(width: int, side: int) -> Tensor:
    """Return the table (side * side, width): half of it of the column, half of the row."""
    grid = torch.arange(side, dtype=torch.float64)
    rows, columns = grid.repeat_interleave(side), grid.repeat(side)
    return torch.cat([sines(columns, width // 2), sines(rows, width // 2)], 1).float()


def sines(at: Tensor, width: int) -> Tensor:
    """Return sines, then cosines, of frequencies from 1 down to 1/10000."""
    rates = 10_000.0 ** -(torch.arange(width // 2, dtype=torch.float64) / (width // 2))
    angles = at[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], 1)


def forward(state: dict[str, Tensor], x: Tensor, t: Tensor, y: Tensor, *, heads: int) -> Tensor:
    """Return the predicted noise and variance, (N, 2C, H, W)."""

    def linear(name: str, value: Tensor) -> Tensor:
        return F.linear(value, state[f"{name}.weight"], state[f"{name}.bias"])

    def modulated(value: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        normed = F.layer_norm(value, value.shape[-1:], eps=1e-6)
        return normed * (1 + scale[:, None]) + shift[:, None]

    kernel = state["x_embedder.proj.weight"]
    patch, width = kernel.shape[-1], kernel.shape[0]
    tokens = F.conv2d(x, kernel, state["x_embedder.proj.bias"], stride=patch)
    h = tokens.flatten(2).transpose(1, 2) + state["pos_embed"]
    rates = torch.exp(-math.log(10_000) * torch.arange(128) / 128)
    angles = t[:, None].float() * rates
    embedded = torch.cat([angles.cos(), angles.sin()], 1)
    c = linear("t_embedder.mlp.2", F.silu(linear("t_embedder.mlp.0", embedded)))
    c = F.silu(c + state["y_embedder.embedding_table.weight"][y])
    depth = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks."))
    for block in range(depth):
        name = f"blocks.{block}"
        a, b, gate_1, d, e, gate_2 = linear(f"{name}.adaLN_modulation.1", c).chunk(6, 1)
        qkv = linear(f"{name}.attn.qkv", modulated(h, a, b))
        q, k, v = qkv.unflatten(2, (3, heads, width // heads)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        h = h + gate_1[:, None] * linear(f"{name}.attn.proj", mixed)
        hidden = F.gelu(linear(f"{name}.mlp.fc1", modulated(h, d, e)), approximate="tanh")
        h = h + gate_2[:, None] * linear(f"{name}.mlp.fc2", hidden)
    shift, scale = linear("final_layer.adaLN_modulation.1", c).chunk(2, 1)
    out = linear("final_layer.linear", modulated(h, shift, scale))
    side = x.shape[-1] // patch
    out = out.unflatten(1, (side, side)).unflatten(3, (patch, patch, -1))
    return out.permute(0, 5, 1, 3, 2, 4).reshape(len(x), -1, side * patch, side * patch)
