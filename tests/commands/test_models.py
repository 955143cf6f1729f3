from __future__ import annotations

import json
from pathlib import Path

import pytest

from dpqlab.cli import main
from dpqlab.commands.models import describe
from dpqlab.diffusion.models import ModelEntry, bundled


def test_lists_what_is_bundled(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--json"]) == 0
    models = json.loads(capsys.readouterr().out)["models"]
    assert [model["name"] for model in models] == [entry.name for entry in bundled()]
    assert main(["models"]) == 0
    shown = capsys.readouterr().out
    assert all(model["name"] in shown for model in models)


def test_a_compressed_model_names_its_codec(tiny_pq: Path) -> None:
    entry = ModelEntry(name="x", path=tiny_pq, kind="compressed", bytes_on_disk=1)
    assert describe(entry)["codecs"] == ["PQ d=6 k=16 +scale"]
