"""Fixtures: tiny models in folders, as `dpqlab compress` leaves them, and an engine for them.

``conftest.py`` imports them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dpqlab.checkpoint import save_compressed
from dpqlab.core import CodebookCodec
from dpqlab.diffusion.pipeline import PixelDiTPipeline
from dpqlab.diffusion.schedules import make_scheduler
from dpqlab.nn import Plan, compress_
from dpqlab.nn.embedder import untie_embedders_
from dpqlab_app.drawing.catalogue import Catalogue, catalogue_of
from dpqlab_app.drawing.engine import Engine
from dpqlab_app.drawing.settings import DrawSettings
from tests.tiny import TINY_AVATARS, tiny_dit


@pytest.fixture(scope="session")
def tiny_folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of tiny models: ``tiny`` and ``colour`` with two students each; read only."""
    root = tmp_path_factory.mktemp("models")
    for name, changes in {"tiny": {}, "colour": TINY_AVATARS}.items():
        full = tiny_dit(**changes)
        untie_embedders_(full)
        PixelDiTPipeline(full, make_scheduler("ddim")).save_pretrained(root / name)
        for k in (4, 16):
            save_student(root / f"{name}-{k}", source=name, k=k, **changes)
    return root


def save_student(
    folder: Path,
    *,
    source: str,
    k: int = 16,
    provenance: dict[str, Any] | None = None,
    **changes: Any,
) -> None:
    """Compress a tiny model into ``folder``."""
    model = tiny_dit(**changes)
    compress_(model, Plan.for_blocks(CodebookCodec(d=4, k=k, row_scale=True, iterations=2)))
    scheduler: Any = make_scheduler("ddim")
    save_compressed(
        model,
        folder,
        scheduler_config=json.loads(scheduler.to_json_string()),
        provenance={"source": source} | (provenance or {}),
        card="# Tiny\n",
    )


@pytest.fixture(scope="session")
def tiny_catalogue(tiny_folders: Path) -> Catalogue:
    """The bundled models, and the tiny ones as somebody's own."""
    names = ("tiny-4", "tiny", "tiny-16", "colour", "colour-4", "colour-16")
    return catalogue_of([tiny_folders / name for name in names])


@pytest.fixture
def tiny_engine(tiny_catalogue: Catalogue, one_thread: None) -> Engine:
    """An engine on the CPU, without any model loaded."""
    return Engine(tiny_catalogue, device="cpu")


@pytest.fixture
def tiny_settings() -> Callable[..., DrawSettings]:
    """Make settings for the tiny grey model."""

    def make(**changes: Any) -> DrawSettings:
        usual = {"model": "tiny", "versions": ("tiny-16",), "labels": (3, 0, 9), "steps": 4}
        return DrawSettings(**(usual | changes))

    return make
