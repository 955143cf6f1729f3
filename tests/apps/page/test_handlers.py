from __future__ import annotations

import base64
import re
from urllib.parse import parse_qsl

import pytest

from benchmarks.app_stub import StubEngine
from dpqlab.errors import ConfigError
from dpqlab_app.drawing.catalogue import catalogue_of
from dpqlab_app.drawing.frames import OverBudgetError
from dpqlab_app.drawing.pictures import read_png_settings
from dpqlab_app.drawing.settings import DrawSettings, default_settings
from dpqlab_app.page import handlers
from dpqlab_app.page.stops import End

FIELDS = ("fashion-dit", ["best-1bit"], ["vq-2bit"], [], None, [1, 3], 3, 5, 4, 1.5)


@pytest.fixture
def engine(tmp_path) -> StubEngine:
    return StubEngine(catalogue_of(), step_s=0.0, log=tmp_path / "log.jsonl")


def noted(engine: StubEngine, event: str) -> int:
    assert engine._log is not None
    return engine._log.read_text().count(f'"{event}"') if engine._log.exists() else 0


def test_the_groups_of_versions_are_one_list() -> None:
    settings = handlers.settings_of(FIELDS)
    assert settings.versions == ("best-1bit", "vq-2bit")
    assert settings.labels == (1, 3, 1)


def test_a_drawing_says_what_it_does_at_once_then_shows_every_step(engine) -> None:
    shown = list(handlers.draw(engine, FIELDS))
    assert shown[0].result is None
    assert "Getting the model ready" in (shown[0].status or "")
    assert len(shown) == 1 + 4
    assert [s.query for s in shown[:-1]] == [None] * 4
    assert shown[1].compare == "", "the old comparison is of other pictures"
    assert 'data-busy="1"' in (shown[3].status or "")
    last = shown[-1]
    assert 'data-busy="0"' in (last.status or "")
    assert "9 pictures" in (last.status or "")
    assert last.query == handlers.settings_of(FIELDS).to_query()
    assert "dq-slider" in (last.compare or "")


def test_every_picture_downloads_with_its_settings(engine) -> None:
    result = list(handlers.draw(engine, FIELDS))[-1].result or ""
    links = re.findall(r'href="data:image/png;base64,([^"]+)" download="([^"]+)"', result)
    assert len(links) == 9 + 1
    for data, name in links:
        found = read_png_settings(base64.b64decode(data))
        again = DrawSettings.from_query(dict(parse_qsl(found["settings"])), engine.catalogue)
        assert again == handlers.settings_of(FIELDS)
        assert name.startswith("fashion-dit_")


def test_closing_a_drawing_ends_it_within_a_step(engine) -> None:
    drawing = handlers.draw(engine, FIELDS)
    next(drawing)
    next(drawing)
    drawing.close()
    assert noted(engine, "step") == 1
    assert noted(engine, "close") == 1


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (0, "nothing", "no model"),
        (1, ["best-9bit"], "no version"),
        (5, [], "No class is chosen"),
        (5, [10], "no class 10"),
        (6, 9, "number of images is 9"),
        (7, -1, "seed"),
        (7, None, "seed"),
        (8, 20.5, "whole number"),
        (9, float("nan"), "finite"),
        (1, "<script>alert(1)</script>", "no version"),
    ],
)
def test_what_cannot_be_drawn_gets_a_sentence(engine, place, value, words) -> None:
    fields = [*FIELDS[:place], value, *FIELDS[place + 1 :]]
    shown = list(handlers.draw(engine, fields))
    status = shown[-1].status or ""
    assert "dq-bad" in status
    assert 'role="alert"' in status
    assert words in status
    assert "<script>" not in status
    assert "Traceback" not in status
    assert engine.calls == 0


def test_running_out_of_time_leaves_the_pictures_and_says_so(engine) -> None:
    usual = engine.draw

    def slow(settings, **named):
        frames = usual(settings)
        yield next(frames)
        frames.close()
        raise OverBudgetError("This took longer than the 60 s that a drawing may take.")

    engine.draw = slow
    shown = list(handlers.draw(engine, FIELDS))
    assert shown[1].result
    assert shown[2].result is None
    assert "longer than the 60 s" in (shown[2].status or "")


