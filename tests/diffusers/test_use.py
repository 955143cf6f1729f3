"""A compressed model in diffusers' hands: pipelines, offloading, device maps, compiling, LoRA."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import accelerate
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DiTPipeline,
    FluxTransformer2DModel,
    PipelineQuantizationConfig,
)
from torch import Tensor, nn

from dpqlab.checkpoint import load_compressed
from dpqlab.diffusers import DPQConfig, compress_model_
from dpqlab.diffusion.pipeline import PixelDiTPipeline
from dpqlab.errors import ConfigError
from dpqlab.nn import preset
from dpqlab.nn.embedder import untie_embedders_
from dpqlab.nn.linear import CompressedLinear, PackedLinear
from tests.diffusers.models import assert_same, load, output_of, predict, tiny, tiny_vae
from tests.tiny import tiny_dit


def stock(**parts: Any) -> Any:
    pipeline: Any = DiTPipeline(vae=tiny_vae(), scheduler=DDIMScheduler(), **parts)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def draw(pipeline: Any, guidance: float = 1.5) -> Tensor:
    """Two images by diffusers' own DiTPipeline, whose null class is always 1000."""
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    return pipeline(
        [0, 1],
        guidance_scale=guidance,
        generator=generator,
        num_inference_steps=2,
        output_type="pt",
    ).images


def thousand_classes() -> Any:
    return tiny_dit(num_embeds_ada_norm=1000)


def test_the_stock_pipeline_saves_and_loads_a_compressed_transformer(tmp_path: Path):
    model = thousand_classes()
    compress_model_(model, "vq-2bit")
    pipeline = stock(transformer=model)
    expected = draw(pipeline)
    pipeline.save_pretrained(tmp_path / "pipeline")
    loader: Any = DiTPipeline.from_pretrained
    again = loader(tmp_path / "pipeline")
    assert again.transformer.is_quantized
    assert_same(again.transformer, model)
    assert torch.equal(draw(again), expected)


def test_the_stock_pipeline_takes_a_folder_of_ours_and_a_vae(folder: Path):
    loader: Any = DiTPipeline.from_pretrained
    pipeline = loader(folder, vae=tiny_vae())
    assert_same(pipeline.transformer, load_compressed(folder))
    expected = draw(stock(transformer=load_compressed(folder)), guidance=1.0)
    pipeline.scheduler = DDIMScheduler()
    assert torch.equal(draw(pipeline, guidance=1.0), expected)


def test_a_pipeline_in_another_dtype(folder: Path):
    loader: Any = DiTPipeline.from_pretrained
    vae: Any = tiny_vae()
    pipeline = loader(folder, vae=vae.to(torch.bfloat16), torch_dtype=torch.bfloat16)
    assert_same(pipeline.transformer, load_compressed(folder, dtype=torch.bfloat16))
    assert torch.isfinite(draw(pipeline, guidance=1.0)).all()


def test_a_pipeline_is_compressed_while_it_loads(tmp_path: Path):
    model = thousand_classes()
    untie_embedders_(model)
    stock(transformer=model).save_pretrained(tmp_path / "dense")
    config = PipelineQuantizationConfig(quant_mapping={"transformer": DPQConfig(preset="vq-2bit")})
    loader: Any = DiTPipeline.from_pretrained
    pipeline = loader(tmp_path / "dense", quantization_config=config)
    compress_model_(model, "vq-2bit")
    assert_same(pipeline.transformer, model)
    assert any(kept.name == "proj_out_2" for kept in pipeline.transformer.hf_quantizer.kept)


def offload_model_(pipeline: Any) -> None:
    pipeline.enable_model_cpu_offload(device="cpu")
    assert {p.device.type for p in pipeline.transformer.parameters()} == {"cpu"}


