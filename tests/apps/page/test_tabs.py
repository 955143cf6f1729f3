"""The generators and functions behind the tabs beside "Draw"; no page, no browser."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from benchmarks.app_stub import StubEngine
from dpqlab.errors import ConfigError
from dpqlab.tracing import TraceConfig, load_trace
from dpqlab.tracing import trace as trace_whole
from dpqlab_app.drawing.catalogue import catalogue_of
from dpqlab_app.drawing.engine import Engine
from dpqlab_app.drawing.settings import DrawSettings
from dpqlab_app.page import error_tab, how_tab, trace_runs
from dpqlab_app.page.blind_pool import Pool
from dpqlab_app.page.blind_tab import against, draw_ahead, turn
from dpqlab_app.page.trace_runs import (
    Traces,
    Wanted,
    figure_of,
    recorded,
    settings_in,
    trace_run,
    what_to_see,
)

Make = Callable[..., DrawSettings]


@pytest.fixture
def stub() -> Any:
    return StubEngine(catalogue_of(), step_s=0.0)


@pytest.fixture
def wanted(tiny_settings: Make) -> Wanted:
    return Wanted(query=tiny_settings().to_query(), version="tiny-16")


def test_a_trace_is_dpqlabs_own(tiny_engine: Engine, wanted: Wanted) -> None:
    from dpqlab.diffusion import SampleRequest

    last = list(trace_run(tiny_engine, wanted))[-1]
    settings = settings_in(wanted.query, tiny_engine)
    request = SampleRequest(labels=settings.labels, seed=0, steps=4, guidance=1.5)
    alone = trace_whole(tiny_engine.pair(settings, "tiny-16"), request, TraceConfig(batch=3))
    assert np.array_equal(last.trace.energy, alone.energy)
    assert last.trace.picture_steps == (0, 1, 2, 3)


def test_a_trace_grows_a_step_at_a_time(tiny_engine: Engine, wanted: Wanted) -> None:
    grown = list(trace_run(tiny_engine, wanted))
    assert [p.trace.steps for p in grown] == [1, 2, 3, 4]
    assert [p.done for p in grown] == [False, False, False, True]
    assert grown[1].words.startswith("Step 2 of 4")
    first, last = grown[0].trace, grown[-1].trace
    assert np.array_equal(first.energy[..., 0], last.energy[..., 0])


def test_when_the_time_is_over_what_is_there_is_shown(tiny_engine: Engine, wanted: Wanted) -> None:
    clock = iter(range(100)).__next__
    grown = list(trace_run(tiny_engine, wanted, budget_s=1.5, clock=clock))
    assert len(grown) == 2
    assert grown[-1].done
    assert "2 of 4 steps were traced" in grown[-1].words


def test_a_closed_trace_stops_within_a_step_and_is_not_kept(
    tiny_engine: Engine, wanted: Wanted, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []
    usual = trace_runs.trace_so_far
    monkeypatch.setattr(
        trace_runs,
        "trace_so_far",
        lambda pair, request, steps: (taken.append(len(steps)), usual(pair, request, steps))[1],
    )
    traces = Traces()
    tracing = error_tab.trace(tiny_engine, traces, wanted, "accumulated")
    next(tracing)
    next(tracing)
    tracing.close()
    assert taken == [1]
    assert traces.get(wanted) is None


def test_the_tab_streams_then_remembers(tiny_engine: Engine, wanted: Wanted) -> None:
    traces = Traces()
    shown = list(error_tab.trace(tiny_engine, traces, wanted, "accumulated"))
    assert "Getting both models ready" in (shown[0].status or "")
    assert shown[-1].key == wanted
    assert shown[-1].figure is not None
    assert "What to see" in (shown[-1].words or "")
    again = list(error_tab.trace(tiny_engine, traces, wanted, "local"))
    assert len(again) == 2
    assert "nothing was computed again" in (again[-1].status or "")
    other = error_tab.show(tiny_engine, traces, wanted, wanted.query, "local")
    assert "Local error" in str(other.figure.layout.title.text)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("query", "version", "measure", "words"),
    [
        ("model=nothing", "tiny-16", "local", "no model"),
        ("", "nothing", "local", "no version"),
        ("model=tiny", "full", "local", "choose a compressed version"),
        ("model=tiny&steps=2", "tiny-16", "<b>", "expected accumulated, pass, local"),
    ],
)
def test_what_cannot_be_traced_gets_a_sentence(
    tiny_engine: Engine, query: str, version: str, measure: str, words: str
) -> None:
    wanted = Wanted(query=query, version=version)
    last = list(error_tab.trace(tiny_engine, Traces(), wanted, measure))[-1]
    assert "dq-bad" in (last.status or "")
    assert words in (last.status or "")
    assert "<b>" not in (last.status or "").replace('<b class="dq-bar"', "")


def test_before_a_trace_the_recorded_one_is_shown(stub: Any) -> None:
    shown = error_tab.show(stub, Traces(), None, "versions=vq-2bit", "accumulated")
    assert "Recorded with" in (shown.status or "")
    assert shown.figure is not None
    found = recorded(stub, "versions=vq-2bit")
    assert found is not None
    assert found.name.endswith("vq-2bit")
    assert recorded(stub, "model=nothing") is None


def test_a_model_without_a_recorded_trace_says_what_to_press(tiny_engine: Engine) -> None:
    shown = error_tab.show(tiny_engine, Traces(), None, "model=tiny", "accumulated")
    assert shown.figure is None
    assert "Press Trace" in (shown.status or "")


def test_the_versions_of_the_run_are_offered(stub: Any) -> None:
    found, words = error_tab.choices(stub, "versions=vq-1bit,best-2bit&classes=8&seed=3")
    assert [key for _, key in found] == ["vq-1bit", "best-2bit"]
    assert "Bag" in words
    assert "seed 3" in words
    alone, _ = error_tab.choices(stub, "versions=none")
    assert len(alone) == 1, "some version must be chosen to be traced"


def test_the_sentence_says_what_the_map_shows() -> None:
    found = load_trace("vq-1bit")
    errors = found.error("accumulated")
    block, step = np.unravel_index(errors.argmax(), errors.shape)
    words = what_to_see(found, "accumulated")
    assert f"block {block} at timestep {found.timesteps[step]}" in words
    blocks, steps = found.growth()
    assert f"grows {blocks:.1f} times" in words
    assert f"another {steps:.1f} times" in words
    frame = figure_of(found, "accumulated").layout.shapes[0]
    assert frame.x0 < step < frame.x1
    assert frame.y0 < block < frame.y1
    with pytest.raises(ConfigError, match="expected accumulated"):
        figure_of(found, "everything")


def test_few_traces_are_kept() -> None:
    traces, made = Traces(most=2), load_trace("vq-1bit")
    keys = [Wanted(query=f"seed={i}", version="vq-1bit") for i in range(3)]
    traces.put(keys[0], made)
    traces.put(keys[1], made)
    assert traces.get(keys[0]) is made
    traces.put(keys[2], made)
    assert [traces.get(key) is None for key in keys] == [False, True, False]


def test_the_blind_test_begins_draws_and_counts(stub: Any) -> None:
    pool, visit = Pool(), against(stub, None, None)
    assert (visit.model, visit.version) == ("fashion-dit", "best-1bit")
    first = turn(stub, pool, visit)
    assert first.more
    assert "being drawn" in first.question
    said = list(draw_ahead(stub, pool, first.visit))
    assert "Drawing pairs: step 1 of 20" in said[0]
    assert 'data-busy="0"' in said[-1]
    second = turn(stub, pool, first.visit)
    assert second.visit.trial is not None
    voted = turn(stub, pool, second.visit, said=second.visit.trial.full)
    assert voted.visit.votes[0].right
    assert "Right:" in voted.answer
    assert voted.visit.trial is not None
    assert voted.visit.trial.pair != second.visit.trial.pair


def test_another_version_keeps_the_votes_and_takes_the_pair_away(stub: Any) -> None:
    pool, visit = Pool(), against(stub, None, None)
    list(draw_ahead(stub, pool, visit))
    now = turn(stub, pool, turn(stub, pool, visit).visit, said="A").visit
    other = against(stub, now, "fashion-dit", "vq-2bit")
    assert other.trial is None
    assert len(other.votes) == 1
    assert against(stub, now, "fashion-dit", "best-1bit") is now
    with pytest.raises(ConfigError, match="no version"):
        against(stub, now, "fashion-dit", "nothing")


def test_a_closed_batch_stops_drawing(stub: Any) -> None:
    drawing = draw_ahead(stub, Pool(), against(stub, None, None))
    next(drawing)
    drawing.close()
    assert stub.calls == 1


def test_five_chapters_with_their_figures_and_notebooks() -> None:
    from pathlib import Path

    notebooks = Path(__file__).parents[3] / "notebooks"
    assert len(how_tab.CHAPTERS) == 5
    for chapter, figure in zip(how_tab.CHAPTERS, how_tab.figures(), strict=True):
        assert (notebooks / f"{chapter.notebook}.ipynb").is_file()
        assert figure is not None
        assert figure.layout.paper_bgcolor == "rgba(0,0,0,0)", "the page may be dark"


def test_a_missing_record_leaves_its_place_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    def lacking() -> None:
        raise ConfigError("not here")

    chapter = how_tab.Chapter(title="", words="", notebook="", figure=lacking)
    monkeypatch.setattr(how_tab, "CHAPTERS", (chapter,))
    how_tab.figures.cache_clear()
    assert how_tab.figures() == (None,)
    how_tab.figures.cache_clear()
