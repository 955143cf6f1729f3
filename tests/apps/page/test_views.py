"""What the page shows as HTML: complete, with words for every picture, and nothing unescaped."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from benchmarks.app_stub import StubEngine
from dpqlab_app.drawing.catalogue import Catalogue, catalogue_of
from dpqlab_app.drawing.settings import DrawSettings, default_settings
from dpqlab_app.page.blind_pool import Pool, Visit, advance, cast, fill
from dpqlab_app.page.blind_view import answer_html, question_html, score_html
from dpqlab_app.page.compare_view import compare_html
from dpqlab_app.page.example import FOLDER, example_of
from dpqlab_app.page.markup import image_uri, text, text_uri
from dpqlab_app.page.result_view import result_html, status_html
from dpqlab_app.page.sheets import Sheet, sheet_of


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return catalogue_of()


@pytest.fixture(scope="module")
def sheet(catalogue: Catalogue) -> Sheet:
    settings = DrawSettings(
        model="fashion-dit", versions=("best-1bit", "vq-1bit"), labels=(0, 8), steps=2
    )
    frames = list(StubEngine(catalogue, step_s=0.0).draw(settings))
    return sheet_of(frames[-1], catalogue.models[0])


class Tags(HTMLParser):
    """Collects tags; fails where they are not closed as they were opened."""

    VOID = ("img", "input", "br")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def of(self, name: str) -> list[dict[str, str | None]]:
        return [attrs for tag, attrs in self.found if tag == name]


def pixels(uri: str | None) -> np.ndarray:
    data = base64.b64decode((uri or "").removeprefix("data:image/png;base64,"))
    return np.asarray(Image.open(io.BytesIO(data)))


def test_cards_show_the_very_pixels_with_words(sheet, catalogue) -> None:
    tags = Tags(result_html(sheet, catalogue))
    images = tags.of("img")
    assert len(images) == 3 * 2
    assert images[3]["alt"] == "Bag, Best, 1 bit"
    assert np.array_equal(pixels(images[3]["src"]), sheet.rows[1].images[1, ..., 0])


def test_cards_state_what_each_version_costs(sheet, catalogue) -> None:
    page = result_html(sheet, catalogue)
    for fact in ("1.09", "16.03", "4.0 MB", "47 MB", "11.7 times smaller", "stub"):
        assert fact in page
    assert page.count("drawn by") == 3


def test_tools_come_with_the_pictures_only(sheet, catalogue) -> None:
    half = result_html(replace(sheet, done=False), catalogue)
    assert "Copy link" not in half
    assert "download" not in half
    whole = result_html(sheet, catalogue)
    assert "Copy link" in whole
    assert "load_pipeline" in whole
    assert 'data-done="1"' in whole


def test_notes_are_shown(sheet, catalogue) -> None:
    noted = replace(sheet, notes=("Memory was short: drawn in <two> parts.",))
    assert "drawn in &lt;two&gt; parts." in result_html(noted, catalogue)


def test_nothing_of_a_model_gets_out_as_markup(sheet, catalogue) -> None:
    bad = "<img src=x onerror=alert(1)>\"'{{x}}${y}"
    classes = tuple(bad for _ in sheet.model.classes)
    rows = tuple(replace(row, title=bad) for row in sheet.rows)
    evil = replace(sheet, model=replace(sheet.model, classes=classes), rows=rows)
    for page in (result_html(evil, catalogue), compare_html(evil)):
        tags = Tags(page)
        assert all("onerror" not in attrs for _, attrs in tags.found)
        assert "{{" not in page
        assert "${" not in page
        assert len(tags.of("img")) > 0


def test_a_panel_for_each_version_one_at_a_time(sheet) -> None:
    tags = Tags(compare_html(sheet))
    panels = [a for a in tags.of("div") if a.get("class") == "dq-panel"]
    assert ["hidden" in a for a in panels] == [False, True]
    sliders = [a for a in tags.of("input") if a["type"] == "range"]
    assert len(sliders) == 2
    assert "Full precision on the left, Best, 1 bit on the right" in str(sliders[0]["aria-label"])
    assert all(image["alt"] for image in tags.of("img"))


def test_the_difference_states_its_gain(sheet) -> None:
    full = np.full_like(sheet.rows[0].images, 100)
    near = replace(sheet.rows[1], images=full + np.uint8(3))
    pair = replace(sheet, rows=(replace(sheet.rows[0], images=full), near))
    assert "Difference times 16" in compare_html(pair)
    same = replace(pair, rows=(pair.rows[0], replace(near, images=full)))
    assert "equal in every pixel" in compare_html(same)


def test_full_precision_alone_has_nothing_to_compare(sheet) -> None:
    assert compare_html(replace(sheet, rows=sheet.rows[:1])) == ""


def test_the_status_is_announced() -> None:
    tags = Tags(status_html("Step <1>", share=0.5, busy=True))
    assert ("span", {"role": "status"}) in tags.found
    assert "width:50.0%" in str(tags.of("i")[0]["style"])
    assert ("span", {"role": "alert"}) in Tags(status_html("No", bad=True)).found


def test_every_bundled_model_has_its_example(catalogue) -> None:
    for model in catalogue.models:
        found = example_of(model, catalogue)
        assert found is not None, (
            f"no example of {model.key}: python -m dpqlab_app.page.example {model.key}"
        )
        assert found.settings == default_settings(model)
        assert found.recorded
        assert found.rows[0].images.std() > 10
        assert not np.array_equal(found.rows[0].images, found.rows[1].images)


def test_an_example_that_does_not_fit_is_none(catalogue, tmp_path) -> None:
    model = catalogue.models[0]
    assert example_of(model, catalogue, folder=tmp_path) is None
    path = tmp_path / f"{model.key}.png"
    path.write_bytes(b"no picture")
    assert example_of(model, catalogue, folder=tmp_path) is None
    path.write_bytes((FOLDER / f"{model.key}.png").read_bytes())
    assert example_of(model, catalogue, folder=tmp_path) is not None
    fewer = replace(model, versions=model.versions[1:])
    lacking = Catalogue(models=(fewer,))
    assert example_of(fewer, lacking, folder=tmp_path) is None
    own = replace(model, full=replace(model.full, own=True))
    assert example_of(own, catalogue, folder=tmp_path) is None


def test_text_is_inert_in_html_and_in_templates() -> None:
    assert not set('<>"{}$`\\') & set(text('<a href="x">{{b}}${c}`\\'))


def test_addresses_hold_pictures_and_texts() -> None:
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    assert np.array_equal(pixels(image_uri(image)), image)
    data = text_uri("a,b\n", "text/csv").partition("base64,")[2]
    assert base64.b64decode(data) == b"a,b\n"


def test_the_question_gives_nothing_away(catalogue) -> None:
    visit, pool = Visit(model="fashion-dit", version="best-1bit"), Pool()
    model = catalogue.models[0]
    assert "being drawn" in question_html(visit, pool, model)
    list(fill(StubEngine(catalogue, step_s=0.0), pool, visit))  # type: ignore[arg-type]
    at = advance(visit, pool, model.classes)
    assert at.trial is not None
    page = question_html(at, pool, model)
    tags = Tags(page)
    assert [image["alt"] for image in tags.of("img")] == ["Picture A", "Picture B"]
    assert not re.search("best|1 ?bit|compressed|download", page, re.IGNORECASE)
    pair = pool.get(at.trial.pair)
    assert pair is not None
    place = "AB".index(at.trial.full)
    assert np.array_equal(pixels(tags.of("img")[place]["src"]), pair.full[..., 0])
    other = replace(at, trial=replace(at.trial, full="AB"[1 - place]))
    swapped = Tags(question_html(other, pool, model)).of("img")
    assert [i["src"] for i in swapped] == [i["src"] for i in tags.of("img")][::-1]


def test_the_answer_names_both_and_the_score_has_its_file(catalogue) -> None:
    visit, pool = Visit(model="fashion-dit", version="best-1bit"), Pool()
    model = catalogue.models[0]
    assert answer_html(visit, pool, model) == ""
    assert "CSV" not in score_html(visit, model)
    list(fill(StubEngine(catalogue, step_s=0.0), pool, visit))  # type: ignore[arg-type]
    at = advance(visit, pool, model.classes)
    assert at.trial is not None
    voted = cast(at, at.trial.full)
    answer = answer_html(voted, pool, model)
    assert f"Right: {at.trial.full} was full precision." in answer
    assert f"{at.trial.full}: Full precision · your choice" in answer
    score = score_html(voted, model)
    assert "1 of 1" in score
    link = next(a for a in Tags(score).of("a") if a.get("download") == "blind-test.csv")
    assert base64.b64decode(str(link["href"]).partition("base64,")[2]).startswith(b"number,model")
