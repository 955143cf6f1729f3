"""Geometry and starting weights of the bundled DiTs (diffusers' ``DiTTransformer2DModel``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from diffusers import DiTTransformer2DModel

FASHION_DIT: dict[str, Any] = {
    "num_attention_heads": 6,
    "attention_head_dim": 64,
    "num_layers": 8,
    "in_channels": 1,
    "out_channels": 1,
    "sample_size": 28,
    "patch_size": 4,
    "num_embeds_ada_norm": 10,
}
"""Width 384, 8 blocks, 49 tokens, about 22 M parameters with one embedder."""

AVATARS_DIT: dict[str, Any] = FASHION_DIT | {
    "in_channels": 3,
    "out_channels": 3,
    "sample_size": 64,
    "num_embeds_ada_norm": 15,
}
"""The same at 64x64 in colour: 256 tokens, as many as DiT-XL/2 has."""

DIT_XL_2: dict[str, Any] = {
    "num_attention_heads": 16,
    "attention_head_dim": 72,
    "num_layers": 28,
    "in_channels": 4,
    "out_channels": 8,
    "sample_size": 32,
    "patch_size": 2,
    "num_embeds_ada_norm": 1000,
}
"""DiT-XL/2 for 256x256 images (Peebles & Xie, arXiv 2212.09748, table 4): the latents of a VAE,
width 1152, 28 blocks, 256 tokens, 675 M parameters with one embedder; learned variance."""


def make_dit(geometry: dict[str, Any]) -> DiTTransformer2DModel:
    """Build a DiT ready for training: adaLN-Zero start, one embedder shared by all blocks.

    Two traits of diffusers' class are mended here. Every block owns a copy of the timestep and
    label embedder: they are tied to one. Each copy drops labels on its own while training, so that
    hardly any sample loses its label in all blocks and the null class stays untrained: dropping is
    switched off, to be done once, outside.
    """
    from diffusers import DiTTransformer2DModel

    model: Any = DiTTransformer2DModel(**geometry)
    embedder = model.transformer_blocks[0].norm1.emb
    embedder.class_embedder.dropout_prob = 0.0
    for block in model.transformer_blocks:
        block.norm1.emb = embedder
    start_adaln_zero_(model)
    return model


def start_adaln_zero_(model: nn.Module) -> None:
    """Set DiT's starting weights in place (Peebles & Xie, arXiv 2212.09748, section 3.2).

    Xavier-uniform Linears, zero biases, and zero weights where a block's branch or the output
    begins, so that every block starts as the identity.
    """
    dit: Any = model
    for module in dit.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    nn.init.xavier_uniform_(dit.pos_embed.proj.weight.flatten(1))  # a view of the patches as rows
    nn.init.zeros_(dit.pos_embed.proj.bias)
    for block in dit.transformer_blocks:
        embedder = block.norm1.emb
        nn.init.normal_(embedder.timestep_embedder.linear_1.weight, std=0.02)
        nn.init.normal_(embedder.timestep_embedder.linear_2.weight, std=0.02)
        nn.init.normal_(embedder.class_embedder.embedding_table.weight, std=0.02)
    zero = [block.norm1.linear for block in dit.transformer_blocks]
    for linear in [*zero, dit.proj_out_1, dit.proj_out_2]:
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
