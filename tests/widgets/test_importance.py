"""The importance view on a tiny model: its logic, without a browser."""

from __future__ import annotations

import re
import threading
import time

import pytest
import torch

from dpqlab.diffusion import SampleRequest
from dpqlab.diffusion.pipeline import PixelDiTPipeline
from dpqlab.diffusion.schedules import make_scheduler
from dpqlab.errors import ConfigError
from dpqlab.studies import codeword_inputs
from dpqlab.studies.codewords import MEASURES, output_error
from dpqlab.studies.removal_pictures import removal_pictures
from dpqlab.studies.removal_records import bundled_removals
from dpqlab.studies.removals import race_steps
from dpqlab.widgets import CodebookImportance, importance_pools, removal_race, removal_run
from tests.tiny import tiny_dit


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source") / "tiny"
    PixelDiTPipeline(tiny_dit(), make_scheduler()).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def view(source, one_thread):
    made = CodebookImportance(source=source, preset_name="dpq-4bit")
    made.removal.request = SampleRequest(labels=(0, 1), steps=2)
    yield made
    made.close()


def test_a_click_shows_another_codeword(view):
    assert view.widget
    best = view.use
    assert best.rank["usage"] == 1 or best.scope == 0
    view.plot.click = {"customdata": 5, "at": 1}
    assert view.use.entry == view.state.codeword == 5
    assert view.sentence().startswith("Codeword 5 = (")
    assert "used by" in view.use_plot.label
    view.plot.click = {"customdata": None, "at": 2}
    assert view.use.entry == 5


def test_another_position_has_codewords_of_its_own(view):
    assert view.widget
    before = view.plot.spec
    view.state.scope = 3
    assert view.plot.spec != before
    assert view.use.scope == 3
    assert set(view.data()["codeword"]) == {
        i for i, s in enumerate(view.study.scope.tolist()) if s == 3
    }
    assert view._controls.scope.max == 15
    view.state.scope = 999  # as a saved state of a wider layer has it
    assert view.scope == 15


def test_what_is_marked_is_what_a_measure_calls_least_important(view):
    assert view.widget
    view.state.set({"share": 0.5, "measure": "removal"})
    total = len(view.study.scope)
    assert int(view.gone.sum()) == view.count == round(0.5 * total)
    worth = view.study.worth["removal"]
    assert worth[view.gone].max() <= worth[~view.gone].max()
    assert view._controls.count.value == f"{view.count:,} of {total:,} codewords"
    assert "removal cost calls least important" in view.sentence()
    data = view.data()
    assert {len(column) for column in data.values()} == {len(data["codeword"])}
    assert {"value_0", "value_1", *MEASURES, "removed"} < data.keys()


def test_the_answer_is_hidden_until_it_is_revealed(view):
    assert view.widget
    assert view.answer_plot.layout.display == "none"
    view.race.removals["attn1.to_q"] = tuple(race_steps(view.study, shares=(0.2, 0.5)))
    view._controls.reveal.value = True
    assert view.answer_plot.layout.display == ""
    said = view.sentence()
    assert "Held-out output error with 20% removed: at once " in said
    order = re.findall(r"(?:usage|weighted usage|removal cost) (\d\.\d+)", said.split("at once")[1])
    assert order[:3] == sorted(order[:3])
    assert len(view.answer().data) == 6
    view.state.answer = "promise"
    assert len(view.answer().data) == 4


def test_what_nobody_recorded_is_measured_here(view, monkeypatch):
    monkeypatch.setattr(
        removal_race, "race_steps", lambda study: race_steps(study, (0.3,), ("at once",))
    )
    assert view.widget
    with pytest.raises(ConfigError, match="press Measure"):
        view.answer()
    view.race.run_button.click()
    assert view.race.job.wait(30)
    assert view.race.job.error == ""
    assert view.state.revealed
    assert len(view.removals) == 3
    assert len(view.answer_plot.spec["data"]) == 3
    assert not view.race.run_button.disabled
    assert view.race.words.value == ""


def test_measuring_here_can_be_stopped_and_shows_its_stop_only_then(view, monkeypatch):
    reached = threading.Event()

    def slow(study):
        for removal in race_steps(study, (0.3,), ("at once",)):
            reached.set()
            time.sleep(0.05)
            yield removal

    monkeypatch.setattr(removal_race, "race_steps", slow)
    assert view.widget
    assert view.race.stop_button.layout.display == "none"
    view.race.run_button.click()
    assert view.race.stop_button.layout.display == ""
    assert not view.race.start("ff.net.2"), "one at a time"
    assert reached.wait(30)
    view.race.stop_button.click()
    assert view.race.job.wait(30)
    assert view.race.job.status == "stopped"
    assert 1 <= len(view.removals) < 3, "what was measured stays"
    assert view.race.stop_button.layout.display == "none"


@pytest.mark.parametrize("work", ["race", "removal"])
def test_what_runs_here_takes_one_thread_and_leaves_none_behind(view, monkeypatch, work):
    torch.set_num_threads(2)
    counts: list[int] = []

    def watched(study):
        counts.append(torch.get_num_threads())
        return race_steps(study, (0.3,), ("at once",))

    def drawn(*asked):
        counts.append(torch.get_num_threads())
        return removal_pictures(*asked)

    monkeypatch.setattr(removal_race, "race_steps", watched)
    monkeypatch.setattr(removal_run, "removal_pictures", drawn)
    panel = view.race if work == "race" else view.removal
    assert view.widget
    panel.run_button.click()
    assert panel.job.wait(60)
    assert panel.job.error == ""
    assert set(counts) == {1}
    later: list[int] = []
    thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert later == [2] == [torch.get_num_threads()]


