from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from dpqlab.diffusion import bundled, load_pipeline
from dpqlab.errors import CheckpointError, ConfigError
from dpqlab.nn.surgery import ledger_of_model
from dpqlab_app.drawing.folders import MOST_CREDITS, card_credits, compressed, geometry, stored_bits

COMPRESSED = [entry for entry in bundled() if entry.kind == "compressed"]


@pytest.mark.parametrize("entry", COMPRESSED, ids=lambda entry: entry.name)
def test_headers_tell_the_true_bits_that_the_ledger_counts(entry: object) -> None:
    path: Path = entry.path  # type: ignore[attr-defined]
    model = load_pipeline(path).transformer
    assert stored_bits(path) == pytest.approx(ledger_of_model(model).true_bits_per_weight)


@pytest.mark.parametrize("name", ["tiny-4", "colour-16"])
def test_so_they_do_for_small_layers(tiny_folders: Path, name: str) -> None:
    model = load_pipeline(tiny_folders / name).transformer
    expected = ledger_of_model(model).true_bits_per_weight
    assert stored_bits(tiny_folders / name) == pytest.approx(expected)


@pytest.mark.parametrize(("name", "dtype"), [("fashion-dit", torch.bfloat16)])
def test_full_precision_counts_at_its_stored_dtype(name: str, dtype: torch.dtype) -> None:
    folder = next(entry.path for entry in bundled() if entry.name == name)
    model = load_pipeline(name, dtype=dtype).transformer
    assert stored_bits(folder) == pytest.approx(ledger_of_model(model).true_bits_per_weight)


def test_a_folder_without_blocks_has_no_true_bits(tmp_path: Path) -> None:
    assert stored_bits(tmp_path) is None


def test_the_geometry_is_read_from_the_config(tiny_folders: Path) -> None:
    for name in ("colour", "colour-4"):
        found = geometry(tiny_folders / name)
        assert (found.in_channels, found.sample_size, found.num_embeds_ada_norm) == (3, 64, 15)
    assert compressed(tiny_folders / "colour-4")
    assert not compressed(tiny_folders / "colour")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"in_channels": "many"}', "\x00"])
def test_a_config_that_cannot_be_read_is_an_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json"):
        geometry(tmp_path)
    (tmp_path / "transformer").mkdir()
    (tmp_path / "transformer" / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        geometry(tmp_path)


def test_another_kind_of_model_is_refused(tmp_path: Path, tiny_folders: Path) -> None:
    config = json.loads((tiny_folders / "tiny" / "transformer" / "config.json").read_text())
    (tmp_path / "transformer").mkdir()
    path = tmp_path / "transformer" / "config.json"
    path.write_text(json.dumps(config | {"_class_name": "UNet2DModel"}))
    with pytest.raises(ConfigError, match="UNet2DModel"):
        geometry(tmp_path)


def test_credits_are_the_cards_own_section(tmp_path: Path) -> None:
    assert card_credits(tmp_path) == ""
    card = tmp_path / "README.md"
    card.write_text("# A\n\n## Credits\n\nLorelei by Lisa\nMicah by Micah\n\n## Data\nmuch\n")
    assert card_credits(tmp_path) == "Lorelei by Lisa\nMicah by Micah"
    card.write_text("# A\nno such heading: Credits\n")
    assert card_credits(tmp_path) == ""
    card.write_text("## Credits\n" + "x" * 10_000)
    assert len(card_credits(tmp_path)) == MOST_CREDITS
