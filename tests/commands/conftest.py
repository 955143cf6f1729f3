"""A DiT small enough to compress and sample in a second, in a folder as diffusers writes it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import tiny

TINY = tiny.TINY | {"sample_size": 28}


def write_tiny(folder: Path, *, seed: int = 0, **changes: Any) -> Path:
    """Write an untrained model whose blocks do something (adaLN-Zero starts as the identity)."""
    from dpqlab.diffusion.dit import make_dit
    from dpqlab.diffusion.pipeline import PixelDiTPipeline
    from dpqlab.diffusion.schedules import make_scheduler
    from dpqlab.nn.embedder import untie_embedders_

    torch.manual_seed(seed)
    model: Any = make_dit(TINY | changes).eval()
    for linear in [block.norm1.linear for block in model.transformer_blocks]:
        torch.nn.init.normal_(linear.weight, std=0.2)
    for linear in (model.proj_out_1, model.proj_out_2):
        torch.nn.init.normal_(linear.weight, std=0.2)
    untie_embedders_(model)
    PixelDiTPipeline(model, make_scheduler("ddim")).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def save_tiny() -> Callable[..., Path]:
    """The function that writes such a folder, for other geometries."""
    return write_tiny


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny full-precision model; read only."""
    return write_tiny(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def tiny_pq(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the same model compressed by ``dpqlab compress``; read only."""
    from dpqlab.cli import main

    out = tmp_path_factory.mktemp("compressed") / "tiny-pq-1bit"
    assert main(["compress", str(tiny), str(out), "--preset", "pq-1bit"]) == 0
    return out