def test_other_layers_are_measured_beside_the_kernel(view):
    assert view.widget
    view._controls.kind.value = "ff.net.2"
    assert view._opener.wait(60)
    assert view._opener.error == ""
    assert view.state.kind == "ff.net.2"
    assert view.study.names[0].endswith("0.ff.net.2")
    assert "Codeword" in view.sentence()
    view._controls.kind.value = "attn1.to_q"
    assert view.state.kind == "attn1.to_q"
    with pytest.raises(ConfigError, match="no kind 'x'"):
        view.state.set({"kind": "x"})


def test_pictures_are_drawn_without_the_least_important(view):
    assert view.widget
    view.state.set({"share": 0.9, "measure": "usage"})
    view.removal.run_button.click()
    assert not view.removal.start()
    assert view.removal.job.wait(60)
    assert view.removal.job.error == ""
    assert list(view.removal.rows) == ["teacher", "all codewords", "removed"]
    shapes = {images.shape for images in view.removal.rows.values()}
    assert shapes == {(2, 1, 8, 8)}
    assert f"{view.count:,} of" in view.removal.words.value
    assert view.removal.plot.layout.display == ""
    view.state.set({"share": 0.0})
    view.removal.start()
    assert view.removal.job.wait(60)
    assert (view.removal.rows["removed"] == view.removal.rows["all codewords"]).all()


def test_all_pools_can_lose_their_least(view):
    view.state.set({"pools": "all kinds", "share": 0.9, "manner": "in rounds"})
    assert view.removal.start()
    assert view.removal.job.wait(60)
    assert view.removal.job.error == ""
    assert len(view.pools.studies) == 7
    total = sum(len(study.scope) for study in view.pools.studies.values())
    assert f"of {total:,} codewords removed by usage, in rounds" in view.removal.words.value


def test_a_run_that_is_stopped_says_so(view):
    view.removal.request = SampleRequest(labels=(0, 1), steps=500)
    assert view.removal.start()
    view.removal.stop()
    assert view.removal.job.wait(30)
    assert view.removal.job.status == "stopped"
    assert "Stopped" in view.removal.words.value
    assert view.removal.sentence() == ""


def test_the_state_comes_back(view):
    view.state.set({"scope": 4, "codeword": -1, "measure": "weighted", "share": 0.35})
    text = view.state.to_json()
    view.state.reset()
    assert view.state.scope == 0
    view.state.from_json(text)
    assert (view.state.scope, view.state.share) == (4, 0.35)


def test_the_code_makes_what_is_on_screen(view):
    view.state.set({"scope": 2, "share": 0.4, "measure": "removal"})
    scope: dict[str, object] = {}
    exec(view.code(), scope)
    assert scope["figure"] == view.figure()


def test_the_bundled_model_opens_on_record_without_drawing(monkeypatch, one_thread):
    """Nothing is drawn and no model is loaded to open it: that is what makes it quick."""

    def refused(*args: object, **options: object) -> None:
        raise AssertionError("a model was loaded, or drew")

    with monkeypatch.context() as patch:
        patch.setattr(importance_pools, "load_pipeline", refused)
        patch.setattr(codeword_inputs, "inputs_of", refused)
        opened = CodebookImportance()
        assert opened.widget
        assert "Codeword" in opened.sentence()
        assert "⚠" not in opened.status.value
        with pytest.raises(AssertionError, match="a model was loaded"):
            output_error(opened.study)
    code = opened.code()
    assert "bundled_inputs" in code
    scope: dict[str, object] = {}
    exec(code, scope)
    assert scope["figure"] == opened.figure()
    opened.close()


@pytest.mark.slow
def test_what_is_recomputed_is_what_was_recorded(one_thread):
    recorded, fresh = CodebookImportance(), CodebookImportance(recompute=True)
    assert fresh.pools.recorded is None
    assert "bundled_inputs" not in fresh.code()
    assert recorded.sentence() == fresh.sentence()
    one, other = recorded.data(), fresh.data()
    assert one.keys() == other.keys()
    for name, values in one.items():
        assert values == pytest.approx(other[name], rel=1e-4, abs=1e-9)
    assert output_error(recorded.study) == pytest.approx(output_error(fresh.study), rel=1e-5)
    records = bundled_removals("dpq-4bit")
    assert records is not None
    pool = records.of("attn1.to_q")
    assert pool is not None
    assert output_error(fresh.study) == pytest.approx(pool.output_error, rel=1e-3)
    for view in (recorded, fresh):
        view.close()


def test_drawing_leaves_torch_as_many_threads_as_before(view):
    torch.set_num_threads(2)
    assert view.widget
    assert torch.get_num_threads() == 2


def test_the_removals_that_ship_answer_the_notebooks_questions():
    """What the prose says of the bundled model holds in the records."""
    records = bundled_removals("dpq-4bit")
    assert records is not None
    pool = records.of("attn1.to_q")
    assert pool is not None
    by = {(r.manner, r.measure, round(r.share, 2)): r for r in pool.removals}
    few = {m: by["at once", m, 0.2].output_error for m in MEASURES}
    many = {m: by["at once", m, 0.7].output_error for m in MEASURES}
    assert min(few, key=few.__getitem__) == "removal"
    assert min(many, key=many.__getitem__) == "usage"
    for share in (0.2, 0.5, 0.7):
        rounds = {m: by["in rounds", m, share].output_error for m in MEASURES}
        assert rounds["removal"] < rounds["weighted"] < rounds["usage"]
    assert rounds["usage"] < many["usage"]
    half = by["at once", "removal", 0.5]
    assert half.predicted is not None
    assert half.felt > 10 * half.predicted