def offload_layers_(pipeline: Any) -> None:
    """What ``enable_sequential_cpu_offload`` calls: it asks for "cpu:0", where accelerate fails."""
    for model in pipeline.components.values():
        if isinstance(model, nn.Module):
            outer = len(model._parameters) > 0
            accelerate.cpu_offload(model, torch.device("cpu"), offload_buffers=outer)
    assert {p.device.type for p in pipeline.transformer.parameters()} == {"meta"}


OFFLOADING = [offload_model_, offload_layers_]


@pytest.mark.parametrize("offload_", OFFLOADING)
def test_pipelines_whose_weights_wait_elsewhere(folder: Path, offload_: Any):
    """Through accelerate's hooks; the device that the weights are sent to is the CPU here."""
    loader: Any = DiTPipeline.from_pretrained
    pipeline = loader(folder, vae=tiny_vae())
    expected = draw(pipeline, guidance=1.0)
    offload_(pipeline)
    assert torch.equal(draw(pipeline, guidance=1.0), expected)
    assert torch.equal(draw(pipeline, guidance=1.0), expected)


@pytest.mark.parametrize("offload_", OFFLOADING)
def test_our_pipeline_with_weights_that_wait_elsewhere(sharing: Path, offload_: Any):
    pipeline: Any = PixelDiTPipeline.from_pretrained(sharing)
    pipeline.set_progress_bar_config(disable=True)
    options: dict[str, Any] = {"num_inference_steps": 2, "output_type": "pt"}
    expected = pipeline([0, 1], **options).images
    offload_(pipeline)
    assert torch.equal(pipeline([0, 1], **options).images, expected)


