from __future__ import annotations

import base64
import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from dpqlab.errors import ConfigError, ShapeError
from dpqlab.studies.pruning_runs import PARTS, PoolPoint, PruningRun, RunPoint
from dpqlab.viz.pruning_path import fraction, pruning_path, rows_picture, sample_rows, stored_parts


def point(bits: float, error: float, budget: float | None = None) -> RunPoint:
    pools = tuple(
        PoolPoint(kind=kind, form="ragged", codewords=int(9 * bits), share=0.1, weighted_error=0.1)
        for kind in ("attn", "ff")
    )
    return RunPoint(
        budget=budget,
        share=0.1,
        codewords=18,
        parts={part: 0 if part == "scale" else int(8e6 * (i + 1)) for i, part in enumerate(PARTS)},
        true_bits=bits,
        stored_bytes=int(1e6 * bits),
        weight_error=error,
        weighted_error=error,
        noise_error=error,
        image_error=2 * error,
        pools=pools,
    )


def run(name: str = "one") -> PruningRun:
    return PruningRun(
        name=name,
        points=(point(4, 0.1), point(3, 0.4, 0.25), point(2, 0.3, 0.125)),
        samples=np.zeros((3, 2, 1, 4, 4), np.uint8),
        teacher=np.zeros((2, 1, 4, 4), np.uint8),
        labels=(0, 1),
        about={},
    )


def test_every_point_can_be_told_from_where_it_was_clicked():
    figure = pruning_path([run("one"), run("two")], error="image_error")
    assert [trace.name for trace in figure.data] == ["one", "two"]
    second = figure.data[1]
    assert [list(data) for data in second.customdata] == [["two", 0], ["two", 1], ["two", 2]]
    assert list(second.y) == pytest.approx([0.2, 0.8, 0.6])
    assert figure.layout.yaxis.type == "log"
    assert "teacher" in figure.layout.yaxis.title.text


def test_what_is_beaten_is_not_filled():
    symbols = pruning_path([run()]).data[0].marker.symbol
    assert [symbol.endswith("-open") for symbol in symbols] == [False, True, False]


def test_marks_stand_at_their_points():
    figure = pruning_path([run()], marks={"A": ("one", 2), "here": ("one", 0)})
    pinned, here = figure.data[1:]
    assert (pinned.x[0], pinned.y[0], pinned.text[0]) == (2, 0.3, "A")
    assert (here.x[0], here.text[0]) == (4, "")
    assert pinned.marker.color != here.marker.color
    for place in (("two", 0), ("one", 3)):
        with pytest.raises(ConfigError, match="mark 'A' is at point"):
            pruning_path([run()], marks={"A": place})
    with pytest.raises(ConfigError, match="no pruning run"):
        pruning_path([])
    with pytest.raises(ConfigError, match="unknown error"):
        pruning_path([run()], error="bytes")


def test_what_is_stored_adds_up_in_megabytes():
    models = {"A": point(4, 0.1), "B": point(2, 0.3)}
    figure = stored_parts(models)
    bars = [trace for trace in figure.data if trace.type == "bar"]
    total = sum(bar.x[0] for bar in bars)
    assert total == pytest.approx(sum(models["A"].parts.values()) / 8e6)
    assert len(bars) == len(PARTS) - 1  # nothing has scales
    counts = [trace for trace in figure.data if trace.type == "scatter"]
    assert [list(trace.x) for trace in counts] == [[36, 36], [18, 18]]
    with pytest.raises(ConfigError, match="no model"):
        stored_parts({})


def test_pictures_stand_in_rows():
    rows = {"teacher": np.full((2, 1, 4, 4), 9, np.uint8), "A": np.full((2, 1, 4, 4), 7, np.uint8)}
    picture = rows_picture(list(rows.values()))
    assert picture.shape == (12, 10, 4)
    assert picture[0, 0].tolist() == [9, 9, 9, 255]
    assert picture[6, 6].tolist() == [7, 7, 7, 255]
    assert picture[0, 4, 3] == picture[4, 0, 3] == 0
    figure = sample_rows(rows)
    drawn = base64.b64decode(figure.data[0].source.partition(",")[2])
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(drawn))), picture)
    assert list(figure.layout.yaxis.ticktext) == ["teacher", "A"]
    with pytest.raises(ShapeError, match="must all be"):
        sample_rows(rows | {"B": np.zeros((1, 1, 4, 4), np.uint8)})
    with pytest.raises(ConfigError, match="no pictures"):
        sample_rows({})


def test_budgets_are_written_as_people_say_them():
    assert [fraction(b) for b in (None, 1 / 12, 0.3, 2.0)] == ["none", "1/12", "0.3", "2"]
    rgb = replace(
        run(), teacher=np.zeros((2, 3, 4, 4), np.uint8), samples=np.zeros((3, 2, 3, 4, 4), np.uint8)
    )
    assert rows_picture([rgb.teacher]).shape == (6, 10, 4)
