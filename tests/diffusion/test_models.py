"""Finding and loading models."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers.utils import logging
from safetensors.torch import load_file, save_file

from dpqlab.diffusion import models
from dpqlab.diffusion.models import bundled, load_pipeline, resolve, weight_bytes
from dpqlab.diffusion.sampling import SampleRequest, sample_images
from dpqlab.diffusion.schedules import TRAINING_NOISE, make_scheduler
from dpqlab.errors import CheckpointError, ConfigError
from dpqlab.nn.embedder import tied_groups
from dpqlab.nn.linear import CompressedLinear

# in diffusers, which hands a tensor to numpy
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"
CONFIG = "transformer/config.json"
SCHEDULER = "scheduler/scheduler_config.json"
REQUEST = SampleRequest(labels=(1, 2), steps=3)


@pytest.fixture(autouse=True)
def quiet():
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    yield
    logging.set_verbosity(before)


def draw(pipeline: Any) -> torch.Tensor:
    return sample_images(pipeline.transformer, pipeline.scheduler, REQUEST)


def test_a_full_folder_is_the_model_that_was_saved_with_one_embedder(full_folder, dit):
    pipeline = load_pipeline(full_folder)
    assert not pipeline.transformer.training
    assert torch.equal(draw(pipeline), sample_images(dit, make_scheduler(), REQUEST))
    names = tuple(f"transformer_blocks.{i}.norm1.emb" for i in range(2))
    assert tied_groups(pipeline.transformer) == [names]


def test_a_compressed_folder_loads_compressed(compressed_folder):
    pipeline = load_pipeline(str(compressed_folder))
    layers = [m for m in pipeline.transformer.modules() if isinstance(m, CompressedLinear)]
    assert len(layers) == 14
    assert not pipeline.transformer.training
    assert draw(pipeline).shape == (2, 1, 8, 8)
    assert type(pipeline.scheduler) is diffusers.DDIMScheduler
    assert pipeline.scheduler.config.clip_sample is True
    assert pipeline.scheduler.config.timestep_spacing == "trailing"


@pytest.mark.parametrize("kind", ["full_folder", "compressed_folder"])
def test_bfloat16_computes_and_stays_close(kind, request):
    folder = request.getfixturevalue(kind)
    rough = load_pipeline(folder, dtype=torch.bfloat16)
    assert rough.transformer.dtype == torch.bfloat16
    difference = draw(rough).float() - draw(load_pipeline(folder)).float()
    assert difference.abs().mean() < 8
    assert difference.abs().max() > 0


@pytest.mark.parametrize("name", ["DDPMScheduler", "EulerDiscreteScheduler"])
def test_the_folder_names_its_scheduler(folder, name):
    getattr(diffusers, name)(**TRAINING_NOISE).save_pretrained(folder / "scheduler")
    assert type(load_pipeline(folder).scheduler).__name__ == name


def test_dpm_solver_as_diffusers_saves_it(folder):
    """With a minus infinity in the JSON."""
    make_scheduler("dpm").save_pretrained(folder / "scheduler")
    assert "-Infinity" in (folder / SCHEDULER).read_text()
    ours, theirs = load_pipeline(folder).scheduler.config, dict(make_scheduler("dpm").config)
    for key in (*TRAINING_NOISE, "thresholding", "timestep_spacing", "lambda_min_clipped"):
        assert ours[key] == theirs[key]


def test_embedders_that_differ_stay_apart(folder):
    tensors = load_file(folder / WEIGHTS)
    tensors["transformer_blocks.1.norm1.emb.class_embedder.embedding_table.weight"] *= 2
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    model: Any = load_pipeline(folder).transformer
    assert tied_groups(model) == []
    for name, tensor in model.named_parameters(remove_duplicate=False):
        assert torch.equal(tensor, tensors[name])


def weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        change(tensors)
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})

    return edit


def write(path: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / path).write_bytes(content)


def setting(path: str, **changes: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        value = json.loads((folder / path).read_text())
        (folder / path).write_text(json.dumps(value | changes))

    return edit


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "no weights": lambda folder: (folder / WEIGHTS).unlink(),
    "empty weights": write(WEIGHTS, b""),
    "weights cut short": lambda folder: (folder / WEIGHTS).write_bytes(
        (folder / WEIGHTS).read_bytes()[:-100]
    ),
    "pickle instead of safetensors": write(WEIGHTS, b"\x80\x04N."),
    "a tensor is missing": weights(lambda tensors: tensors.pop("proj_out_1.weight")),
    "a tensor has another shape": weights(
        lambda tensors: tensors.update({"proj_out_1.weight": torch.ones(2)})
    ),
    "no config": lambda folder: (folder / CONFIG).unlink(),
    "config is no JSON": write(CONFIG, b"{"),
    "config of another type": setting(CONFIG, num_layers="two"),
    "config of a larger model": setting(CONFIG, num_layers=3),
    "no scheduler": lambda folder: (folder / SCHEDULER).unlink(),
    "scheduler is no JSON": write(SCHEDULER, b"{"),
    "scheduler is no object": write(SCHEDULER, b"[]"),
    "scheduler of no class": setting(SCHEDULER, _class_name=["DDIMScheduler"]),
    "scheduler of a foreign class": setting(SCHEDULER, _class_name="StableDiffusionPipeline"),
    "unknown noise schedule": setting(SCHEDULER, beta_schedule="steep"),
    "scheduler setting of another type": setting(SCHEDULER, num_train_timesteps="many"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_folder_is_a_checkpoint_error(folder, damage):
    load_pipeline(folder)
    DAMAGE[damage](folder)
    with pytest.raises(CheckpointError):
        load_pipeline(folder)


def test_the_message_names_what_is_missing(folder):
    DAMAGE["a tensor is missing"](folder)
    message = r"tiny: the weight files lack 'proj_out_1.weight' \(1 missing in all\)"
    with pytest.raises(CheckpointError, match=message):
        load_pipeline(folder)


@pytest.mark.parametrize("damage", ["weights cut short", "unknown noise schedule", "no config"])
def test_a_damaged_compressed_folder_is_a_checkpoint_error(compressed_folder, tmp_path, damage):
    folder = Path(shutil.copytree(compressed_folder, tmp_path / "copy"))
    DAMAGE[damage](folder)
    with pytest.raises(CheckpointError):
        load_pipeline(folder)


def test_unknown_names_are_refused_with_the_known_ones(tmp_path):
    for unknown in ("no-dit", tmp_path, "facebook/DiT-XL-2-256"):
        with pytest.raises(ConfigError, match=r"no model .* one of avatars-dit, fashion-dit, "):
            load_pipeline(unknown)


def test_names_and_folders_resolve(full_folder):
    assert resolve("fashion-dit") == models.ASSETS / "fashion-dit"
    assert resolve(full_folder) == resolve(str(full_folder)) == full_folder


def test_bundled_lists_what_is_there(full_folder, compressed_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(models, "ASSETS", tmp_path)
    shutil.copytree(compressed_folder, tmp_path / "a-pq")
    shutil.copytree(full_folder, tmp_path / "b")
    (tmp_path / "notes").mkdir()
    (tmp_path / "file.txt").write_text("")
    first, second = bundled()
    assert (first.name, first.kind, first.path) == ("b", "full", tmp_path / "b")
    assert (second.name, second.kind) == ("a-pq", "compressed")
    assert first.bytes_on_disk == (full_folder / WEIGHTS).stat().st_size
    assert second.bytes_on_disk == weight_bytes(compressed_folder) < first.bytes_on_disk
    assert resolve("a-pq") == tmp_path / "a-pq"


def test_an_installation_without_models_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(models, "ASSETS", tmp_path / "none")
    assert bundled() == ()
    with pytest.raises(ConfigError, match=r"\(no bundled models in this installation\)"):
        resolve("fashion-dit")


def test_a_folder_without_weights_has_no_size(tmp_path):
    with pytest.raises(CheckpointError, match=r"no transformer/\*\.safetensors"):
        weight_bytes(tmp_path)
