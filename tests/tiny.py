"""A DiT small enough to sample in milliseconds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from dpqlab.diffusion.dit import make_dit

TINY: dict[str, Any] = {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "num_layers": 2,
    "in_channels": 1,
    "out_channels": 1,
    "sample_size": 8,
    "patch_size": 4,
    "num_embeds_ada_norm": 10,
}

TINY_AVATARS: dict[str, Any] = TINY | {
    "in_channels": 3,
    "out_channels": 3,
    "sample_size": 64,
    "patch_size": 16,
    "num_embeds_ada_norm": 15,
}
"""Draws what ``avatars-dit`` draws."""


def tiny_dit(**changes: Any) -> Any:
    """A random model whose blocks and labels do something (adaLN-Zero starts as the identity)."""
    torch.manual_seed(0)
    model: Any = make_dit(TINY | changes).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.05)
    gates = [block.norm1.linear for block in model.transformer_blocks]
    for linear in [*gates, model.proj_out_1, model.proj_out_2]:
        torch.nn.init.normal_(linear.weight, std=0.2)
    embedder = model.transformer_blocks[0].norm1.emb
    torch.nn.init.normal_(embedder.class_embedder.embedding_table.weight)
    return model


@contextmanager
def forwards_of(model: Any) -> Iterator[list[int]]:
    """Collect the batch size of every forward pass."""
    sizes: list[int] = []
    handle = model.register_forward_hook(lambda module, args, output: sizes.append(len(args[0])))
    try:
        yield sizes
    finally:
        handle.remove()
