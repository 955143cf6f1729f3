"""The diffusers pipeline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from dpqlab.diffusion.models import load_pipeline
from dpqlab.diffusion.pipeline import PixelDiTPipeline
from dpqlab.diffusion.sampling import SampleRequest, initial_noise, sample_images, sample_steps
from dpqlab.diffusion.schedules import make_scheduler
from dpqlab.errors import CheckpointError, ConfigError, ShapeError
from dpqlab.nn.embedder import tied_groups
from tests.tiny import forwards_of

LABELS = (3, 0, 9)
STEPS = 4


@pytest.fixture
def pipeline(dit: Any) -> PixelDiTPipeline:
    made = PixelDiTPipeline(dit, make_scheduler())
    made.set_progress_bar_config(disable=True)
    return made


def test_it_draws_what_the_sampler_draws(pipeline, dit):
    images = pipeline(LABELS, seed=4, num_inference_steps=STEPS, guidance_scale=2.0).images
    request = SampleRequest(labels=LABELS, seed=4, steps=STEPS, guidance=2.0)
    expected = sample_images(dit, make_scheduler(), request)[:, 0].numpy()
    assert [image.mode for image in images] == ["L"] * 3
    np.testing.assert_array_equal(np.stack([np.asarray(image) for image in images]), expected)
    assert torch.is_grad_enabled()


def test_output_types_agree(pipeline):
    def draw(kind: str) -> Any:
        return pipeline(LABELS, num_inference_steps=STEPS, output_type=kind).images

    tensor, array, pictures = draw("pt"), draw("np"), draw("pil")
    assert tensor.shape == (3, 1, 8, 8)
    assert 0 <= tensor.min() < tensor.max() <= 1
    np.testing.assert_array_equal(array, tensor.permute(0, 2, 3, 1).numpy())
    np.testing.assert_array_equal((array[0, ..., 0] * 255).round(), np.asarray(pictures[0]))
    with pytest.raises(ConfigError, match="output_type is 'latent': expected 'pil', 'np' or 'pt'"):
        draw("latent")


def test_any_sequence_of_whole_numbers_is_labels(pipeline):
    def draw(labels: Any) -> Any:
        return pipeline(labels, num_inference_steps=1, output_type="np").images

    for labels in (list(LABELS), torch.tensor(LABELS), np.array(LABELS)):
        np.testing.assert_array_equal(draw(labels), draw(LABELS))


def test_impossible_requests_are_refused(pipeline):
    for wrong in ({"num_inference_steps": 0}, {"guidance_scale": float("nan")}, {"seed": -1}):
        with pytest.raises(ConfigError):
            pipeline(LABELS, **wrong)
    with pytest.raises(ConfigError, match="expected 0 to 9"):
        pipeline([11])
    with pytest.raises(ShapeError, match=r"expected \(3, 1, 8, 8\)"):
        pipeline(LABELS, latents=torch.zeros(2, 1, 8, 8))


def test_latents_take_the_place_of_the_seed(pipeline):
    def draw(**settings: Any) -> Any:
        return pipeline(LABELS, num_inference_steps=2, output_type="pt", **settings).images

    noise = initial_noise((1, 8, 8), 6, range(3))
    assert torch.equal(draw(latents=noise, seed=1), draw(seed=6))


def test_steps_is_the_generator(pipeline, dit):
    request = SampleRequest(labels=LABELS, steps=STEPS)
    expected = sample_steps(dit, make_scheduler(), request)
    for ours, theirs in zip(pipeline.steps(request), expected, strict=True):
        assert torch.equal(ours.latents, theirs.latents)


def test_the_callback_sees_every_step(pipeline):
    seen: list[tuple[int, int]] = []

    def watch(pipe: Any, index: int, timestep: int, tensors: dict[str, Any]) -> None:
        assert pipe is pipeline
        assert tensors["latents"].shape == (3, 1, 8, 8)
        seen.append((index, timestep))

    watched = pipeline(
        LABELS, num_inference_steps=STEPS, output_type="pt", callback_on_step_end=watch
    )
    assert seen == [(0, 999), (1, 749), (2, 499), (3, 249)]
    plain = pipeline(LABELS, num_inference_steps=STEPS, output_type="pt")
    assert torch.equal(watched.images, plain.images)


@pytest.mark.parametrize("at", range(STEPS))
def test_latents_from_the_callback_are_gone_on_with(pipeline, at):
    """Steps of another seed put in at any time, the last included, give that seed's images."""
    request = SampleRequest(labels=LABELS, seed=9, steps=STEPS)
    other = [step.latents for step in pipeline.steps(request)]

    def switch(pipe: Any, index: int, timestep: int, tensors: dict[str, Any]) -> Any:
        return {"latents": other[index]} if index == at else {}

    settings: dict[str, Any] = {"num_inference_steps": STEPS, "output_type": "pt"}
    switched = pipeline(LABELS, seed=1, callback_on_step_end=switch, **settings).images
    assert torch.equal(switched, pipeline(LABELS, seed=9, **settings).images)


def test_an_exception_in_the_callback_stops_the_work(pipeline, dit):
    def stop(pipe: Any, index: int, timestep: int, tensors: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    with forwards_of(dit) as sizes, pytest.raises(KeyboardInterrupt):
        pipeline(LABELS, callback_on_step_end=stop)
    assert sizes == [6]
    assert torch.is_grad_enabled()


def test_save_and_load_again(pipeline, tmp_path: Path):
    pipeline.save_pretrained(tmp_path / "model")
    index = json.loads((tmp_path / "model/model_index.json").read_text())
    assert index["_class_name"] == "PixelDiTPipeline"
    again: Any = PixelDiTPipeline.from_pretrained(tmp_path / "model", local_files_only=True)
    again.set_progress_bar_config(disable=True)
    assert type(again.scheduler) is diffusers.DDIMScheduler
    assert again.scheduler.config.clip_sample is True
    assert again.scheduler.config.timestep_spacing == "trailing"
    settings: dict[str, Any] = {"num_inference_steps": STEPS, "output_type": "pt"}
    # plain diffusers gives every block an embedder of its own: equal copies, same images
    first, second = pipeline(LABELS, **settings).images, again(LABELS, **settings).images
    assert torch.equal(first, second)
    assert tied_groups(again.transformer) == []
    assert len(tied_groups(pipeline.transformer)) == 1
    # an untied model is saved as it is
    again.save_pretrained(tmp_path / "again", max_shard_size="60KB")
    assert tied_groups(again.transformer) == []
    assert len(list((tmp_path / "again/transformer").glob("*.safetensors"))) > 1
    third: Any = load_pipeline(tmp_path / "again")(LABELS, **settings).images
    assert torch.equal(first, third)


def test_what_is_loaded_can_be_saved_unless_compressed(full_folder, compressed_folder, tmp_path):
    load_pipeline(full_folder).save_pretrained(tmp_path / "full")
    name = "transformer/diffusion_pytorch_model.safetensors"
    ours, theirs = load_file(tmp_path / "full" / name), load_file(full_folder / name)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    with pytest.raises(CheckpointError, match=r"use dpqlab\.checkpoint\.save_compressed"):
        load_pipeline(compressed_folder).save_pretrained(tmp_path / "compressed")
    assert not (tmp_path / "compressed").exists()
