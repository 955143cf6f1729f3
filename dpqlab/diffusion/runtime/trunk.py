"""What a DiT does with an image, given the modulations: patches, blocks, output layer.

The order of operations is that of diffusers' ``DiTTransformer2DModel`` in evaluation mode; where
one operation follows another without a product between, they are one function here, so that a
device can make one kernel of them.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dpqlab.diffusion.runtime.belt import Belt
from dpqlab.diffusion.runtime.config import Held, LinearMode
from dpqlab.diffusion.runtime.linears import Gelu, TokenLinear, token_linear, token_linears
from dpqlab.diffusion.runtime.modulation import Layout
from dpqlab.diffusion.runtime.parts import Decoder, Part
from dpqlab.errors import ConfigError


@dataclass(frozen=True, kw_only=True, eq=False)
class Block:
    """The products of one block, and the epsilons of its two norms."""

    qkv: TokenLinear
    out: TokenLinear
    up: TokenLinear
    down: TokenLinear
    gelu: Gelu
    heads: int
    eps_attention: float
    eps_feed_forward: float

    def attention(self, x: Tensor) -> Tensor:
        """Return the attention branch of normalized tokens (N, T, width)."""
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1))  # (N, T, 3, heads, head width)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.out(mixed.transpose(1, 2).flatten(2))

    def feed_forward(self, x: Tensor) -> Tensor:
        """Return the feed-forward branch of normalized tokens (N, T, width)."""
        return self.down(self.up(x, gelu=self.gelu))

    def held(self) -> Iterator[Held]:
        """Yield the tensors kept."""
        for linear in (self.qkv, self.out, self.up, self.down):
            yield from linear.held()


class Trunk:
    """The forward pass from noisy images and rows of modulations to the prediction.

    Parameters
    ----------
    transformer
        A diffusers DiT; what can be shared with it is.
    layout
        Where a row has what.
    mode
        What packed layers do.
    belt
        Through which they are decoded.
    decoder
        How.
    """

    def __init__(
        self, transformer: Any, layout: Layout, mode: LinearMode, belt: Belt, decoder: Decoder
    ) -> None:
        config = transformer.config
        self.layout, self.belt = layout, belt
        self.patch, self.out_channels = config.patch_size, transformer.out_channels
        self.side = config.sample_size // config.patch_size
        patches = transformer.pos_embed
        self.patch_weight = patches.proj.weight.detach()
        self.patch_bias = patches.proj.bias.detach()
        self.positions = patches.pos_embed
        self.blocks = tuple(
            _block(block, f"transformer_blocks.{i}", mode, belt, decoder)
            for i, block in enumerate(transformer.transformer_blocks)
        )
        self.eps_last = transformer.norm_out.eps
        last = Part.of(transformer.proj_out_2, "proj_out_2", decoder)
        self.last = token_linear([last], mode, belt)
        self.norms = elementwise(belt.device)

    def __call__(self, x: Tensor, rows: Tensor) -> Tensor:
        """Return the prediction (N, out_channels, H, W).

        Parameters
        ----------
        x
            Noisy images (N, C, H, W), in the dtype computed in.
        rows
            Modulations (N, total).
        """
        self.belt.start()
        norms, count = self.norms, len(self.blocks)
        h = self._patches(x)
        shift, scale, *_ = self.layout.block(rows, 0)
        normed = norms.norm_modulate(h, shift, scale, self.blocks[0].eps_attention)
        for index, block in enumerate(self.blocks):
            _, _, gate, shift, scale, next_gate = self.layout.block(rows, index)
            y = block.attention(normed)
            h, normed = norms.gate_add_norm_modulate(
                h, y, gate, shift, scale, block.eps_feed_forward
            )
            y = block.feed_forward(normed)
            if index + 1 < count:
                shift, scale, *_ = self.layout.block(rows, index + 1)
                eps = self.blocks[index + 1].eps_attention
            else:
                (shift, scale), eps = self.layout.last(rows), self.eps_last
            h, normed = norms.gate_add_norm_modulate(h, y, next_gate, shift, scale, eps)
        return self._image(self.last(normed))

    def held(self) -> Iterator[Held]:
        """Yield the tensors kept."""
        yield "dense", self.patch_weight
        yield "biases", self.patch_bias
        yield "dense", self.positions
        for block in self.blocks:
            yield from block.held()
        yield from self.last.held()

    def _patches(self, x: Tensor) -> Tensor:
        """Embed the patches of images: (N, T, width)."""
        n, channels = x.shape[:2]
        grid = x.reshape(n, channels, self.side, self.patch, self.side, self.patch)
        flat = grid.permute(0, 2, 4, 1, 3, 5).reshape(n, self.side**2, -1)
        tokens = F.linear(flat, self.patch_weight.flatten(1), self.patch_bias)
        # the positions may be float32 where the model is not: added there, then rounded
        return (tokens + self.positions).to(tokens.dtype)

    def _image(self, tokens: Tensor) -> Tensor:
        """Put patches (N, T, patch * patch * channels) back into their places."""
        grid = tokens.unflatten(1, (self.side, self.side))
        grid = grid.unflatten(-1, (self.patch, self.patch, self.out_channels))
        whole = self.side * self.patch
        return torch.einsum("nhwpqc->nchpwq", grid).reshape(-1, self.out_channels, whole, whole)


def elementwise(device: torch.device) -> Any:
    """Return the module with norms and gates for a device: fused kernels on CUDA."""
    if device.type == "cuda" and importlib.util.find_spec("triton") is not None:
        return importlib.import_module("dpqlab.kernels.triton_norm")
    return importlib.import_module("dpqlab.kernels.norms")


def _block(block: Any, name: str, mode: LinearMode, belt: Belt, decoder: Decoder) -> Block:
    _check_block(block, name)
    attention, up, down = block.attn1, block.ff.net[0], block.ff.net[2]

    def parts(**layers: Any) -> list[Part]:
        return [Part.of(layer, f"{name}.{key}", decoder) for key, layer in layers.items()]

    three = parts(to_q=attention.to_q, to_k=attention.to_k, to_v=attention.to_v)
    # as many weights as either layer of the feed-forward branch: three launches of one size
    qkv, out = token_linears([three, parts(to_out=attention.to_out[0])], mode, belt)
    return Block(
        qkv=qkv,
        out=out,
        up=token_linear(parts(up=up.proj), mode, belt),
        down=token_linear(parts(down=down), mode, belt),
        gelu=up.approximate,
        heads=attention.heads,
        eps_attention=block.norm1.norm.eps,
        eps_feed_forward=block.norm3.eps,
    )


def _check_block(block: Any, name: str) -> None:
    """Refuse what the fused forward pass would leave out."""
    attention, up = block.attn1, block.ff.net[0]
    trouble = {
        "a norm with weights": getattr(block.norm3, "weight", None) is not None,
        "cross attention": block.attn2 is not None,
        "normalized queries": attention.norm_q is not None,
        "a residual inside of attention": attention.residual_connection,
        "scaled attention": attention.rescale_output_factor != 1,
        f"the activation {type(up).__name__}": type(up).__name__ != "GELU",
    }
    found = [what for what, there in trouble.items() if there]
    if found:
        raise ConfigError(
            f"{name} has {', '.join(found)}: a runtime takes the DiT of Peebles and Xie only; "
            "sample with the transformer itself"
        )
