"""dpqlab as a quantizer of diffusers: load, save, compress while loading, go back to dense."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoModel
from safetensors.torch import load_file, save_file
from torch import nn

from dpqlab.checkpoint import load_compressed
from dpqlab.diffusers import DPQConfig
from dpqlab.diffusion.pipeline import PixelDiTPipeline
from dpqlab.diffusion.schedules import make_scheduler
from dpqlab.errors import CheckpointError, ConfigError
from dpqlab.nn import compress_, preset
from dpqlab.nn.accounting import storage_of
from dpqlab.nn.embedder import tie_embedders_, tied_groups
from dpqlab.nn.linear import CompressedLinear, PackedLinear
from tests.diffusers.models import WEIGHTS, assert_same, load, predict


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
    assert "quantization_config" not in model.config and storage_of(model) is None
    assert not hasattr(model, "hf_quantizer") and not hasattr(model, "quantization_method")
    model.save_pretrained(tmp_path / "dense")
    again = load(tmp_path / "dense")
    assert not getattr(again, "is_quantized", False)
    assert torch.equal(predict(again), predict(model))


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


@pytest.mark.parametrize("harm", ["dangles", "is its own", "loops", "chains"])
def test_pools_that_are_borrowed_in_circles_or_from_nobody_are_refused(
    sharing: Path, tmp_path: Path, harm: str
):
    load(sharing, subfolder="transformer").save_pretrained(tmp_path / "copy")
    path = tmp_path / "copy" / "config.json"
    config = json.loads(path.read_text())
    layers = config["quantization_config"]["layers"]
    name, owner = next((n, e["pool_of"]) for n, e in layers.items() if "pool_of" in e)
    if harm == "loops":
        layers[owner]["pool_of"] = name
    elif harm == "chains":
        other = next(n for n, e in layers.items() if n != owner and "pool_of" not in e)
        layers[owner]["pool_of"] = other
    else:
        layers[name]["pool_of"] = name if harm == "is its own" else "transformer_blocks.9.nobody"
    path.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="shares the pool of"):
        load(tmp_path / "copy")


@pytest.mark.parametrize("harm", ["loops", "dangles"])
def test_ties_in_circles_or_to_nobody_are_refused(sharing: Path, tmp_path: Path, harm: str):
    load(sharing, subfolder="transformer").save_pretrained(tmp_path / "copy")
    path = tmp_path / "copy" / "config.json"
    config = json.loads(path.read_text())
    ((first, others),) = config["quantization_config"]["tied"]
    tied = [first, [*others, first]] if harm == "loops" else [first, ["transformer_blocks.9.emb"]]
    config["quantization_config"]["tied"] = [tied]
    path.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="tie"):
        load(tmp_path / "copy")


def test_layers_that_share_a_pool_still_do_once_loaded(sharing: Path, tmp_path: Path):
    model = load(sharing, subfolder="transformer")
    model.save_pretrained(tmp_path / "copy", max_shard_size="20KB")
    for again in (model, load(tmp_path / "copy")):
        blocks = again.transformer_blocks
        assert blocks[0].attn1.to_q.pool is blocks[1].attn1.to_q.pool
        assert blocks[0].attn1.to_q.pool is not blocks[0].attn1.to_k.pool


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


def test_a_convention_that_a_reload_would_lose_is_not_saved(folder: Path, tmp_path: Path):
    """DiT's first authors space the frequencies of the timestep otherwise than diffusers."""
    model = load(folder, subfolder="transformer")
    model.transformer_blocks[0].norm1.emb.time_proj.downscale_freq_shift = 0
    with pytest.raises(CheckpointError, match=r"downscale_freq_shift is 0.*would be lost"):
        model.save_pretrained(tmp_path / "copy")


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
