from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest

from dpqlab.diffusion import bundled
from dpqlab.errors import CheckpointError, ConfigError
from dpqlab_app.drawing.catalogue import Catalogue, catalogue_of
from tests.apps.tiny_models import save_student


def test_every_bundled_model_is_there_with_all_its_versions() -> None:
    catalogue = catalogue_of()
    folders = [
        version.path.name for model in catalogue.models for version in (model.full, *model.versions)
    ]
    assert sorted(folders) == sorted(entry.name for entry in bundled())
    for model in catalogue.models:
        assert model.full.kind == "full"
        assert model.full.family == "full"
        assert model.full.true_bits == pytest.approx(16, abs=0.1)
        assert model.credit, "whose data it learned from is said on the page"
        bits = [version.true_bits or math.nan for version in model.versions]
        assert max(bits) < 3
        assert all(version.disk_bytes < model.full.disk_bytes / 4 for version in model.versions)


def test_fashion_as_people_read_it() -> None:
    model = catalogue_of().model("fashion-dit")
    assert (model.channels, model.side, len(model.classes)) == (1, 28, 10)
    assert model.classes[9] == "Ankle boot"
    assert [(version.key, version.title, version.family) for version in model.versions] == [
        ("best-1bit", "Best, 1 bit", "Best"),
        ("vq-1bit", "VQ, 1 bit", "VQ"),
        ("dpq-1bit", "DPQ, 1 bit", "DPQ"),
        ("best-1.25bit", "Best, 1.25 bits", "Best"),
        ("best-2bit", "Best, 2 bits", "Best"),
        ("vq-2bit", "VQ, 2 bits", "VQ"),
        ("dpq-2bit", "DPQ, 2 bits", "DPQ"),
    ]
    assert model.version("full") is model.full
    assert "Zalando" in model.credit


def test_own_folders_join_the_model_they_were_made_of(tiny_catalogue: Catalogue) -> None:
    tiny, colour = tiny_catalogue.model("tiny"), tiny_catalogue.model("colour")
    assert [version.key for version in tiny.versions] == ["tiny-4", "tiny-16"]
    assert [version.title for version in colour.versions] == [
        "colour-4 (yours)",
        "colour-16 (yours)",
    ]
    assert {version.family for version in tiny.versions} == {"own"}
    assert all(version.own for version in (tiny.full, *tiny.versions))
    assert not tiny_catalogue.models[0].full.own
    assert (colour.channels, colour.side) == (3, 64)
    assert colour.classes[3] == "Croodles", "a known geometry has known names"
    assert tiny.classes[3] == "class 3"


def test_unknown_names_are_answered_with_those_there_are(tiny_catalogue: Catalogue) -> None:
    with pytest.raises(ConfigError, match=r"fashion-dit, .*tiny"):
        tiny_catalogue.model("x" * 1000)
    with pytest.raises(ConfigError, match="tiny-4, tiny-16"):
        tiny_catalogue.model("tiny").version("best-1bit")


def test_a_student_of_an_absent_model_is_refused(tiny_folders: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="made of 'tiny', which is not here"):
        catalogue_of([tiny_folders / "tiny-4"])
    save_student(tmp_path / "orphan", source="")
    with pytest.raises(ConfigError, match="a model that it does not name"):
        catalogue_of([tmp_path / "orphan"])


def test_a_student_of_other_pictures_is_refused(tiny_folders: Path, tmp_path: Path) -> None:
    save_student(tmp_path / "odd", source="colour")
    with pytest.raises(ConfigError, match="version of the same model"):
        catalogue_of([tiny_folders / "colour", tmp_path / "odd"])


def test_a_model_of_the_same_name_is_not_taken_for_the_source(tmp_path: Path) -> None:
    save_student(tmp_path / "mine", source="fashion-dit", provenance={"source_sha256": "0" * 64})
    with pytest.raises(ConfigError, match="which is not here"):
        catalogue_of([tmp_path / "mine"])


def test_names_become_keys_that_an_address_can_hold(tiny_folders: Path, tmp_path: Path) -> None:
    names = ["a, b & <c>", "full", "none", "tiny-4", "ü", "x" * 90]
    for name in names:
        shutil.copytree(tiny_folders / "tiny-4", tmp_path / name)
    given = [tiny_folders / "tiny", tiny_folders / "tiny-4", *(tmp_path / n for n in names)]
    keys = [version.key for version in catalogue_of(given).model("tiny").versions]
    assert keys == ["tiny-4", "a-b-c", "full-2", "none-2", "tiny-4-2", "mine", "x" * 40]


def test_two_models_of_one_name_stay_apart(tiny_folders: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_folders / "tiny", tmp_path / "fashion-dit")
    models = catalogue_of([tmp_path / "fashion-dit"]).models
    assert models[-1].key == "fashion-dit-2"
    assert models[-1].credit == "", "it is not the bundled one"


def test_what_is_no_model_is_refused(tmp_path: Path, tiny_folders: Path) -> None:
    with pytest.raises(ConfigError, match="no model folder"):
        catalogue_of([tmp_path / "absent"])
    latent = Path(shutil.copytree(tiny_folders / "tiny", tmp_path / "latent"))
    path = latent / "transformer" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"in_channels": 4}))
    with pytest.raises(ConfigError, match="4 channels"):
        catalogue_of([latent])
    damaged = Path(shutil.copytree(tiny_folders / "tiny-4", tmp_path / "damaged"))
    (damaged / "manifest.json").unlink()
    with pytest.raises(CheckpointError):
        catalogue_of([tiny_folders / "tiny", damaged])
