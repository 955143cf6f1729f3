from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from dpqlab.calibration.recording import bundled_recording
from dpqlab.diffusion import load_pipeline
from dpqlab.errors import ConfigError
from dpqlab.studies.live_calibration import LiveConfig
from dpqlab.widgets import live_run
from dpqlab.widgets.calibration import LIVE, CalibrationView
from dpqlab.widgets.live_run import config_code
from tests.studies.test_live_calibration import tiny_pair

pytestmark = pytest.mark.usefixtures("one_thread")
SHORT = LiveConfig(steps=6, batch=4, every=2, strip_every=4)


@pytest.fixture
def view() -> Any:
    made = CalibrationView("best-1bit")
    assert made.widget.children
    yield made
    made.close()


@pytest.fixture
def live(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A view whose live runs are those of a tiny model."""
    monkeypatch.setattr(live_run, "live_pair", lambda _config: tiny_pair())
    made = CalibrationView(live=SHORT)
    assert made.widget.children
    yield made
    made.close()
    assert made.live.job.wait(20)


def finished(view: CalibrationView) -> CalibrationView:
    assert view.run()
    assert view.live.job.wait(60)
    return view


def test_it_opens_on_a_recorded_run_and_moves_through_it(view: CalibrationView) -> None:
    recording = bundled_recording("best-1bit")
    assert view.step == 0 and "Step 0 of" in view.sentence()
    before = bytes(view.strip.pixels)
    view.state.moment = 3
    assert view.step == recording.records[3].step
    assert f"up to step {view.step:,}" in view.strip.label and "the teacher." in view.strip.label
    assert bytes(view.strip.pixels) != before, "the samples follow"
    assert view.strip.shape[0] == 3 * (2 * 28 + 2), "the teacher over the student"
    assert view.status.value == ""


def test_the_slider_covers_the_run_and_is_tied_to_the_state(view: CalibrationView) -> None:
    assert view._controls.moment.max == len(view.records) - 1
    view._controls.moment.value = 2
    assert view.state.moment == 2
    view.state.run = "best-2bit"
    assert view._controls.moment.max == len(bundled_recording("best-2bit").records) - 1


def test_a_moment_beyond_the_run_is_its_last() -> None:
    view = CalibrationView("best-2bit")
    view.state.from_json(view.state.to_json().replace('"moment": 0', '"moment": 900'))
    assert view.step == view.records[-1].step


def test_a_click_moves_the_cursor(view: CalibrationView) -> None:
    view.plot.click = {"x": view.records[4].step, "y": 0.1, "at": 1}
    assert view.state.moment == 4
    view.plot.click = {"x": "no number", "at": 2}
    assert view.state.moment == 4


def test_its_code_makes_its_figure(view: CalibrationView) -> None:
    for knobs in ({"moment": 5}, {"compare": True}):
        view.state.set(knobs)
        scope: dict[str, Any] = {}
        exec(view.code(), scope)
        assert scope["figure"] == view.figure()
    assert "true bits" in view.sentence()


def test_its_data_are_the_records(view: CalibrationView, tmp_path: Path) -> None:
    data = view.data()
    assert data["total"] == [record.total for record in view.records]
    assert data["block_7"] == [record.blocks[7] for record in view.records]
    view.export(tmp_path / "run.csv")
    assert (tmp_path / "run.csv").read_text().count("\n") == len(view.records) + 1


def test_an_unknown_run_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no run 'best'.*best-1bit"):
        CalibrationView("best")


def test_before_a_live_run_it_says_what_to_do(live: CalibrationView) -> None:
    live.state.run = LIVE
    assert "Nothing has run here yet" in live.sentence()
    assert live._running.layout.display is None and live.strip.layout.display == "none"
    assert live.live.save_button.disabled and live.live.stop_button.disabled
    with pytest.raises(ConfigError, match="press Run"):
        live.live.save()


def test_a_live_run_draws_itself_and_ends(live: CalibrationView) -> None:
    finished(live)
    assert live.live.job.error == ""
    assert live.state.run == LIVE and [r.step for r in live.records] == [0, 2, 4, 6]
    assert live.state.moment == 3, "the cursor went with it"
    assert live.live.words.value.count("Done after step 6 of 6") == 1
    assert "The student keeps its best state" in live.live.words.value
    assert "vq-2bit, live" in live.sentence()
    live.state.compare = True
    assert "vq-2bit, live at" in live.sentence(), "and beside the recorded ones"


def test_only_one_run_at_a_time(live: CalibrationView) -> None:
    assert live.run()
    assert not live.run()
    assert live.live.run_button.disabled and not live.live.stop_button.disabled
    assert live.live.job.wait(60)
    assert not live.live.run_button.disabled and live.live.stop_button.disabled


def test_stop_keeps_the_best_and_says_so(
    live: CalibrationView, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    reached, go_on = threading.Event(), threading.Event()
    original = live_run.live_calibration

    def slow(pair: Any, config: LiveConfig) -> Any:
        for moment in (steps := original(pair, config)):
            yield moment
            if moment.record.step == 2:
                reached.set()
                go_on.wait(30)
        steps.close()

    monkeypatch.setattr(live_run, "live_calibration", slow)
    live.run()
    assert reached.wait(60)
    live.live.stop()
    assert "Stopping" in live.live.words.value
    go_on.set()
    assert live.live.job.wait(60)
    assert live.live.job.status == "stopped"
    assert "Stopped after step" in live.live.words.value
    folder = live.live.save(tmp_path / "student")
    assert load_pipeline(folder).transformer is not None
    assert "student" in live.live.words.value


def test_what_goes_wrong_is_shown(live: CalibrationView, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_config: LiveConfig) -> Any:
        raise ConfigError("no such model here")

    monkeypatch.setattr(live_run, "live_pair", broken)
    finished(live)
    assert "⚠ no such model here" in live.live.words.value
    assert not live.live.run_button.disabled


def test_the_settings_of_a_run_are_those_chosen(live: CalibrationView) -> None:
    live.state.set({"preset": "pq-2bit", "steps": 10, "move_codes": True})
    chosen = live.chosen()
    assert (chosen.preset, chosen.steps, chosen.move_codes) == ("pq-2bit", 10, True)
    assert chosen.batch == SHORT.batch
    scope: dict[str, Any] = {"LiveConfig": LiveConfig}
    exec(f"made = {config_code(chosen)}", scope)
    assert scope["made"] == chosen


def test_the_code_of_a_live_run_runs(
    live: CalibrationView, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished(live)
    monkeypatch.setattr("dpqlab.studies.live_calibration.live_pair", lambda _c: tiny_pair())
    scope: dict[str, Any] = {}
    exec(live.code(), scope)
    assert [r.step for r in scope["records"]] == [r.step for r in live.records]
    assert scope["figure"].layout.title.text == live.figure().layout.title.text
