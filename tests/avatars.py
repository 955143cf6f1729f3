"""A second bundled model, tiny: what ``avatars-dit`` draws, and what judges it."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from dpqlab.calibration import recording
from dpqlab.diffusion import models
from dpqlab.diffusion.pipeline import PixelDiTPipeline
from dpqlab.diffusion.schedules import make_scheduler
from dpqlab.evaluation import ablation, bundled
from dpqlab.evaluation.features import FeatureNet, extract, load_feature_net, save_feature_net
from dpqlab.evaluation.frechet import frechet_interval
from dpqlab.evaluation.reference import Reference
from dpqlab.evaluation.statistics import FeatureStatistics
from tests.tiny import TINY_AVATARS, tiny_dit

MODEL = "avatars-dit"
READERS: tuple[ModuleType, ...] = (models, bundled, ablation, recording)


def write_model(root: Path) -> Path:
    """Write a random model by the real one's name, a network and a reference into assets."""
    velocity = make_scheduler(prediction="v_prediction")
    PixelDiTPipeline(tiny_dit(**TINY_AVATARS), velocity).save_pretrained(root / MODEL)
    torch.manual_seed(0)
    path = root / MODEL / "feature_net.safetensors"
    save_feature_net(FeatureNet(channels=3, classes=15, width=4, features=8, blocks=(1, 1)), path)
    net = load_feature_net(path)
    pixels = np.random.default_rng(0).integers(0, 256, (60, 3, 64, 64), dtype=np.uint8)
    found = extract(net, pixels).features
    train, test = (
        FeatureStatistics.from_features(part, source="noise", feature_net=net.sha256)
        for part in np.array_split(found, 2)
    )
    generator = np.random.default_rng(0)
    Reference(
        train=train,
        test=test,
        real_features=found[:30].astype(np.float16),
        floor=frechet_interval(found[30:], train, resamples=10, generator=generator),
        halves=0.1,
        floor_precision=0.75,
        floor_recall=0.5,
    ).save(root / MODEL / "reference.npz")
    return root


def use_assets(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    """Put a folder in the place of what ships."""
    for module in READERS:
        monkeypatch.setattr(module, "ASSETS", root)


def write_data(folder: Path, count: int = 60) -> Path:
    """Write both splits: a bright square on a colour, whose place tells the class."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, split in enumerate(("train", "test")):
        labels = np.arange(count) % 15
        colours = np.random.default_rng(seed).integers(0, 200, (count, 1, 1, 3))
        images = np.broadcast_to(colours, (count, 64, 64, 3)).astype(np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[4 * label : 4 * label + 8, 20:40] = 255
        for part, items in (("images-idx4", images), ("labels-idx1", labels.astype(np.uint8))):
            header = bytes((0, 0, 8, items.ndim)) + struct.pack(f">{items.ndim}I", *items.shape)
            packed = gzip.compress(header + items.tobytes(), compresslevel=1, mtime=0)
            (folder / f"{split}-{part}-ubyte.gz").write_bytes(packed)
    return folder
