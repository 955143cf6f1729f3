"""The recorded speeds that ship: in step with the records, and read with care."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.speed_export import exported
from dpqlab.errors import CheckpointError
from dpqlab.studies.recorded_speed import bundled_speed, layer_table, read_speed, step_table
from dpqlab.viz.roofline import roofline_points


def test_what_ships_is_what_was_recorded() -> None:
    assert bundled_speed() == exported()


def test_tables_name_every_row() -> None:
    speeds = bundled_speed()
    assert layer_table(speeds.layers).count("\n") == len(speeds.layers) + 1
    table = step_table(speeds.steps)
    assert all(step.way in table for step in speeds.steps)


def test_layers_can_be_drawn_below_the_roof() -> None:
    speeds = bundled_speed()
    points = roofline_points(speeds.layer_records())
    assert len(points) == len(speeds.layers)
    for point, layer in zip(points, speeds.layers, strict=True):
        assert point.rate <= layer.product / 1e12
        assert point.intensity == pytest.approx(layer.flops / layer.bytes)


def test_one_row_by_its_name() -> None:
    speeds = bundled_speed()
    assert speeds.layer("token layers", 512, "dense").speed == 1.0
    with pytest.raises(KeyError, match="M=3"):
        speeds.layer("token layers", 3, "dense")


def test_another_file_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "speed.json"
    other.write_text(json.dumps({"layers": [{"work": "token layers"}], "steps": []}))
    with pytest.raises(CheckpointError, match="recorded speeds"):
        read_speed(other)
