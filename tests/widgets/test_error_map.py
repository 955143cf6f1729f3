"""The view of errors across blocks and steps, without a browser."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dpqlab.diffusion import models
from dpqlab.errors import ConfigError
from dpqlab.tracing import MEASURES, load_trace
from dpqlab.widgets import ErrorMap
from tests.viz.test_error_map import BLOCKS, PQ, STEPS, VQ


@pytest.fixture
def assets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three traces in the place of what is bundled; the current folder is empty."""
    monkeypatch.setattr(models, "ASSETS", tmp_path)
    runs = tmp_path / "fashion-dit-runs"
    runs.mkdir()
    for trace in (
        VQ,
        PQ,
        replace(PQ, about=replace(PQ.about, student="tiny-best-2bit", true_bits=2.0)),
    ):
        trace.save(runs / f"trace-{trace.name.removeprefix('tiny-')}.npz")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    return tmp_path


@pytest.fixture
def view(assets: Path) -> ErrorMap:
    opened = ErrorMap()
    assert opened.widget is not None
    return opened


def tick(view: ErrorMap, name: str, value: bool) -> None:
    (box,) = [b for b in view._students.boxes if b.description == name]
    box.value = value


def test_it_opens_on_the_bundled_traces(view):
    assert view.state.students == ["vq-1bit", "pq-1bit"]
    assert [box.description for box in view._students.boxes] == ["vq-1bit", "pq-1bit", "best-2bit"]
    assert view.plot.spec["data"][0]["type"] == "heatmap"
    assert len(view.plot.spec["layout"]["images"]) == 3
    assert view.cell_plot.spec["data"]
    assert view.status.value == ""


def test_the_sentence_tells_the_numbers_on_screen(view):
    view.state.set({"block": 1, "step": 2})
    errors = [VQ.error(measure)[1, 2] for measure in MEASURES]
    told = view.sentence()
    assert f"local {errors[0]:.2g}, one pass {errors[1]:.2g}, accumulated {errors[2]:.2g}" in told
    assert "Block 1 at timestep 799" in told
    start, end = VQ.by_step("accumulated")[[0, -1]]
    assert f"from {start:.2g} at the first step to {end:.2g} at the last" in told
    assert view.plot.label == told
    assert "True bits differ" not in told
    tick(view, "best-2bit", True)
    assert "True bits differ" in view.sentence()


def test_a_click_chooses_the_cell_the_student_and_the_images(view):
    before = view.pictures.pixels
    view.plot.click = {"curve": 1, "x": 4, "y": 2, "at": 1}
    state = view.state
    assert (state.block, state.step, state.student) == (2, 4, 1)
    assert view.shown.name == "tiny-pq-1bit"
    assert view._students.images_of.value == 1
    assert "timestep 599" in view.caption.value
    assert "pq-1bit" in view.caption.value
    assert view.pictures.pixels != before
    assert "timestep 599" in view.cell_plot.spec["layout"]["title"]["text"]
    view.plot.click = {"curve": 6, "x": 0, "y": 0, "at": 2}
    assert (state.block, state.step) == (2, 4)


def test_a_click_on_an_image_puts_it_into_the_strip(view):
    strip = view.plot.spec["layout"]["images"][0]["source"]
    view.pictures.click = {"row": 3, "column": 6, "at": 1}
    assert view.state.image == 1
    assert view.pictures.outline == [[0, 5, 14, 4]]
    assert view.plot.spec["layout"]["images"][0]["source"] != strip


def test_the_measure_and_the_branch_change_the_maps(view):
    maps = {json.dumps(view.plot.spec["data"][0]["z"])}
    for measure in ("local", "pass"):
        view.state.measure = measure
        maps.add(json.dumps(view.plot.spec["data"][0]["z"]))
    assert len(maps) == 3
    assert len(view.cell_plot.spec["data"]) == 4
    view.state.branch = "with class"
    np.testing.assert_array_equal(view.data()["local"][0], VQ.error("local", "with class")[0, 0])


def test_students_are_ticked_and_the_last_one_stays(view):
    tick(view, "vq-1bit", False)
    assert view.state.students == ["pq-1bit"]
    tick(view, "pq-1bit", False)
    assert view.state.students == ["pq-1bit"]
    assert [box.value for box in view._students.boxes] == [False, True, False]
    tick(view, "best-2bit", True)
    assert view.state.students == ["pq-1bit", "best-2bit"]
    view.state.students = ["vq-1bit"]
    assert [box.value for box in view._students.boxes] == [True, False, False]


def test_fewer_students_than_the_one_whose_images_are_shown(view):
    view.state.student = 1
    tick(view, "pq-1bit", False)
    assert view.shown.name == "tiny-vq-1bit"
    assert view.status.value == ""


@pytest.mark.parametrize(
    "knobs",
    [
        {},
        {"measure": "local", "branch": "without class", "block": 2, "step": 0, "image": 1},
        {"students": ["best-2bit", "vq-1bit"], "student": 1},
    ],
)
def test_the_code_makes_the_same_figure(view, knobs):
    view.state.set(knobs)
    names: dict[str, Any] = {}
    exec(view.code(), names)
    assert json.loads(names["figure"].to_json()) == json.loads(view.figure().to_json())


