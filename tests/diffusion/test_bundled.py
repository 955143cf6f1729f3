"""The models that ship with dpqlab."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dpqlab.diffusion.dit import FASHION_DIT
from dpqlab.diffusion.models import ASSETS, bundled, load_pipeline
from dpqlab.diffusion.sampling import SampleRequest, sample_images
from dpqlab.evaluation.bundled import bundled_feature_net
from dpqlab.evaluation.fashion_mnist import CLASSES
from dpqlab.evaluation.features import extract
from dpqlab.nn.embedder import tied_groups
from dpqlab.nn.linear import hold_decoded

COMPRESSED = {
    f"fashion-dit-{codec}-{bits}bit" for codec in ("vq", "dpq", "best") for bits in (1, 2)
}


@pytest.fixture
def one_thread() -> None:
    """Override the fixture of that name: these models are large enough for several."""


def test_all_of_them_are_listed():
    entries = bundled()
    assert {entry.name for entry in entries} >= {"fashion-dit", *COMPRESSED}
    assert [entry.name for entry in entries] == [
        *sorted(entry.name for entry in entries if entry.kind == "full"),
        *sorted(entry.name for entry in entries if entry.kind == "compressed"),
    ]
    folders = {path.parent for path in ASSETS.glob("*/model_index.json")}
    assert {entry.path for entry in entries} == folders
    kinds = {entry.name: entry.kind for entry in entries}
    assert kinds["fashion-dit"] == "full"
    assert {kinds[name] for name in COMPRESSED} == {"compressed"}


def test_the_compressed_ones_are_several_times_smaller():
    sizes = {entry.name: entry.bytes_on_disk for entry in bundled()}
    for name in COMPRESSED:
        assert sizes[name] < sizes["fashion-dit"] / (10 if name.endswith("1bit") else 6)
        assert (ASSETS / name / "README.md").is_file()
    assert len(CLASSES) == FASHION_DIT["num_embeds_ada_norm"]


@torch.no_grad()
def test_plain_diffusers_computes_the_same():
    """Nothing in the folder needs dpqlab; tying the embedders changes no value."""
    from diffusers import DiTTransformer2DModel

    plain: Any = DiTTransformer2DModel.from_pretrained(
        ASSETS / "fashion-dit/transformer", local_files_only=True
    )
    ours: Any = load_pipeline("fashion-dit").transformer
    assert [len(group) for group in tied_groups(ours)] == [8]
    assert tied_groups(plain) == []
    assert {key: ours.config[key] for key in FASHION_DIT} == FASHION_DIT
    given = {
        "hidden_states": torch.randn(3, 1, 28, 28),
        "timestep": torch.tensor([0, 500, 999]),
        "class_labels": torch.tensor([0, 9, 10]),
    }
    out = plain.float().eval()(**given).sample
    assert torch.equal(ours(**given).sample, out)
    # and it does know noise: at the end of the schedule there is nothing else
    both = torch.stack([out[2].flatten(), given["hidden_states"][2].flatten()])
    assert torch.corrcoef(both)[0, 1] > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fashion-dit", "fashion-dit-dpq-2bit"])
def test_what_they_draw_is_recognised(name):
    pipeline = load_pipeline(name)
    request = SampleRequest(labels=tuple(range(10)) * 2, steps=20)
    with hold_decoded(pipeline.transformer):
        images = sample_images(pipeline.transformer, pipeline.scheduler, request)
    seen = extract(bundled_feature_net(), images).predictions
    assert (torch.as_tensor(seen) == torch.tensor(request.labels)).float().mean() >= 0.8
    assert images.float().std() > 50  # no empty or flat pictures
