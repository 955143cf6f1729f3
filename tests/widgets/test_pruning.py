from __future__ import annotations

import re
import threading
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import ipywidgets as widgets
import numpy as np
import plotly.graph_objects as go
import pytest

from dpqlab.errors import ConfigError
from dpqlab.studies.pruned_checkpoint import PruneProgress
from dpqlab.viz.pruning_path import pruning_path
from dpqlab.widgets import PoolPruning, pruning_save
from tests.viz.test_pruning_path import point, run


@pytest.fixture
def view():
    other = replace(
        run("two"),
        points=(point(3.9, 0.2), point(3, 0.3, 0.25)),
        samples=np.ones((2, 2, 1, 4, 4), np.uint8),
    )
    about = {"source": "x", "pruning": {"form": "ragged"}}
    made = PoolPruning([replace(one, about=about) for one in (run("one"), other)])
    yield made
    made.close()


def control(view, description):
    found = [w for w in view.widget.children[0].children if w.description == description]
    assert len(found) == 1
    return found[0]


def test_moving_the_slider_moves_everything(view):
    slider = control(view, "Budget")
    assert [label for label, _ in slider.options] == ["none", "1/4", "1/8"]
    before = view.plot.spec, view.parts.spec, view.pictures.spec
    slider.value = 2
    assert view.state.point == 2
    assert view.now.budget == 0.125
    assert all(a != b for a, b in zip(before[:2], (view.plot.spec, view.parts.spec), strict=True))
    assert "1/8 of the bits of the codes" in view.sentence()
    assert "2.00 true bits" in view.plot.label


def test_another_run_has_stops_of_its_own(view):
    slider = control(view, "Budget")
    slider.value = 2
    control(view, "Model").value = "two"
    assert [label for label, _ in slider.options] == ["none", "1/4"]
    assert view.index == slider.value == 1
    assert view.sentence().startswith("two, ")


def test_a_point_that_is_clicked_is_where_one_is(view):
    assert view.widget
    view.plot.click = {"customdata": ["two", 1], "at": 1}
    assert (view.state.run, view.state.point) == ("two", 1)
    assert control(view, "Budget").value == 1
    view.plot.click = {"customdata": None, "at": 2}
    assert view.state.run == "two"


def test_pins_are_compared_at_equal_bits_only(view):
    control(view, "Pin A").click()
    view.state.set({"run": "two", "point": 0})
    control(view, "Pin B").click()
    assert view.marks == {"A": ("one", 0), "B": ("two", 0), "here": ("two", 0)}
    assert "but at other bits" in view.sentence()
    view.state.set({"a": ["one", 1], "b": ["two", 1]})
    assert (
        "equal true bits, within 0.0%: B has the lower error (0.3 against 0.4)" in view.sentence()
    )
    assert set(view.pictures.label.split(" of ")[1].split(", ")) == {"teacher", "A", "B", "here"}
    control(view, "Clear pins").click()
    assert view.state.a == view.state.b == []
    with pytest.raises(ConfigError, match="no pin 'C'"):
        view.pin("C")


def test_the_state_comes_back_and_nonsense_is_refused(view):
    view.state.set({"run": "two", "point": 1, "error": "image_error", "a": ["one", 2]})
    text = view.state.to_json()
    view.state.reset()
    assert (view.state.run, view.state.a) == ("one", [])
    view.state.from_json(text)
    assert (view.state.run, view.state.a) == ("two", ["one", 2])
    for bad in ({"run": "three"}, {"a": ["one", 9]}, {"b": "one"}, {"error": "x"}, {"point": -1}):
        with pytest.raises(ConfigError):
            view.state.set(bad)
    assert view.state.to_json() == text


def test_data_and_figure_say_the_same(view, tmp_path):
    data = view.data()
    assert {len(column) for column in data.values()} == {5}
    assert data["on_front"] == [True, False, True, True, True]
    view.to_csv(tmp_path / "data.csv")
    assert (tmp_path / "data.csv").read_text().splitlines()[0].startswith("run,budget,on_front")
    assert view.figure() == pruning_path(view.runs, marks=view.marks)


def test_the_code_makes_what_is_on_screen():
    view = PoolPruning()
    view.state.set({"point": 2, "error": "image_error", "a": [view.runs[0].name, 0]})
    scope: dict[str, object] = {}
    exec(view.code(), scope)
    assert scope["figure"] == view.figure()
    assert isinstance(scope["figure"], go.Figure)
    assert re.search(r"\d\.\d\d true bits", view.sentence())


def test_saving_runs_beside_the_kernel_and_can_be_stopped(view, tmp_path, monkeypatch):
    reached, tasks = threading.Event(), []

    def slow(task, folder, *, overwrite=False):
        tasks.append(task)

        def steps():
            for i in range(1000):
                reached.set()
                yield PruneProgress(stage="prune", done=0.1, seconds=1, left=9, note=str(i))
                threading.Event().wait(0.01)

        return steps()

    monkeypatch.setattr(pruning_save, "prune_checkpoint", slow)
    view.state.point = 1
    view.saver.folder.value = str(tmp_path / "out")
    view.saver.run_button.click()
    assert reached.wait(5)
    assert not view.saver.start()
    assert tasks[-1].budget == 0.25
    assert (tasks[-1].preset, tasks[-1].form) == ("one", "ragged")
    view.saver.stop_button.click()
    assert view.saver.job.wait(5)
    assert "nothing was written" in view.saver.words.value
    assert not view.saver.run_button.disabled


def test_what_was_saved_is_said_also_when_stop_came_too_late(view, tmp_path, monkeypatch):
    stopped = threading.Event()
    ledger: Any = SimpleNamespace(true_bits_per_weight=1.25, stored_bytes=3_400_000)

    def last_step(task, folder, *, overwrite=False):
        def steps():
            assert stopped.wait(5)
            yield PruneProgress(stage="save", done=1, seconds=9, left=0, note="", ledger=ledger)

        return steps()

    monkeypatch.setattr(pruning_save, "prune_checkpoint", last_step)
    view.saver.folder.value = str(tmp_path / "out")
    view.saver.run_button.click()
    view.saver.folder.value = "for the next time"
    view.saver.stop()
    stopped.set()
    assert view.saver.job.wait(5)
    assert f"Saved as the folder {tmp_path / 'out'}: 1.250 true bits" in view.saver.words.value
    assert "3.40 MB" in view.saver.words.value


def test_what_cannot_be_saved_is_said(view, tmp_path):
    view.saver.folder.value = str(tmp_path)
    assert not view.saver.start()
    assert "⚠" in view.saver.words.value
    assert isinstance(view.saver.panel, widgets.Box)


def test_no_runs_are_an_error():
    with pytest.raises(ConfigError, match="no pruning runs"):
        PoolPruning([])
