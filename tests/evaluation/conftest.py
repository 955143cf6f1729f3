"""What the evaluation tests share: tiny data, a tiny network, a reference made with it."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from dpqlab.evaluation.features import FeatureNet, extract, load_feature_net, save_feature_net
from dpqlab.evaluation.frechet import frechet_distance, frechet_interval
from dpqlab.evaluation.reference import Reference
from dpqlab.evaluation.statistics import FeatureStatistics


def idx_bytes(items: np.ndarray) -> bytes:
    """Encode a uint8 array as an idx file."""
    header = bytes((0, 0, 8, items.ndim)) + struct.pack(f">{items.ndim}I", *items.shape)
    return header + items.tobytes()


def draw_images(labels: tuple[int, ...], seed: int, first_index: int = 0) -> np.ndarray:
    """Draw an image for each label: a bright column at 2 * label + 4, on noise."""
    images = []
    for index, label in enumerate(labels):
        generator = np.random.default_rng([seed, first_index + index])
        image = generator.integers(0, 100, size=(1, 28, 28), dtype=np.uint8)
        image[:, :, 2 * label + 4] = 255
        images.append(image)
    return np.stack(images)


def draw_split(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw images of all ten classes in turn, and their labels."""
    labels = np.arange(count) % 10
    return draw_images(tuple(labels.tolist()), seed), labels


@pytest.fixture(name="draw_images")
def draw_images_fixture() -> Callable[..., np.ndarray]:
    """The drawing function: ``(labels, seed, first_index) -> images``."""
    return draw_images


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four files laid out like Fashion-MNIST: 80 train and 40 test images."""
    folder = tmp_path_factory.mktemp("data")
    for seed, (prefix, count) in enumerate({"train": 80, "t10k": 40}.items()):
        images, labels = draw_split(count, seed + 10)
        for part, items in (("images-idx3", images[:, 0]), ("labels-idx1", labels)):
            path = folder / f"{prefix}-{part}-ubyte.gz"
            path.write_bytes(gzip.compress(idx_bytes(items.astype(np.uint8)), mtime=0))
    return folder


@pytest.fixture(scope="session")
def net_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of an untrained network with 8 features."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("net") / "feature_net.safetensors"
    save_feature_net(FeatureNet(width=4, features=8, blocks=(1, 1)), path)
    return path


@pytest.fixture
def net(net_path: Path) -> FeatureNet:
    """That network."""
    return load_feature_net(net_path)


@pytest.fixture
def reference(net: FeatureNet) -> Reference:
    """What drawn images look like to that network."""
    found = [extract(net, draw_split(60, seed)[0]) for seed in (1, 2)]
    train, test = (
        FeatureStatistics.from_features(f.features, source=name, feature_net=net.sha256)
        for f, name in zip(found, ("train", "test"), strict=True)
    )
    generator = np.random.default_rng(0)
    return Reference(
        train=train,
        test=test,
        real_features=found[0].features.astype(np.float16),
        floor=frechet_interval(found[1].features, train, resamples=10, generator=generator),
        halves=frechet_distance(train, test),
        floor_precision=0.75,
        floor_recall=0.5,
    )
