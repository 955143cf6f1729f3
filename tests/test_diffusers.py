"""dpqlab as a quantizer of diffusers: load, save, compress while loading, go back to dense."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoModel, DiTTransformer2DModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dpqlab.checkpoint import load_compressed, save_compressed
from dpqlab.core import CodebookCodec
from dpqlab.diffusers import DPQConfig
from dpqlab.diffusion.pipeline import PixelDiTPipeline
from dpqlab.diffusion.schedules import make_scheduler
from dpqlab.errors import CheckpointError, ConfigError
from dpqlab.nn import Plan, compress_, preset
from dpqlab.nn.embedder import tie_embedders_, tied_groups, untie_embedders_
from dpqlab.nn.linear import CompressedLinear, PackedLinear
from tests.tiny import tiny_dit

WEIGHTS = "diffusion_pytorch_model.safetensors"
SHARED = CodebookCodec(d=4, k=16, scope="layer", across="kind", row_scale=True)
OWN = CodebookCodec(d=4, k=16, scope="position")


@pytest.fixture(params=[SHARED, OWN], ids=["pools shared by kind", "pools of their own"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    model = tiny_dit()
    compress_(model, Plan.for_blocks(request.param, name="tiny"))
    scheduler: Any = make_scheduler("ddim")
    settings = json.loads(scheduler.to_json_string())
    saved = save_compressed(
        model, tmp_path / "tiny", scheduler_config=settings, provenance={"seed": 0}, card="tiny"
    )
    return saved.path


@pytest.fixture
def dense(tmp_path: Path) -> Path:
    model = tiny_dit()
    untie_embedders_(model)
    model.save_pretrained(tmp_path / "dense")
    return tmp_path / "dense"


def load(folder: Path, **options: Any) -> Any:
    loader: Any = DiTTransformer2DModel.from_pretrained
    return loader(folder, **options)


@torch.no_grad()
def predict(model: Any) -> Tensor:
    side, channels = model.config.sample_size, model.config.in_channels
    noise = torch.randn(2, channels, side, side, generator=torch.Generator().manual_seed(3))
    times, labels = torch.tensor([7, 500]), torch.tensor([0, 1])
    return model(noise.to(model.dtype), timestep=times, class_labels=labels).sample


def state(model: nn.Module) -> dict[str, Tensor]:
    return dict(model.state_dict())


def assert_same(ours: nn.Module, theirs: nn.Module) -> None:
    assert state(ours).keys() == state(theirs).keys()
    for name, tensor in state(ours).items():
        assert torch.equal(tensor, state(theirs)[name]), name
        assert tensor.dtype == state(theirs)[name].dtype, name
    assert torch.equal(predict(ours), predict(theirs))


def test_diffusers_loads_what_dpqlab_wrote(folder: Path):
    model, report = load(folder, subfolder="transformer", output_loading_info=True)
    assert not any(report.values()), report
    assert_same(model, load_compressed(folder))
    assert model.is_quantized and not model.training
    assert tied_groups(model) == tied_groups(load_compressed(folder))
    loader: Any = AutoModel.from_pretrained
    assert_same(loader(str(folder), subfolder="transformer"), model)


def test_a_pipeline_loads_with_it(folder: Path):
    pipeline: Any = PixelDiTPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    ours = PixelDiTPipeline(load_compressed(folder), make_scheduler("ddim"))  # type: ignore[arg-type]
    ours.set_progress_bar_config(disable=True)
    images = [p([0, 1], num_inference_steps=2, output_type="pt").images for p in (pipeline, ours)]
    assert torch.equal(*images)


@pytest.mark.parametrize("shards", ["10GB", "20KB"])
def test_saved_by_diffusers_and_back(folder: Path, tmp_path: Path, shards: str):
    model = load(folder / "transformer")
    model.save_pretrained(tmp_path / "copy", max_shard_size=shards)
    files = list((tmp_path / "copy").glob("*.safetensors"))
    assert (len(files) > 1) == (shards == "20KB")
    again = load(tmp_path / "copy")
    assert_same(again, model)
    if len(files) == 1:
        ours, theirs = (load_file(f) for f in (files[0], folder / "transformer" / WEIGHTS))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_codebooks_keep_their_dtype_when_the_model_changes_its(folder: Path):
    model = load(folder, subfolder="transformer", torch_dtype=torch.bfloat16, device_map="cpu")
    assert model.dtype == torch.bfloat16
    assert_same(model, load_compressed(folder, dtype=torch.bfloat16))
    for module in model.modules():
        if isinstance(module, CompressedLinear):
            assert module.pool.dtype == torch.float16
            assert module.compute_dtype == torch.bfloat16


def test_compress_while_loading(dense: Path, tmp_path: Path):
    model = load(dense, quantization_config=DPQConfig(preset="vq-2bit", seed=3))
    ours = load(dense)
    tie_embedders_(ours)
    compress_(ours, preset("vq-2bit"), seed=3)
    assert_same(model, ours)
    model.save_pretrained(tmp_path / "compressed")
    assert_same(load(tmp_path / "compressed"), model)
    document = json.loads((tmp_path / "compressed/config.json").read_text())["quantization_config"]
    assert document["provenance"] == {"preset": "vq-2bit", "seed": 3}
    repr(model.config.quantization_config)


def test_back_to_dense_leaves_nothing_behind(folder: Path, tmp_path: Path):
    model = load(folder, subfolder="transformer")
    expected = predict(model)
    model.dequantize()
    assert not any(isinstance(module, PackedLinear) for module in model.modules())
    torch.testing.assert_close(predict(model), expected, rtol=1e-4, atol=1e-5)
    assert "quantization_config" not in model.config
    model.save_pretrained(tmp_path / "dense")
    again = load(tmp_path / "dense")
    assert not getattr(again, "is_quantized", False)
    assert torch.equal(predict(again), predict(model))


def test_blocks_compile_in_one_graph(folder: Path):
    model = load(folder, subfolder="transformer")
    expected = predict(model)
    for block in model.transformer_blocks:
        block.compile(fullgraph=True, backend="eager")
    torch.testing.assert_close(predict(model), expected)


def test_weights_may_wait_elsewhere(folder: Path):
    accelerate = pytest.importorskip("accelerate")
    model = load(folder, subfolder="transformer")
    expected = predict(model)
    accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    assert torch.equal(predict(model), expected)


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


@pytest.mark.parametrize("harm", ["missing", "extra", "cast", "shape"])
def test_a_damaged_file_is_refused_and_the_tensor_named(folder: Path, tmp_path: Path, harm: str):
    load(folder, subfolder="transformer").save_pretrained(tmp_path / "copy")
    path = tmp_path / "copy" / WEIGHTS
    tensors = load_file(path)
    name = next(name for name in sorted(tensors) if name.endswith(".pool"))
    if harm == "missing":
        del tensors[name]
    elif harm == "extra":
        name = "extra"
        tensors[name] = torch.zeros(1)
    elif harm == "cast":
        tensors[name] = tensors[name].float()
    else:
        tensors[name] = tensors[name][:-1].contiguous()
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=name):
        load(tmp_path / "copy")


def test_a_swapped_byte_in_a_folder_of_ours_is_refused(folder: Path):
    path = folder / "transformer" / WEIGHTS
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="SHA-256"):
        load(folder, subfolder="transformer")


def test_tensors_that_a_dense_file_lacks_are_refused(dense: Path):
    path = dense / WEIGHTS
    tensors = load_file(path)
    del tensors["proj_out_2.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"proj_out_2\.weight"):
        load(dense, quantization_config=DPQConfig(preset="vq-2bit"))


def test_only_safetensors_are_written(folder: Path, tmp_path: Path):
    with pytest.raises(CheckpointError, match="safetensors only"):
        load(folder, subfolder="transformer").save_pretrained(
            tmp_path / "copy", safe_serialization=False
        )


def test_a_layer_that_was_replaced_is_not_saved_under_the_old_config(folder: Path, tmp_path: Path):
    model = load(folder, subfolder="transformer")
    name = next(n for n, m in model.named_modules() if isinstance(m, PackedLinear))
    old = model.get_submodule(name)
    model.set_submodule(name, nn.Linear(old.in_features, old.out_features).bfloat16().float())
    with pytest.raises(CheckpointError, match="replaced"):
        model.save_pretrained(tmp_path / "copy")


def test_settings_that_cannot_be():
    with pytest.raises(ConfigError, match="preset"):
        DPQConfig()
    with pytest.raises(ConfigError, match="nonsense"):
        DPQConfig(preset="nonsense")
    with pytest.raises(CheckpointError):
        DPQConfig(document={"quant_method": "dpqlab", "layers": {}})


def test_dpqlab_alone_loads_no_diffusers():
    code = "import sys, dpqlab, dpqlab.checkpoint; sys.exit('diffusers' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
