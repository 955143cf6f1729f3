"""What a job runs, and on which tiny models."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

TINY: dict[str, Any] = {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "num_layers": 1,
    "in_channels": 1,
    "out_channels": 1,
    "sample_size": 28,
    "patch_size": 4,
    "num_embeds_ada_norm": 10,
}
"""A DiT that draws what ``fashion-dit`` draws, in milliseconds."""


def dpqlab(arguments: list[str]) -> int:
    """Run the ``dpqlab`` command."""
    from dpqlab.cli import main

    return main(arguments)


def train(arguments: list[str]) -> int:
    """Run the recipe that trains ``fashion-dit``, on the tiny geometry."""
    from recipes import training
    from recipes.training_state import TrainConfig

    # what takes long is to draw the sheets: one image a class is enough here
    training.sample_sheet = partial(training.sample_sheet, per_class=1)
    geometry = TINY | {"patch_size": 7}
    recipe = training.Recipe(model="fashion-dit", geometry=geometry, config=TrainConfig())
    return training.command(recipe, arguments)


def prepare(arguments: list[str]) -> int:
    """Write a tiny teacher and training images to a folder."""
    folder = Path(arguments[0])
    write_teacher(folder / "teacher", seed=0)
    write_images(folder / "images")
    return 0


PROGRAMS: dict[str, Callable[[list[str]], int]] = {
    "dpqlab": dpqlab,
    "train": train,
    "prepare": prepare,
}


def write_teacher(folder: Path, *, seed: int) -> None:
    """Write an untrained model whose blocks do something, as diffusers does."""
    import torch

    from dpqlab.diffusion.dit import make_dit
    from dpqlab.diffusion.pipeline import PixelDiTPipeline
    from dpqlab.diffusion.schedules import make_scheduler
    from dpqlab.nn.embedder import untie_embedders_

    torch.manual_seed(seed)
    model: Any = make_dit(TINY).eval()
    gates = [block.norm1.linear for block in model.transformer_blocks]
    for linear in [*gates, model.proj_out_1, model.proj_out_2]:
        torch.nn.init.normal_(linear.weight, std=0.2)
    untie_embedders_(model)
    PixelDiTPipeline(model, make_scheduler("ddim")).save_pretrained(folder)


def write_images(folder: Path) -> None:
    """Write 64 images as Fashion-MNIST has them: a bright square whose place tells the class."""
    import numpy as np

    labels = (np.arange(64) % 10).astype(np.uint8)
    images = np.zeros((64, 28, 28), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[2 * label : 2 * label + 8, 8:20] = 255
    folder.mkdir(parents=True)
    for part, items in (("images-idx3", images), ("labels-idx1", labels)):
        header = bytes((0, 0, 8, items.ndim)) + struct.pack(f">{items.ndim}I", *items.shape)
        packed = gzip.compress(header + items.tobytes(), mtime=0)
        (folder / f"train-{part}-ubyte.gz").write_bytes(packed)
