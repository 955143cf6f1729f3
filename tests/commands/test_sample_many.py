"""``dpqlab sample-many`` alone; what several processes do is in ``test_together.py``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from dpqlab.cli import main

pytestmark = pytest.mark.usefixtures("one_thread")

FEW = ["--images", "5", "--steps", "2", "--batch", "3", "--device", "cpu"]


@pytest.fixture(scope="module")
def latent_model(save_tiny: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of latents (4, 8, 8), with a VAE that doubles their side."""
    from diffusers import AutoencoderKL

    folder = tmp_path_factory.mktemp("latent") / "model"
    save_tiny(folder, in_channels=4, out_channels=8, sample_size=8)
    torch.manual_seed(0)
    blocks = ("UpDecoderBlock2D", "UpDecoderBlock2D")
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
        up_block_types=blocks,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        latent_channels=4,
    )
    vae.save_pretrained(folder / "vae")
    return folder


def images_of(path: Path) -> np.ndarray:
    with np.load(path) as arrays:
        return arrays["arr_0"]


def test_latents_are_decoded(latent_model: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out.npz"
    assert main(["sample-many", str(latent_model), str(out), *FEW, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["resumed_images"] == 0
    images = images_of(out)
    assert images.shape == (5, 16, 16, 3)
    assert len({image.tobytes() for image in images}) == 5


def test_a_model_of_latents_needs_its_vae(latent_model: Path, tmp_path: Path, capsys) -> None:
    out = str(tmp_path / "out.npz")
    assert main(["sample-many", str(latent_model), out, *FEW, "--vae", str(tmp_path)]) == 2
    assert "give the folder of diffusers' AutoencoderKL as --vae" in capsys.readouterr().err


def test_an_image_is_that_of_its_number(tiny: Path, tmp_path: Path) -> None:
    for name, count in {"few": "5", "more": "8"}.items():
        options = [*FEW[2:], "--images", count]
        assert main(["sample-many", str(tiny), str(tmp_path / f"{name}.npz"), *options]) == 0
    few, more = images_of(tmp_path / "few.npz"), images_of(tmp_path / "more.npz")
    assert np.array_equal(few[:3], more[:3])  # a whole shard of both
    assert np.abs(few[3:].astype(int) - more[3:5].astype(int)).max() <= 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["out.npy"], "ends in .npz"),
        (["there.npz"], "exists"),
        (["out.npz", "--images", "0"], "images is 0"),
        (["out.npz", "--steps", "0"], "steps is 0"),
        (["out.npz", "--guidance", "-1"], "guidance is -1"),
    ],
)
def test_what_cannot_be_drawn_is_said_first(tiny, tmp_path, capsys, options, message) -> None:
    (tmp_path / "there.npz").write_bytes(b"")
    name, *rest = options
    assert main(["sample-many", str(tiny), str(tmp_path / name), *rest]) == 2
    assert message in capsys.readouterr().err
