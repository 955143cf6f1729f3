"""Which layers of other models than DiT are compressed, how, and why the rest is not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dpqlab.core import CodebookCodec, ScalarCodec
from dpqlab.diffusers import compress_model_, kept_by, plan_for
from dpqlab.diffusers.coverage import input_seam
from dpqlab.nn import Plan, compress_, preset
from dpqlab.nn.linear import PackedLinear
from dpqlab.nn.plan import OUTSIDE_REASON
from tests.diffusers.models import (
    BY_POSITION,
    reload,
    tiny,
)
from tests.tiny import tiny_dit


def test_every_weight_is_compressed_or_listed(name: str):
    model = tiny(name)
    plan = plan_for(model, preset("vq-2bit"))
    kept = {k.name.removesuffix(".weight"): k for k in kept_by(model, plan)}
    every = {n: p for n, p in model.named_parameters() if p.ndim > 1}
    compress_(model, plan)
    left = {n for n, module in model.named_modules() if isinstance(module, PackedLinear)}
    assert left and not left & kept.keys()
    assert left | kept.keys() == {n.removesuffix(".weight") for n in every}
    assert all(entry.reason for entry in kept.values())
    for full, parameter in every.items():
        entry = kept.get(full.removesuffix(".weight"))
        assert entry is None or entry.shape == tuple(parameter.shape)


def test_reasons_are_given(name: str):
    model = tiny(name)
    reasons = {k.name: k.reason for k in kept_by(model, plan_for(model, preset("vq-2bit")))}
    outside = "time_embedding.linear_1" if name == "unet" else "proj_out"
    assert reasons[outside] == OUTSIDE_REASON
    table = {
        "unet": ("conv_in.weight", "Conv2d"),
        "pixart": ("scale_shift_table", "PixArtTransformer2DModel"),
        "sd3": ("pos_embed.proj.weight", "Conv2d"),
    }
    if name in table:
        weight, kind = table[name]
        assert reasons[weight] == f"not a Linear but of a {kind}"


def test_input_dimensions_that_no_sub_vector_divides(tmp_path: Path):
    """The U-Net's text has 30 features: the last sub-vector of a row is filled up with zeros."""
    model = tiny("unet")
    layer = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
    weight = model.get_submodule(layer).weight.detach().clone()
    compress_model_(model, Plan.for_blocks(CodebookCodec(d=4, k=256, row_scale=True)))
    made = reload(model, tmp_path / "saved").get_submodule(layer)
    assert made.in_features == 30 and made.positions == 8
    assert (made.decode() - weight).norm() < 0.2 * weight.norm()


def test_layers_too_narrow_for_a_sub_vector_are_kept():
    model = tiny("unet")
    plan = plan_for(model, Plan.for_blocks(CodebookCodec(d=32, k=4)))
    kept = {k.name: k.reason for k in kept_by(model, plan)}
    layer = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
    assert kept[layer] == "30 inputs, fewer than the 32 that are coded together"
    assert compress_(model, plan).layers


SEAM = "single_transformer_blocks.0.proj_out"  # of Flux: 32 columns of attention, 128 of its MLP


@pytest.mark.parametrize(
    ("codec", "expected"),
    [
        (CodebookCodec(d=4, k=16, scope="layer"), ("group", 8, "layer")),
        (CodebookCodec(d=8, k=16, scope="layer", across="kind"), ("group", 4, "kind")),
        (CodebookCodec(d=8, k=16, scope="layer", across="model"), ("group", 4, "kind")),
        (CodebookCodec(d=4, k=16, scope="group", group=3), ("group", 1, "layer")),
        (CodebookCodec(d=4, k=16, scope="group", group=4), ("group", 4, "layer")),
        (CodebookCodec(d=4, k=16, scope="position"), ("position", 1, "layer")),
    ],
)
def test_codebooks_are_split_at_the_seam_of_fused_inputs(codec: CodebookCodec, expected: Any):
    model = tiny("flux")
    assert input_seam(model, SEAM) == 32
    assert input_seam(model, "transformer_blocks.0.attn.to_q") is None
    assert input_seam(model, "proj_out") is None
    plan = plan_for(model, Plan.for_blocks(codec))
    fitted, _ = plan.codec_for(SEAM)
    assert isinstance(fitted, CodebookCodec)
    assert (fitted.scope, fitted.group, fitted.across) == expected
    assert plan.codec_for("transformer_blocks.0.attn.to_q")[0] == codec
    compress_(model, plan)
    layer: Any = model.get_submodule(SEAM)
    before = set(layer.scope_of[: 32 // codec.d].tolist())
    behind = set(layer.scope_of[32 // codec.d :].tolist())
    assert before and behind and not before & behind


@pytest.mark.parametrize(
    "codec", [CodebookCodec(d=5, k=16), ScalarCodec(bits=2, group_size=24)], ids=["pq", "scalar"]
)
def test_what_would_reach_over_a_seam_is_kept(codec: Any):
    model = tiny("flux")
    plan = plan_for(model, Plan.for_blocks(codec))
    kept = {k.name: k.reason for k in kept_by(model, plan)}
    assert kept[SEAM].startswith("two inputs meet at column 32, inside ")
    assert plan.codec_for("single_transformer_blocks.0.proj_mlp")[0] == codec


def test_layers_of_other_widths_do_not_share_position_by_position():
    model = tiny("unet")
    plan = plan_for(model, Plan.for_blocks(BY_POSITION))
    widths = {"down_blocks.0": 32, "down_blocks.1": 64}
    for block, width in widths.items():
        layer = f"{block}.attentions.0.transformer_blocks.0.attn1.to_q"
        assert model.get_submodule(layer).in_features == width
        assert plan.codec_for(layer)[0] == replace(BY_POSITION, across="layer")
    text = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"  # 30 wide in every block
    assert plan.codec_for(text)[0] == BY_POSITION


def test_a_dit_keeps_the_plan_that_was_made_for_it():
    plan = preset("vq-2bit")
    assert plan_for(tiny_dit(), plan) is plan
