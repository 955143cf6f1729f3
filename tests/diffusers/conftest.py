"""Folders of a tiny DiT: compressed by dpqlab, in two ways, and as diffusers writes it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from dpqlab.checkpoint import save_compressed
from dpqlab.core import CodebookCodec
from dpqlab.diffusion.schedules import make_scheduler
from dpqlab.nn import Plan, compress_
from dpqlab.nn.embedder import untie_embedders_
from tests.diffusers.models import GEOMETRIES, SHARED
from tests.tiny import tiny_dit

CODECS = {
    "pools shared by kind": SHARED,
    "pools of their own": CodebookCodec(d=4, k=16, scope="position"),
}


@pytest.fixture(autouse=True)
def models_are_tiny(one_thread: None) -> None:
    """Run every test of this folder on one thread."""


@pytest.fixture(scope="session")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders by the name of their codec, made once; tests must not change them."""
    return {name: write(tmp_path_factory.mktemp("made"), codec) for name, codec in CODECS.items()}


@pytest.fixture(params=CODECS)
def folder(request: pytest.FixtureRequest, originals: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of each to do anything with."""
    return Path(shutil.copytree(originals[request.param], tmp_path / "tiny"))


@pytest.fixture
def sharing(originals: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of the folder whose layers share pools."""
    return Path(shutil.copytree(originals["pools shared by kind"], tmp_path / "tiny"))


def write(parent: Path, codec: CodebookCodec) -> Path:
    """Save the tiny model, compressed."""
    model = tiny_dit()
    compress_(model, Plan.for_blocks(codec, name="tiny"))
    scheduler: Any = make_scheduler("ddim")
    settings = json.loads(scheduler.to_json_string())
    return save_compressed(
        model, parent / "tiny", scheduler_config=settings, provenance={"seed": 0}, card="tiny"
    ).path


@pytest.fixture
def dense(tmp_path: Path) -> Path:
    model = tiny_dit()
    untie_embedders_(model)
    model.save_pretrained(tmp_path / "dense")
    return tmp_path / "dense"


@pytest.fixture(params=GEOMETRIES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param
