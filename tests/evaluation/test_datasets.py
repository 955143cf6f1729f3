from __future__ import annotations

import gzip
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dpqlab.diffusion.schedules import make_scheduler
from dpqlab.errors import CheckpointError, ConfigError
from dpqlab.evaluation.datasets import (
    DATASETS,
    calibration_images,
    dataset_for,
    dataset_of,
)
from tests.evaluation.conftest import idx_bytes


@pytest.fixture(scope="module")
def avatars_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four files as recipes/make_avatars.py writes them: 30 + 15 images of noise."""
    folder = tmp_path_factory.mktemp("avatars")
    for seed, (split, count) in enumerate({"train": 30, "test": 15}.items()):
        pixels = np.random.default_rng(seed).integers(0, 256, (count, 64, 64, 3), dtype=np.uint8)
        labels = (np.arange(count) % 15).astype(np.uint8)
        write(folder, split, pixels, labels)
    return folder


def write(folder: Path, split: str, pixels: np.ndarray, labels: np.ndarray) -> None:
    for part, items in (("images-idx4", pixels), ("labels-idx1", labels)):
        path = folder / f"{split}-{part}-ubyte.gz"
        path.write_bytes(gzip.compress(idx_bytes(items), compresslevel=1, mtime=0))


def test_avatars_come_with_channels_first(avatars_folder: Path) -> None:
    images, labels = dataset_of("avatars-dit").read(avatars_folder, "test")
    assert (images.shape, images.dtype) == ((15, 3, 64, 64), np.uint8)
    assert images.flags.c_contiguous
    stored = np.random.default_rng(1).integers(0, 256, (15, 64, 64, 3), dtype=np.uint8)
    assert images[3, 2, 10, 20] == stored[3, 10, 20, 2]
    assert labels.dtype == np.int64
    assert labels.tolist() == list(range(15))


def test_missing_avatars_say_how_they_are_made(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"python -m recipes\.make_avatars"):
        dataset_of("avatars-dit").read(tmp_path, "train")


@pytest.mark.parametrize(
    ("shape", "label", "message"),
    [
        ((2, 3, 64, 64), 0, "announces shape"),
        ((2, 64, 64, 4), 0, r"expected \(64, 64, 3\)"),
        ((2, 64, 64, 3), 15, "reach 15"),
    ],
)
def test_files_that_hold_something_else_are_refused(
    tmp_path: Path, shape: tuple[int, ...], label: int, message: str
) -> None:
    write(tmp_path, "train", np.zeros(shape, np.uint8), np.full(2, label, np.uint8))
    with pytest.raises(CheckpointError, match=message):
        dataset_of("avatars-dit").read(tmp_path, "train")


def test_more_than_may_be_held_is_refused_before_it_is_read(tmp_path: Path) -> None:
    header = bytes((0, 0, 8, 4)) + b"".join(n.to_bytes(4, "big") for n in (10**6, 64, 64, 3))
    (tmp_path / "train-images-idx4-ubyte.gz").write_bytes(gzip.compress(header))
    with pytest.raises(CheckpointError, match="announces shape"):
        dataset_of("avatars-dit").read(tmp_path, "train")


@pytest.mark.parametrize("dataset", DATASETS, ids=lambda dataset: dataset.model)
def test_a_data_set_is_found_by_name_and_by_geometry(dataset) -> None:
    assert dataset_of(dataset.model) is dataset
    look = SimpleNamespace(
        in_channels=dataset.channels,
        sample_size=dataset.side,
        num_embeds_ada_norm=len(dataset.classes),
    )
    assert dataset_for(look) is dataset
    look.sample_size += 1
    assert dataset_for(look) is None
    assert dataset.layout.classes == len(dataset.classes)
    assert "licence" in dataset.licence


def test_an_unknown_model_is_refused() -> None:
    with pytest.raises(ConfigError, match="fashion-dit, avatars-dit"):
        dataset_of("dit-xl")


def test_a_folder_is_looked_into(avatars_folder: Path, data_folder: Path) -> None:
    fashion, colour = (dataset_of(name) for name in ("fashion-dit", "avatars-dit"))
    assert colour.is_in(avatars_folder)
    assert fashion.is_in(data_folder)
    assert not colour.is_in(data_folder)
    assert not fashion.is_in(avatars_folder)


def test_calibration_images_of_both(avatars_folder: Path, data_folder: Path) -> None:
    scheduler = make_scheduler("ddim")
    for model, folder, shape in (
        ("fashion-dit", data_folder, (1, 28, 28)),
        ("avatars-dit", avatars_folder, (3, 64, 64)),
    ):
        data = calibration_images(model, folder, count=20)
        assert data.images.shape == (20, *shape)
        wanted, labels = dataset_of(model).read(folder, "train")
        assert (data.images.numpy() == wanted[:20]).all()
        assert (data.labels.numpy() == labels[:20]).all()
        assert torch.equal(data.alphas, scheduler.alphas_cumprod)
