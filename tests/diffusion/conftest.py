"""The tiny DiT in memory and in folders, made once."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from dpqlab.checkpoint import save_compressed
from dpqlab.core import CodebookCodec
from dpqlab.diffusion.pipeline import PixelDiTPipeline
from dpqlab.diffusion.schedules import make_scheduler
from dpqlab.nn import Plan, compress_
from dpqlab.nn.embedder import untie_embedders_
from tests.tiny import tiny_dit


@pytest.fixture(autouse=True)
def models_are_tiny(one_thread: None) -> None:
    """Run every test of this folder on one thread."""


@pytest.fixture(scope="session")
def dit() -> Any:
    """The tiny model; tests must not change it."""
    return tiny_dit()


@pytest.fixture(scope="session")
def full_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the tiny model as plain diffusers writes it, embedders untied; read only."""
    model = tiny_dit()
    untie_embedders_(model)
    folder = tmp_path_factory.mktemp("full") / "tiny"
    PixelDiTPipeline(model, make_scheduler("ddim")).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def compressed_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the tiny model, compressed; read only."""
    model = tiny_dit()
    compress_(model, Plan.for_blocks(CodebookCodec(d=4, k=16, row_scale=True, iterations=2)))
    folder = tmp_path_factory.mktemp("compressed") / "tiny-pq"
    scheduler: Any = make_scheduler("ddim")
    config = json.loads(scheduler.to_json_string())
    save_compressed(model, folder, scheduler_config=config, provenance={}, card="# Tiny\n")
    return folder


@pytest.fixture
def folder(full_folder: Path, tmp_path: Path) -> Path:
    """A copy of the full-precision folder to do anything with."""
    return Path(shutil.copytree(full_folder, tmp_path / "tiny"))