def test_what_was_not_foreseen_is_not_shown(engine) -> None:
    def broken(settings, **named):
        raise RuntimeError("secret of the house")

    engine.draw = broken
    drawing, shown = handlers.draw(engine, FIELDS), []
    with pytest.raises(RuntimeError):
        for part in drawing:
            shown.append(part)
    assert "Something went wrong" in (shown[-1].status or "")
    assert "secret" not in (shown[-1].status or "")


def test_a_stopped_drawing_shows_its_last_step_and_says_which(engine) -> None:
    asked: list[int] = []

    def ended() -> End | None:
        asked.append(1)
        return "stopped" if len(asked) == 3 else None  # before the first step, after it, after 2

    *_, last, words = handlers.draw(engine, FIELDS, ended)
    assert "Step 2 of 4" in (last.status or "")
    assert last.result
    assert "Stopped after step 2 of 4: this is what" in (words.status or "")
    assert 'data-busy="0"' in (words.status or "")
    assert noted(engine, "step") == 2
    assert noted(engine, "close") == 1


def test_a_drawing_stopped_while_it_waited_computes_nothing(engine) -> None:
    (only,) = handlers.draw(engine, FIELDS, lambda: "stopped")
    assert "before the first step" in (only.status or "")
    assert engine.calls == 0


def test_a_drawing_that_is_replaced_ends_without_a_word(engine) -> None:
    only = [handlers.Shown()]  # nothing changes; with no answer at all the page would be emptied
    assert list(handlers.draw(engine, FIELDS, lambda: "replaced")) == only
    ends = iter([None, None, "replaced"])
    shown = list(handlers.draw(engine, FIELDS, lambda: next(ends)))  # type: ignore[arg-type,return-value]
    assert len(shown) == 2
    assert "Step 1 of 4" in (shown[-1].status or "")


def test_stop_after_the_last_step_changes_nothing(engine) -> None:
    asked: list[int] = []
    shown = list(handlers.draw(engine, FIELDS, lambda: asked.append(1)))
    assert "Done" in (shown[-1].status or "")
    assert len(asked) == 4


def test_an_address_is_read_or_refused_in_words(engine) -> None:
    assert handlers.opened(engine, {"__theme": "dark"}) == (None, None)
    settings, status = handlers.opened(engine, {"seed": "7", "versions": "vq-1bit"})
    assert status is None
    assert settings is not None
    assert (settings.seed, settings.versions) == (7, ("vq-1bit",))
    settings, status = handlers.opened(engine, {"steps": "1e9"})
    assert settings is None
    assert "The link does not fit" in (status or "")


def test_a_link_opens_the_same_settings(engine) -> None:
    query = dict(parse_qsl(handlers.settings_of(FIELDS).to_query()))
    assert handlers.opened(engine, query)[0] == handlers.settings_of(FIELDS)


def test_the_first_look_needs_no_drawing(engine) -> None:
    model = engine.catalogue.models[0]
    look = handlers.first_look(model, engine.catalogue)
    assert "A recorded example" in (look.result or "")
    assert 'data-done="0"' in (look.result or ""), "an example is not put into the address"
    assert look.query == default_settings(model).to_query()
    assert engine.calls == 0


def test_programs_get_records_with_pictures(engine) -> None:
    fields = ("fashion-dit", ["best-1bit"], [1], 2, 0, 3, 1.0)
    records = list(handlers.api_draw(engine, fields))
    assert [(r["step"], r["done"]) for r in records] == [(1, False), (2, False), (3, True)]
    rows = records[-1]["versions"]
    assert [row["version"] for row in rows] == ["full", "best-1bit"]
    data = rows[1]["images"][1].removeprefix("data:image/png;base64,")
    assert "best-1bit" in read_png_settings(base64.b64decode(data))["version"]
    with pytest.raises(ConfigError, match="steps"):
        next(handlers.api_draw(engine, (*fields[:5], 1000, 1.5)))


def test_programs_can_ask_what_there_is(engine) -> None:
    listed = handlers.api_models(engine.catalogue)
    assert listed[0]["model"] == "fashion-dit"
    assert len(listed[0]["classes"]) == 10
    assert listed[0]["versions"][0]["version"] == "full"