def test_the_state_goes_to_json_and_back(view, assets):
    view.state.set({"students": ["pq-1bit"], "measure": "pass", "step": 1})
    other = ErrorMap()
    other.state.from_json(view.state.to_json())
    assert other.state.knobs() == view.state.knobs()
    other.state.reset()
    assert other.state.students == ["vq-1bit", "pq-1bit"]


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"students": ["nobody"]}, "no student 'nobody'.*vq-1bit"),
        ({"students": []}, "students"),
        ({"students": ["vq-1bit", "vq-1bit"]}, "each once"),
        ({"measure": "global"}, "measure"),
        ({"branch": "third"}, "branch is 'third'.*both"),
        ({"block": BLOCKS}, f"block is {BLOCKS}: expected one of 0 to {BLOCKS - 1}"),
        ({"step": STEPS}, "step is"),
        ({"image": 2}, "image is 2.*0 to 1"),
    ],
)
def test_impossible_states_change_nothing(view, knobs, message):
    before = view.state.knobs()
    with pytest.raises(ConfigError, match=message):
        view.state.from_json(json.dumps({"state": "ErrorMapState", "knobs": {"step": 0} | knobs}))
    assert view.state.knobs() == before


def test_data_holds_every_cell(view, tmp_path):
    view.export(tmp_path / "map.csv")
    rows = list(csv.DictReader((tmp_path / "map.csv").open()))
    assert len(rows) == 2 * BLOCKS * STEPS
    last = rows[-1]
    assert (last["student"], last["timestep"]) == ("tiny-pq-1bit", "599")
    assert float(last["accumulated"]) == pytest.approx(PQ.error("accumulated")[-1, -1])


def test_traces_that_do_not_fit_are_told_under_the_view(assets):
    other = replace(VQ, timesteps=(5, 4, 3, 2, 1))
    view = ErrorMap(traces={"a": VQ, "b": other})
    assert view.widget is not None
    assert "expected the same" in view.status.value
    tick(view, "b", False)
    assert view.status.value == ""


def test_traces_without_pictures(assets):
    bare = replace(VQ, picture_steps=(), pictures=np.zeros((2, 0, 0, 1, 0, 0), dtype=np.uint8))
    view = ErrorMap(traces={"a": bare})
    assert view.widget is not None
    assert view.status.value == ""
    assert view.pictures.layout.display == "none"
    assert "images" not in view.plot.spec["layout"]


def test_an_installation_without_traces(tmp_path, monkeypatch):
    monkeypatch.setattr(models, "ASSETS", tmp_path)
    with pytest.raises(ConfigError, match="dpqlab trace"):
        ErrorMap()
    VQ.save(tmp_path / "mine.npz")
    view = ErrorMap([tmp_path / "mine.npz"])
    assert view.shown.name == "tiny-vq-1bit"
    with pytest.raises(ConfigError, match="no trace 'nobody'"):
        ErrorMap(["nobody"])
    with pytest.raises(ConfigError, match="name one"):
        ErrorMap([])


# --- tracing here -------------------------------------------------------------------------------


@pytest.fixture
def tiny_assets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None) -> Path:
    """A tiny teacher and student, and a trace of theirs."""
    from dpqlab.diffusion.sampling import SampleRequest
    from dpqlab.tracing import TraceConfig, load_pair, trace
    from tests.commands.conftest import write_tiny

    monkeypatch.setattr(models, "ASSETS", tmp_path)
    write_tiny(tmp_path / "fashion-dit", sample_size=8)
    write_tiny(tmp_path / "fashion-dit-vq-1bit", sample_size=8, seed=1)
    made = trace(
        load_pair("fashion-dit", "fashion-dit-vq-1bit"),
        SampleRequest(labels=(0, 1, 2), steps=3, seed=5),
        TraceConfig(shown=4),
    )
    (tmp_path / "fashion-dit-runs").mkdir()
    made.save(tmp_path / "fashion-dit-runs/trace-vq-1bit.npz")
    return tmp_path


def test_tracing_here_adds_a_student(tiny_assets):
    view = ErrorMap(["vq-1bit"])
    assert view.widget is not None
    view.live.run_button.click()
    assert view.live.job.wait(60)
    assert view.live.job.status == "done", view.live.job.error
    assert view.state.students == ["vq-1bit", "vq-1bit (here)"]
    here = view.trace("vq-1bit (here)")
    assert len(here.about.labels) == 4
    recorded = load_trace("vq-1bit")
    assert here.timesteps == recorded.timesteps
    np.testing.assert_allclose(
        here.image_error[:, :3], recorded.image_error, rtol=1e-3, err_msg="the same images"
    )
    assert re.search("done: 4 images", view.live.words.value)
    assert not view.live.run_button.disabled
    names: dict[str, Any] = {}
    exec(view.code(), names)
    assert len([t for t in names["figure"].data if t.type == "heatmap"]) == 2
    told = [line["name"] for line in view.plot.spec["data"] if "name" in line][:2]
    assert told[1] == told[0].replace("1bit", "1bit (here)")
    view.state.from_json(view.state.to_json())
    view.close()


def test_what_goes_wrong_in_tracing_is_told(view):
    """The traces in place are of models that are not bundled."""
    view.live.run_button.click()
    assert view.live.job.wait(30)
    assert "⚠ no model" in view.live.words.value
    assert not view.live.run_button.disabled
    assert view.live.stop_button.disabled


def test_stop_keeps_the_page_as_it_was(tiny_assets):
    view = ErrorMap(["vq-1bit"])
    assert view.widget is not None
    view.live.start("fashion-dit", "fashion-dit-vq-1bit", steps=400)
    assert not view.live.start("fashion-dit", "fashion-dit-vq-1bit", steps=1), "one at a time"
    view.live.stop_button.click()
    assert "Stopping after the step that is under way." in view.live.words.value
    assert view.live.job.wait(60)
    assert view.live.job.status == "stopped"
    assert view.state.students == ["vq-1bit"]
