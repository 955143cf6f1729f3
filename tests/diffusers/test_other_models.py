"""PixArt, SD3, Flux and a U-Net, from diffusers' own classes: compressed, saved, loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxTransformer2DModel, ModelMixin
from diffusers.configuration_utils import ConfigMixin, register_to_config
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dpqlab.diffusers import DPQConfig, attach_, compress_model_, kept_by, plan_for
from dpqlab.diffusers.coverage import FLOAT32_REASON
from dpqlab.errors import CheckpointError
from dpqlab.nn.accounting import storage_of
from dpqlab.nn.linear import CompressedLinear
from tests.diffusers.models import (
    GEOMETRIES,
    PLANS,
    WEIGHTS,
    assert_same_state,
    output_of,
    packed,
    reload,
    tiny,
)


def decoded_by_hand(name: str, compressed: Any) -> Any:
    """A dense model of the same class, its weights those that the codes of another stand for."""
    dense = tiny(name)
    values: dict[str, Tensor] = {}
    for key, tensor in compressed.state_dict().items():
        if not any(key.startswith(f"{layer}.") for layer, _ in packed(compressed)):
            values[key] = tensor
    for layer, module in packed(compressed):
        values[f"{layer}.weight"] = module.decode()
        if module.bias is not None:
            values[f"{layer}.bias"] = module.bias.float()
    dense.load_state_dict(values, strict=True)
    return dense


@pytest.mark.parametrize("plan", PLANS)
def test_compressed_saved_and_loaded(name: str, plan: str, tmp_path: Path):
    model = tiny(name)
    made = compress_model_(model, PLANS[plan], seed=1)
    again, info = reload(model, tmp_path / "saved", output_loading_info=True)
    assert not any(info.values()), info
    assert_same_state(again, model)
    assert torch.equal(output_of(again, name), output_of(model, name))
    assert len(list(packed(again))) == len(made.layers)
    expected = output_of(decoded_by_hand(name, again), name)
    torch.testing.assert_close(output_of(again, name), expected, rtol=1e-4, atol=1e-4)
    assert (expected - output_of(tiny(name), name)).norm() > 1e-3 * expected.norm()


def test_in_shards_and_in_bfloat16(name: str, tmp_path: Path):
    model = tiny(name)
    compress_model_(model, PLANS["pools shared by kind"])
    model.save_pretrained(tmp_path / "saved", max_shard_size="20KB")
    assert len(list((tmp_path / "saved").glob("*.safetensors"))) > 1
    again = type(model).from_pretrained(tmp_path / "saved", dtype=torch.bfloat16)
    assert again.dtype == torch.bfloat16
    for layer, module in packed(again):
        assert isinstance(module, CompressedLinear) and module.pool.dtype == torch.float16, layer
        assert module.compute_dtype == torch.bfloat16
        assert torch.equal(module.pool, model.get_submodule(layer).pool)
    expected = output_of(decoded_by_hand(name, again).to(torch.bfloat16), name)
    assert (output_of(again, name) - expected).norm() < 0.03 * expected.norm()


def test_compressed_while_loading_and_back_to_dense(name: str, tmp_path: Path):
    tiny(name).save_pretrained(tmp_path / "dense")
    config = DPQConfig(preset="vq-2bit", seed=3)
    kind: Any = GEOMETRIES[name][0]
    model = kind.from_pretrained(tmp_path / "dense", quantization_config=config)
    ours = tiny(name)
    compress_model_(ours, "vq-2bit", seed=3)
    assert_same_state(model, ours)
    assert model.hf_quantizer.kept == ours.hf_quantizer.kept
    expected = output_of(model, name)
    model.dequantize()
    assert not list(packed(model)) and storage_of(model) is None
    assert not hasattr(model, "hf_quantizer") and not hasattr(model, "quantization_method")
    assert not model.is_quantized and "quantization_config" not in model.config
    torch.testing.assert_close(output_of(model, name), expected, rtol=1e-4, atol=1e-4)
    again = reload(model, tmp_path / "again")
    assert not getattr(again, "is_quantized", False)
    assert torch.equal(output_of(again, name), output_of(model, name))


class Particular(ModelMixin, ConfigMixin):
    """Keeps a Linear in its blocks in float32, has a subclass of Linear, and a buffer."""

    _keep_in_fp32_modules = ["time"]  # noqa: RUF012 - the name and type diffusers expects

    @register_to_config
    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.embed = nn.Linear(4, width)
        self.blocks = nn.ModuleList(
            nn.ModuleDict({"time": nn.Linear(width, width), "mix": nn.Linear(width, width)})
            for _ in range(2)
        )
        self.odd = nn.ModuleList([nn.modules.linear.NonDynamicallyQuantizableLinear(width, width)])
        self.register_buffer("table", torch.arange(width) / 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x.to(self.embed.weight.dtype))
        for block in self.blocks:
            parts: Any = block
            x = x + parts["time"](x.float()).to(x.dtype) + parts["mix"](x)
        return self.odd[0](x) + self.table


def test_layers_kept_in_float32_stay_so(tmp_path: Path):
    torch.manual_seed(0)
    model: Any = Particular().eval()
    with torch.no_grad():
        model.blocks[0]["time"].weight.add_(1e-6)  # what bfloat16 would lose
    plan = plan_for(model, PLANS["pools shared by kind"])
    assert plan.rest_dtype == "float32"
    reasons = {k.name: k.reason for k in kept_by(model, plan)}
    assert reasons["blocks.0.time"] == FLOAT32_REASON
    assert reasons["odd.0"].startswith("not a plain nn.Linear")
    exact = model.blocks[0]["time"].weight.detach().clone()
    compress_model_(model, PLANS["pools shared by kind"])
    again = reload(model, tmp_path / "saved", torch_dtype=torch.bfloat16)
    assert torch.equal(again.blocks[0]["time"].weight, exact)
    assert again.embed.weight.dtype == again.table.dtype == torch.bfloat16
    assert "table" in dict(again.named_buffers()) and "table" not in dict(again.named_parameters())
    assert again.blocks[0]["mix"].compute_dtype == torch.bfloat16
    x = torch.randn(3, 4)
    torch.testing.assert_close(again(x).float(), model(x), rtol=0.05, atol=0.05)
    assert_same_state(reload(model, tmp_path / "wide"), model)


def test_a_model_in_float16_keeps_its_rest_exactly():
    model = tiny("unet").half()
    before = model.conv_in.weight.detach().clone()
    compress_model_(model, PLANS["pools shared by kind"])
    assert torch.equal(model.conv_in.weight, before)
    assert storage_of(model).rest_dtype == "float16"  # pyright: ignore[reportOptionalMemberAccess]


@pytest.mark.parametrize("harm", ["missing", "extra", "shape"])
def test_a_damaged_file_is_refused_and_the_tensor_named(harm: str, tmp_path: Path):
    model = tiny("flux")
    compress_model_(model, "vq-2bit")
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / WEIGHTS)
    name = "proj_out.weight"
    if harm == "missing":
        del tensors[name]
    elif harm == "extra":
        name = "transformer_blocks.0.extra"
        tensors[name] = torch.zeros(1)
    else:
        tensors[name] = tensors[name][:-1].contiguous()
    save_file(tensors, tmp_path / WEIGHTS, metadata={"format": "pt"})
    loader: Any = FluxTransformer2DModel.from_pretrained
    with pytest.raises(CheckpointError, match=name):
        loader(tmp_path)


def test_a_changed_model_is_saved_once_its_config_is_written_anew(tmp_path: Path):
    model = tiny("flux")
    compress_model_(model, PLANS["pools shared by kind"])
    layer = "transformer_blocks.0.attn.to_q"
    old = model.get_submodule(layer)
    dense = nn.Linear(old.in_features, old.out_features)
    dense.load_state_dict({"weight": old.decode().bfloat16().float(), "bias": old.bias.bfloat16()})
    model.set_submodule(layer, dense)
    with pytest.raises(CheckpointError, match="attach_"):
        model.save_pretrained(tmp_path / "refused")
    attach_(model)
    again = reload(model, tmp_path / "saved")
    assert_same_state(again, model)
    assert again.hf_quantizer.provenance() == {"preset": "shared", "seed": 0}


def test_a_dense_model_is_not_attached():
    with pytest.raises(CheckpointError, match="not compressed"):
        attach_(tiny("flux"))
