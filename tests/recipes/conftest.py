"""A data set laid out like Fashion-MNIST, and tiny models in the place of the bundled ones."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tiny import TINY

GEOMETRY = TINY | {"sample_size": 28, "patch_size": 7}


@pytest.fixture(autouse=True)
def small_machine(one_thread: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread and no GPU: for models this small neither is worth its start."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """64 images: a bright square on black whose place tells the class."""
    folder = tmp_path_factory.mktemp("data")
    labels = np.arange(64) % 10
    images = np.zeros((64, 28, 28), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[2 * label : 2 * label + 8, 8:20] = 255
    for part, items in (("images-idx3", images), ("labels-idx1", labels.astype(np.uint8))):
        header = bytes((0, 0, 8, items.ndim)) + struct.pack(f">{items.ndim}I", *items.shape)
        packed = gzip.compress(header + items.tobytes(), mtime=0)
        (folder / f"train-{part}-ubyte.gz").write_bytes(packed)
    return folder
