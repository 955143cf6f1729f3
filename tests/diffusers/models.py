"""Tiny random models of diffusers' own classes, with inputs, and ways to load and compare them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DiTTransformer2DModel,
    FluxTransformer2DModel,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
    UNet2DConditionModel,
)
from torch import Tensor, nn

from dpqlab.core import CodebookCodec, ScalarCodec
from dpqlab.nn import Plan
from dpqlab.nn.linear import PackedLinear

SHARED = CodebookCodec(d=4, k=16, scope="layer", across="kind", row_scale=True)
BY_POSITION = CodebookCodec(d=4, k=16, scope="position", across="kind")
SCALAR = ScalarCodec(bits=2, group_size=16)
PLANS = {
    "pools shared by kind": Plan.for_blocks(SHARED, name="shared"),
    "position by position": Plan.for_blocks(BY_POSITION, name="by position"),
    "scalar": Plan.for_blocks(SCALAR, name="scalar"),
}

WEIGHTS = "diffusion_pytorch_model.safetensors"

GEOMETRIES: dict[str, tuple[Any, dict[str, Any]]] = {
    "pixart": (
        PixArtTransformer2DModel,
        {
            "num_attention_heads": 2,
            "attention_head_dim": 16,
            "in_channels": 4,
            "out_channels": 8,
            "num_layers": 2,
            "cross_attention_dim": 32,
            "sample_size": 8,
            "caption_channels": 24,
        },
    ),
    "sd3": (
        SD3Transformer2DModel,
        {
            "sample_size": 8,
            "patch_size": 2,
            "in_channels": 4,
            "out_channels": 4,
            "num_layers": 2,
            "num_attention_heads": 2,
            "attention_head_dim": 16,
            "joint_attention_dim": 24,
            "caption_projection_dim": 32,
            "pooled_projection_dim": 20,
            "pos_embed_max_size": 8,
            "dual_attention_layers": (0,),
            "qk_norm": "rms_norm",
        },
    ),
    "flux": (
        FluxTransformer2DModel,
        {
            "patch_size": 1,
            "in_channels": 4,
            "num_layers": 1,
            "num_single_layers": 2,
            "num_attention_heads": 2,
            "attention_head_dim": 16,
            "joint_attention_dim": 24,
            "pooled_projection_dim": 20,
            "axes_dims_rope": (4, 4, 8),
            "guidance_embeds": True,
        },
    ),
    # text of 30 features: no sub-vector of 4 divides them
    "unet": (
        UNet2DConditionModel,
        {
            "sample_size": 8,
            "in_channels": 4,
            "out_channels": 4,
            "block_out_channels": (32, 64),
            "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
            "layers_per_block": 1,
            "cross_attention_dim": 30,
            "attention_head_dim": 8,
            "norm_num_groups": 8,
        },
    ),
}


def tiny(name: str) -> Any:
    """A model of ``GEOMETRIES`` with random weights, in which every layer changes the output."""
    kind, geometry = GEOMETRIES[name]
    torch.manual_seed(0)
    model = kind(**geometry).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.1)
    return model


def inputs_of(name: str) -> dict[str, Any]:
    """What ``tiny(name)`` takes."""
    generator = torch.Generator().manual_seed(1)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    times = torch.tensor([3, 500])
    if name == "unet":
        return {
            "sample": noise(2, 4, 8, 8),
            "timestep": times,
            "encoder_hidden_states": noise(2, 5, 30),
        }
    text = {"encoder_hidden_states": noise(2, 5, 24)}
    if name == "pixart":
        added = {"resolution": None, "aspect_ratio": None}
        image = {"hidden_states": noise(2, 4, 8, 8), "timestep": times}
        return image | text | {"added_cond_kwargs": added}
    pooled = {"pooled_projections": noise(2, 20)}
    if name == "sd3":
        return {"hidden_states": noise(2, 4, 8, 8), "timestep": times} | text | pooled
    return (
        text
        | pooled
        | {
            "hidden_states": noise(2, 16, 4),
            "timestep": times / 1000,
            "guidance": torch.tensor([3.0, 3.0]),
            "img_ids": torch.zeros(16, 3),
            "txt_ids": torch.zeros(5, 3),
        }
    )


@torch.no_grad()
def output_of(model: Any, name: str) -> Tensor:
    dtype = model.dtype
    given = inputs_of(name)
    floats = {
        k: v.to(dtype) for k, v in given.items() if torch.is_tensor(v) and v.is_floating_point()
    }
    return model(**(given | floats)).sample


def tiny_vae() -> AutoencoderKL:
    torch.manual_seed(0)
    return AutoencoderKL(
        block_out_channels=(8,),
        norm_num_groups=4,
        latent_channels=1,
        down_block_types=("DownEncoderBlock2D",),
        up_block_types=("UpDecoderBlock2D",),
    ).eval()


def load(folder: Path, **options: Any) -> Any:
    loader: Any = DiTTransformer2DModel.from_pretrained
    return loader(folder, **options)


@torch.no_grad()
def predict(model: Any) -> Tensor:
    """What a DiT makes of some noise."""
    side, channels = model.config.sample_size, model.config.in_channels
    noise = torch.randn(2, channels, side, side, generator=torch.Generator().manual_seed(3))
    times, labels = torch.tensor([7, 500]), torch.tensor([0, 1])
    return model(noise.to(model.dtype), timestep=times, class_labels=labels).sample


def state(model: nn.Module) -> dict[str, Tensor]:
    return dict(model.state_dict())


def assert_same(ours: nn.Module, theirs: nn.Module) -> None:
    assert_same_state(ours, theirs)
    assert torch.equal(predict(ours), predict(theirs))


def assert_same_state(ours: nn.Module, theirs: nn.Module) -> None:
    assert state(ours).keys() == state(theirs).keys()
    for name, tensor in state(ours).items():
        assert torch.equal(tensor, state(theirs)[name]), name
        assert tensor.dtype == state(theirs)[name].dtype, name


def reload(model: Any, folder: Path, **options: Any) -> Any:
    model.save_pretrained(folder)
    return type(model).from_pretrained(folder, **options)


def packed(model: nn.Module) -> Iterator[tuple[str, PackedLinear]]:
    for name, module in model.named_modules():
        if isinstance(module, PackedLinear):
            yield name, module
