"""A DiT and its sampler in plain PyTorch, for machines without diffusers.

Of the same shapes, names and amount of work as diffusers' ``DiTTransformer2DModel`` and
``DDIMScheduler``; weights are random. It serves to measure how work spreads over GPUs, where only
the amount of work counts. Needs what dpqlab needs, and no more.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FREQUENCIES = 256


class Embedder(nn.Module):
    """Timestep and label to one vector (N, width)."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.timestep_embedder = nn.Sequential(
            nn.Linear(FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width)
        )
        self.class_embedder = nn.Embedding(classes + 1, width)

    def forward(self, timestep: Tensor, labels: Tensor) -> Tensor:
        """Embed."""
        half = torch.arange(FREQUENCIES // 2, device=labels.device)
        angles = timestep[:, None].float() * torch.exp(-9.21 * half / (FREQUENCIES // 2))
        waves = torch.cat([angles.cos(), angles.sin()], 1)
        first: Any = self.timestep_embedder[0]
        return self.timestep_embedder(waves.to(first.weight.dtype)) + self.class_embedder(labels)


class Modulation(nn.Module):
    """adaLN: six vectors (N, 1, width) from the shared embedder."""

    def __init__(self, width: int, emb: Embedder) -> None:
        super().__init__()
        self.emb = emb
        self.linear = nn.Linear(width, 6 * width)

    def forward(self, timestep: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        """Modulate."""
        return self.linear(F.silu(self.emb(timestep, labels)))[:, None].chunk(6, -1)


class Attention(nn.Module):
    """Self-attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, x: Tensor) -> Tensor:
        """Attend."""
        parts = (layer(x).unflatten(-1, (self.heads, -1)) for layer in (self.to_q, self.to_k))
        q, k = (part.transpose(1, 2) for part in parts)
        v = self.to_v(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        return self.to_out[0](F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Gelu(nn.Module):
    """A Linear and its GELU."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, inner)

    def forward(self, x: Tensor) -> Tensor:
        """Apply."""
        return F.gelu(self.proj(x), approximate="tanh")


class Block(nn.Module):
    """A block with adaLN."""

    def __init__(self, width: int, heads: int, emb: Embedder) -> None:
        super().__init__()
        self.norm1 = Modulation(width, emb)
        self.attn1 = Attention(width, heads)
        self.ff = nn.Module()
        self.ff.net = nn.ModuleList(
            [Gelu(width, 4 * width), nn.Identity(), nn.Linear(4 * width, width)]
        )

    def forward(self, x: Tensor, timestep: Tensor, labels: Tensor) -> Tensor:
        """Apply."""
        shift, scale, gate, shift2, scale2, gate2 = self.norm1(timestep, labels)
        width = x.shape[-1:]
        x = x + gate * self.attn1(F.layer_norm(x, width) * (1 + scale) + shift)
        h = F.layer_norm(x, width) * (1 + scale2) + shift2
        for layer in self.ff.net:  # pyright: ignore[reportGeneralTypeIssues]
            h = layer(h)
        return x + gate2 * h


class PlainDiT(nn.Module):
    """A DiT of a geometry such as ``dpqlab.diffusion.dit.AVATARS_DIT``."""

    def __init__(self, geometry: dict[str, Any]) -> None:
        super().__init__()
        config = self.config = SimpleNamespace(**geometry)
        heads = config.num_attention_heads
        width = heads * config.attention_head_dim
        patch, side = config.patch_size, config.sample_size // config.patch_size
        emb = Embedder(width, config.num_embeds_ada_norm)
        self.patches = nn.Conv2d(config.in_channels, width, patch, stride=patch)
        self.places = nn.Parameter(torch.randn(1, side * side, width) * 0.02)
        blocks = [Block(width, heads, emb) for _ in range(config.num_layers)]
        self.transformer_blocks = nn.ModuleList(blocks)
        self.last = nn.Linear(width, patch * patch * config.out_channels)

    def forward(self, hidden_states: Tensor, timestep: Tensor, class_labels: Tensor) -> Any:
        """Return an object whose ``sample`` is the prediction (N, C, H, W)."""
        config = self.config
        x = self.patches(hidden_states).flatten(2).transpose(1, 2) + self.places
        for block in self.transformer_blocks:
            x = block(x, timestep, class_labels)
        x = self.last(F.layer_norm(x, x.shape[-1:])).transpose(1, 2)
        side = config.sample_size // config.patch_size
        x = x.unflatten(2, (side, side)).flatten(2)
        size = (config.sample_size, config.sample_size)
        return SimpleNamespace(sample=F.fold(x, size, config.patch_size, stride=config.patch_size))


class PlainDDIM:
    """DDIM on DDPM's linear schedule, as far as dpqlab's sampler asks for it."""

    init_noise_sigma = 1.0

    def __init__(self) -> None:
        betas = torch.linspace(1e-4, 0.02, 1000)
        self.alphas_cumprod = (1 - betas).cumprod(0)
        self.config: dict[str, Any] = {"prediction_type": "epsilon"}
        self.timesteps = torch.empty(0, dtype=torch.int64)

    def set_timesteps(self, steps: int, device: str) -> None:
        """Space the steps trailing."""
        self.timesteps = torch.arange(1000, 0, -1000 / steps).round().long() - 1

    def scale_model_input(self, sample: Tensor, timestep: Tensor) -> Tensor:
        """Leave the image as it is."""
        return sample

    def step(self, predicted: Tensor, timestep: Tensor, sample: Tensor) -> Any:
        """Take a step."""
        after = int((self.timesteps < timestep).sum())
        alpha = self.alphas_cumprod[int(timestep)]
        following = self.timesteps[len(self.timesteps) - after :]
        target = self.alphas_cumprod[int(following[0])] if after else torch.ones(())
        predicted = predicted[:, : sample.shape[1]]
        clean = ((sample - (1 - alpha).sqrt() * predicted) / alpha.sqrt()).clamp(-1, 1)
        noise = (sample - alpha.sqrt() * clean) / (1 - alpha).sqrt()
        return SimpleNamespace(prev_sample=target.sqrt() * clean + (1 - target).sqrt() * noise)
