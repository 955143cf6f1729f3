"""One small compressed model and its folder, made once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from torch import nn

from dpqlab.checkpoint.save import save_compressed
from tests.checkpoint.forge import PROVENANCE, SCHEDULER_CONFIG, compressed_dit


@pytest.fixture(scope="session")
def model() -> nn.Module:
    """The compressed model; tests must not change it."""
    return compressed_dit()


@pytest.fixture(scope="session")
def original(model: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its folder; tests must not change it."""
    folder = tmp_path_factory.mktemp("original") / "tiny-dit"
    save_compressed(
        model, folder, scheduler_config=SCHEDULER_CONFIG, provenance=PROVENANCE, card="# Tiny\n"
    )
    return folder


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    """A copy of the folder to do anything with."""
    return Path(shutil.copytree(original, tmp_path / "tiny-dit"))
