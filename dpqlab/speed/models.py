"""Whole models to time: a DiT with random weights, dense or coded as a preset codes it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from dpqlab.core import scope_of_positions
from dpqlab.diffusion.models import bundled, load_pipeline
from dpqlab.nn.embedder import tie_embedders_
from dpqlab.nn.linear import CodebookTensors, CompressedLinear
from dpqlab.speed.workloads import LayerKind, codec_of, coded_layers, layer_kinds

if TYPE_CHECKING:
    from diffusers import DiTTransformer2DModel


def random_dit(
    geometry: dict[str, Any], *, device: str, dtype: torch.dtype, tied: bool = True
) -> DiTTransformer2DModel:
    """Build diffusers' DiT with random weights, on its device from the start.

    Parameters
    ----------
    geometry
        Arguments of ``DiTTransformer2DModel``, such as ``dpqlab.diffusion.dit.DIT_XL_2``.
    device, dtype
        Where, and of what.
    tied
        Whether all blocks share one embedder, as in the original DiT.
    """
    from diffusers import DiTTransformer2DModel

    torch.manual_seed(0)
    with torch.device(device):
        model: Any = DiTTransformer2DModel(**geometry)
    if tied:
        first = model.transformer_blocks[0].norm1.emb
        for block in model.transformer_blocks:
            block.norm1.emb = first
        tie_embedders_(model)
    return model.to(dtype).eval().requires_grad_(False)


def coded_like(model: nn.Module, title: str) -> Callable[[str], nn.Module]:
    """Return what makes a DiT as a preset codes it, given the full-precision one.

    Parameters
    ----------
    model
        On its device; it stays as it is.
    title
        Its name. Where ``title-preset`` is bundled, that one is loaded; else the layers get random
        codes, which take the same time.
    """
    shipped = {entry.name for entry in bundled()}
    first = next(model.parameters())

    def coded(preset: str) -> nn.Module:
        if f"{title}-{preset}" in shipped:
            pipeline = load_pipeline(f"{title}-{preset}", device=first.device)
            return pipeline.transformer.to(first.dtype).requires_grad_(False)
        copied = copy.deepcopy(model)
        code_randomly_(copied, preset)
        return copied

    return coded


def code_randomly_(model: Any, name: str) -> None:
    """Replace the Linears inside the blocks by random codes, as preset ``name`` codes them."""
    blocks = model.transformer_blocks
    width = blocks[0].attn1.to_q.in_features
    for kind in layer_kinds(width, len(blocks)):
        _code_kind_(model, name, kind)


def _code_kind_(model: Any, name: str, kind: LayerKind) -> None:
    codec = codec_of(name, kind)
    device = next(model.parameters()).device
    coded = coded_layers(name, kind, device=str(device))
    pools: dict[int, nn.Parameter] = {}
    for block, weight in zip(model.transformer_blocks, coded, strict=True):
        old = block.get_submodule(kind.name)
        scopes = int(scope_of_positions(codec.scope, weight.positions, codec.group)[-1]) + 1
        pool = pools.setdefault(
            weight.pool.data_ptr(), nn.Parameter(weight.pool, requires_grad=False)
        )
        tensors = CodebookTensors(
            codes=weight.codes,
            pool=pool,
            base=torch.arange(scopes + 1, device=device) * codec.k,
            scale=weight.scale,
            bias=old.bias.detach().to(torch.float16),
        )
        layer = CompressedLinear(codec, kind.shape, tensors, compute_dtype=old.weight.dtype)
        block.set_submodule(kind.name, layer)