@pytest.mark.gpu
@pytest.mark.parametrize(
    "way", ["enable_model_cpu_offload", "enable_sequential_cpu_offload", "to", "device_map"]
)
def test_pipelines_on_a_gpu(folder: Path, way: str):
    loader: Any = DiTPipeline.from_pretrained
    expected = draw(loader(folder, vae=tiny_vae()), guidance=1.0)
    if way == "device_map":
        transformer = load(folder, subfolder="transformer", device_map="cuda")
        pipeline = loader(folder, vae=tiny_vae().to("cuda"), transformer=transformer)
    else:
        pipeline = loader(folder, vae=tiny_vae())
        getattr(pipeline, way)("cuda") if way == "to" else getattr(pipeline, way)()
    ours = draw(pipeline, guidance=1.0).cpu()
    torch.testing.assert_close(ours, expected, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("where", ["cpu", {"": "cpu"}, torch.device("cpu")])
def test_a_device_map(folder: Path, where: Any):
    model = load(folder, subfolder="transformer", device_map=where)
    assert_same(model, load_compressed(folder))


def test_a_device_map_of_several_parts(folder: Path):
    parts = {"pos_embed": "cpu", "transformer_blocks.0": "cpu", "": "cpu"}
    model = load(folder, subfolder="transformer", device_map=parts)
    assert torch.equal(predict(model), predict(load_compressed(folder)))


def test_a_device_map_that_diffusers_makes(tmp_path: Path):
    """DiT does not say which of its modules belong together; Flux does."""
    model = tiny("flux")
    compress_model_(model, "vq-2bit")
    model.save_pretrained(tmp_path / "flux")
    loader: Any = FluxTransformer2DModel.from_pretrained
    again = loader(tmp_path / "flux", device_map="auto")
    assert torch.equal(output_of(again, "flux"), output_of(model, "flux"))


def test_weights_that_stay_on_disk_are_refused(folder: Path, tmp_path: Path):
    parts = {"transformer_blocks.0": "disk", "": "cpu"}
    with pytest.raises(ConfigError, match="a part of the model on disk"):
        load(folder, subfolder="transformer", device_map=parts, offload_folder=str(tmp_path))


def test_dtypes_that_layers_wait_in_do_not_touch_what_is_stored(folder: Path):
    """``enable_layerwise_casting`` keeps Linears in float8 between two passes."""
    model = load(folder, subfolder="transformer")
    before = {n: p.clone() for n, p in model.named_parameters() if n.endswith((".pool", ".scale"))}
    assert before
    model.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    after = dict(model.named_parameters())
    assert after["proj_out_2.weight"].dtype == torch.float8_e4m3fn
    predict_in_float32(model)
    for name, tensor in before.items():
        assert after[name].dtype == tensor.dtype and torch.equal(after[name], tensor), name


@torch.no_grad()
def predict_in_float32(model: Any) -> Tensor:
    times, labels = torch.tensor([7, 500]), torch.tensor([0, 1])
    return model(torch.randn(2, 1, 8, 8), timestep=times, class_labels=labels).sample


@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_blocks_compile_in_one_graph(folder: Path, backend: str):
    torch.compiler.reset()
    model = load(folder, subfolder="transformer")
    expected = predict(model)
    for block in model.transformer_blocks:
        block.compile(fullgraph=True, backend=backend)
    torch.testing.assert_close(predict(model), expected, rtol=1e-4, atol=1e-5)


def test_lora_trains_on_top(folder: Path):
    peft = pytest.importorskip("peft")
    model = load(folder, subfolder="transformer")
    expected = predict(model)
    config = peft.LoraConfig(r=2, target_modules=["to_q", "net.2"], init_lora_weights="gaussian")
    peft.inject_adapter_in_model(config, model)
    assert torch.equal(predict(model), expected)  # B starts at zero
    noise = torch.randn(1, 1, 8, 8)
    model(noise, timestep=torch.tensor([3]), class_labels=torch.tensor([1])).sample.sum().backward()
    trained = {name for name, p in model.named_parameters() if p.grad is not None}
    assert trained and all("lora_" in name for name in trained if "to_q" in name)


def test_an_adapter_is_read_out_and_put_onto_a_compressed_model(tmp_path: Path):
    peft = pytest.importorskip("peft")
    model = tiny("flux")
    compress_model_(model, "vq-2bit")
    model.save_pretrained(tmp_path / "flux")
    plain = output_of(model, "flux")
    targets = ["to_q", "proj_mlp"]
    config = peft.LoraConfig(r=2, lora_alpha=2, target_modules=targets, init_lora_weights=False)
    model.add_adapter(config)
    adapted = output_of(model, "flux")
    assert (adapted - plain).abs().max() > 1e-3
    # diffusers' own save_lora_adapter casts the model, which it refuses of every quantized one
    adapter = peft.get_peft_model_state_dict(model)
    loader: Any = FluxTransformer2DModel.from_pretrained
    again = loader(tmp_path / "flux")
    again.load_lora_adapter(adapter, prefix=None)
    assert sum(isinstance(m, PackedLinear) for m in again.modules()) > 10
    torch.testing.assert_close(output_of(again, "flux"), adapted, rtol=1e-5, atol=1e-5)
    again.disable_adapters()
    assert torch.equal(output_of(again, "flux"), plain)


def test_projections_fuse_before_compressing_or_not_at_all():
    """diffusers' ``fuse_projections`` lays weights side by side; packed codes it cannot."""
    model = tiny("flux")
    for block in model.transformer_blocks:
        block.attn.fuse_projections()
    fused = model.transformer_blocks[0].attn
    assert isinstance(fused.to_qkv, nn.Linear)
    expected = output_of(model, "flux")
    compress_model_(model, "vq-2bit")
    assert isinstance(model.transformer_blocks[0].attn.to_qkv, CompressedLinear)
    assert (output_of(model, "flux") - expected).norm() < 0.5 * expected.norm()
    later = tiny("flux")
    compress_model_(later, preset("vq-2bit"))
    before = output_of(later, "flux")
    with pytest.raises((IndexError, RuntimeError)):
        later.transformer_blocks[0].attn.fuse_projections()
    assert torch.equal(output_of(later, "flux"), before)
