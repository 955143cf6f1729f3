"""The app in a browser: a journey for each tab, both themes, a phone, the keyboard alone.

The real engine draws, on the CPU. Nothing may be asked of another machine.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from tests.browser.lab import PICTURES

pytestmark = pytest.mark.browser

PHONE, DESK = {"width": 390, "height": 844}, {"width": 1280, "height": 900}
PATIENCE = 60_000  # ms for two cores that others use too
# Gradio tells of its own about a locale, and plotly of WebGL that is not there
HARMLESS = re.compile(r"svelte-i18n|WebGL|GPU stall|Slow")
FEW = "model=fashion-dit&versions=best-1bit&classes=1,8&images=2&seed=5&steps=3&guidance=1.5"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The app as `dpqlab app` serves it."""
    pytest.importorskip("gradio", reason="gradio is not installed: the extra 'app'")
    from dpqlab_app.serving.config import ServerConfig
    from dpqlab_app.serving.server import running

    environment = dict(os.environ)
    with running(ServerConfig(port=0, device="cpu")) as address:
        yield address
    os.environ.clear()
    os.environ.update(environment)


PRESS_STOP = 'document.querySelector("#dq-stop-button").click()'
TEXT = """(where => {
  const line = document.getElementById(where).cloneNode(true);
  line.querySelectorAll("[data-testid=status-tracker]").forEach((clock) => clock.remove());
  return line.textContent.trim();
})"""
"""The words of a line, without the clock that Gradio lays over it while its handler runs."""


def number_in(words: str) -> int:
    """Return the step that a line speaks of."""
    found = re.search(r"step (\d+)", words, re.IGNORECASE)
    assert found, words
    return int(found[1])


class Visitor:
    """A page with the app, and what went wrong on it."""

    def __init__(self, page: Any, url: str) -> None:
        self.page, self.url = page, url
        self.wrong: list[str] = []
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.wrong.append(str(error)))
        page.on("request", self._request)

    def _console(self, message: Any) -> None:
        if message.type == "error" and not HARMLESS.search(message.text):
            self.wrong.append(message.text)

    def _request(self, request: Any) -> None:
        if not request.url.startswith((self.url, "data:", "blob:")):
            self.wrong.append(f"asked {request.url}")

    def open(self, query: str = "") -> None:
        self.page.goto(f"{self.url}/?{query}")
        self.page.wait_for_selector("#dq-draw-button", timeout=PATIENCE)

    def tab(self, name: str) -> None:
        self.page.get_by_role("tab", name=name, exact=True).first.click()

    def reads(self, where: str) -> str:
        """Return what a line says now."""
        return str(self.page.evaluate(f"{TEXT}({where!r})"))

    def says(self, where: str, words: str) -> str:
        """Wait until a line says something, if only for one frame, and return all of it."""
        said = (
            f"([where, words]) => {{ const t = {TEXT}(where); return RegExp(words).test(t) && t }}"
        )
        found = self.page.wait_for_function(said, arg=[where, words], timeout=PATIENCE)
        return str(found.json_value())

    def set_steps(self, count: int) -> None:
        """Ask for a number of steps below "More".

        Gradio sets what it unfolds to its usual value a second time, some 10 ms after it shows it.
        """
        field = self.page.get_by_label("number input for Steps")
        slider = self.page.get_by_label("range slider for Steps")
        if not field.is_visible():
            self.page.get_by_role("button", name="More").click()
        for _ in range(20):
            field.fill(str(count))
            self.page.keyboard.press("Tab")
            self.page.wait_for_timeout(300)
            if field.input_value() == slider.input_value() == str(count):
                return
        raise AssertionError(f"the page does not take {count} steps: {field.input_value()}")

    def look(self, name: str) -> Path:
        PICTURES.mkdir(parents=True, exist_ok=True)
        path = PICTURES / f"app-{name}.png"
        self.page.wait_for_timeout(300)
        self.page.screenshot(path=path, full_page=True)
        return path

    def fits(self) -> None:
        """Fail if the page itself scrolls sideways."""
        wide = self.page.evaluate(
            "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
        assert wide <= 0


@pytest.fixture
def visit(browser: Any, url: str) -> Iterator[Callable[..., Visitor]]:
    """Open a page of a size, in a theme, at a link; it must be clean when the test is over."""
    with ExitStack() as opened:
        visitors: list[Visitor] = []

        def open_one(query: str = "", *, size: dict[str, int] = DESK, script: str = "") -> Visitor:
            context = opened.enter_context(browser.new_context(viewport=size))
            context.grant_permissions(["clipboard-read", "clipboard-write"])
            context.add_init_script(script)
            visitors.append(Visitor(context.new_page(), url))
            visitors[-1].open(query)
            return visitors[-1]

        yield open_one
        for visitor in visitors:
            assert visitor.wrong == []


def query_of(address: str) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(address).query))


def test_the_first_visit_draws_and_shares(visit) -> None:
    visitor = visit()
    page = visitor.page
    # something to see before anything is drawn
    assert page.locator("#dq-result img").count() == 8
    assert "recorded example" in page.locator("#dq-result").inner_text()
    assert "model=" not in page.url

    visitor.set_steps(4)
    page.get_by_role("button", name="Draw").click()
    visitor.says("dq-status", r"Step \d of 4|Done")
    visitor.says("dq-status", "Done: 8 pictures")
    page.wait_for_url(re.compile("steps=4"), timeout=PATIENCE)
    cards = page.locator("#dq-result .dq-card")
    assert [card.locator("h3").inner_text() for card in cards.all()] == [
        "Full precision",
        "Best, 1 bit",
    ]
    for fact in ("true bits", "on disk", "in memory", "a step", "drawn by"):
        assert fact in cards.nth(1).inner_text()
    assert page.get_by_alt_text("Bag, Best, 1 bit", exact=True).count() == 1

    page.get_by_role("button", name="Copy link").click()
    link = page.evaluate("navigator.clipboard.readText()")
    assert query_of(link)["steps"] == "4"
    page.get_by_role("button", name="Copy as code").click()
    code = page.evaluate("navigator.clipboard.readText()")
    compile(code, "copied", "exec")
    assert "steps=4" in code
    with page.expect_download() as download:
        page.get_by_text("Download PNG").click()
    from dpqlab_app.drawing.pictures import read_png_settings

    data = Path(download.value.path()).read_bytes()
    assert "steps=4" in read_png_settings(data)["settings"]
    assert download.value.suggested_filename.startswith("fashion-dit_full_best-1bit")


def test_a_link_draws_what_it_says(visit) -> None:
    visitor = visit(f"{FEW}&__theme=dark", size=PHONE)
    page = visitor.page
    visitor.says("dq-status", "Done: 4 pictures")
    names = [
        c.inner_text()
        for c in page.locator("#dq-result .dq-card").first.locator("figcaption").all()
    ]
    assert names == ["Trouser", "Bag"]
    page.wait_for_timeout(400)
    assert query_of(page.url) == dict(parse_qsl(FEW)) | {"__theme": "dark"}
    visitor.fits()
    assert page.locator("#dq-draw-button").bounding_box()["y"] < PHONE["height"], "Draw is at hand"
    visitor.look("draw-dark-phone")


def test_a_bad_link_gets_a_sentence(visit) -> None:
    visitor = visit("steps=9999&versions=best-1bit")
    words = visitor.says("dq-status", "The link does not fit")
    assert "9999" in words
    assert visitor.page.locator("#dq-result img").count() == 8


def test_stop_stops_at_once_and_says_so(visit) -> None:
    visitor = visit()
    page = visitor.page
    visitor.set_steps(250)
    for moment in range(6):  # anywhere within a step; the last word stays, and is never "Error"
        page.get_by_role("button", name="Draw").click()
        visitor.says("dq-status", r"Step ([2-9]|\d\d+) of 250")
        page.wait_for_timeout(90 * moment)
        seen = page.evaluate(f"() => {{ {PRESS_STOP}; return {TEXT}('dq-status') }}")
        words = visitor.says("dq-status", r"Stopped after step \d+ of 250")
        late = number_in(words) - number_in(seen)
        assert 0 <= late <= 25, "steps that the page is behind"
        page.wait_for_timeout(600)
        assert visitor.reads("dq-status") == words
    visitor.set_steps(2)
    page.get_by_role("button", name="Draw").click()
    visitor.says("dq-status", "Done: 8 pictures")
    page.locator("#dq-stop-button").click()
    visitor.says("dq-status", "Nothing is going on")


LATE_END = """(() => {
  const fetched = window.fetch;
  window.fetch = async (...asked) => {
    if (!String(asked[0].url ?? asked[0]).includes("queue/data")) return fetched(...asked);
    // Gradio gives up a stream that it knows to be over; through this one that would be an error
    const answer = await fetched(new Request(asked[0], { signal: null }));
    const late = new TransformStream({
      async transform(chunk, out) {
        if (new TextDecoder().decode(chunk).includes("close_stream"))
          await new Promise((go) => setTimeout(go, 300));
        out.enqueue(chunk);
      },
    });
    const { status, headers } = answer;
    return new Response(answer.body.pipeThrough(late), { status, headers });
  };
})()"""
"""A browser so busy that a page reads the end of a stream 0.3 s late."""


DRAW_AGAIN = """() => {
  const status = document.querySelector("#dq-status");
  window.drawn = 0;
  let busy = true;
  const look = () => {
    const done = status.innerText.includes("Done");
    if (busy && done && ++window.drawn < 3) document.querySelector("#dq-draw-button").click();
    busy = !done;
  };
  const everything = { subtree: true, childList: true, characterData: true };
  new MutationObserver(look).observe(status, everything);
  look();
}"""
"""Three drawings, each asked for in the moment in which the one before is done."""


def test_a_drawing_asked_for_as_the_last_one_ends_is_not_lost(visit) -> None:
    page = visit(FEW, script=LATE_END).page
    page.evaluate(DRAW_AGAIN)
    page.wait_for_function("window.drawn === 3", timeout=PATIENCE)


def test_another_drawing_takes_the_place_of_the_first(visit) -> None:
    visitor = visit()
    page = visitor.page
    visitor.set_steps(250)
    page.get_by_role("button", name="Draw").click()
    visitor.says("dq-status", r"Step \d+ of 250")
    visitor.set_steps(3)
    page.get_by_role("button", name="Draw").click()
    page.wait_for_url(re.compile("steps=3"), timeout=PATIENCE)
    words = visitor.says("dq-status", "Done: 8 pictures")
    page.wait_for_timeout(1000)
    assert visitor.reads("dq-status") == words


def test_by_keyboard_alone(visit) -> None:
    visitor = visit("model=fashion-dit&steps=2&images=1&classes=8&versions=best-1bit,vq-1bit")
    page = visitor.page
    visitor.says("dq-status", "Done: 3 pictures")

    def tab_to(selector: str) -> None:
        for _ in range(80):
            page.keyboard.press("Tab")
            if page.evaluate("(s) => document.activeElement?.closest(s) !== null", selector):
                return
        raise AssertionError(f"Tab never comes to {selector}")

    page.evaluate("window.scrollTo(0, 0); document.activeElement?.blur()")
    tab_to("#dq-draw-button")
    tab_to("#dq-seed")
    page.keyboard.press("Control+A")
    page.keyboard.type("12")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # roll another seed
    page.wait_for_timeout(200)
    assert page.locator("#dq-seed input").input_value() != "12"
    tab_to(".dq-picks")
    page.keyboard.press("ArrowRight")
    panels = page.locator("#dq-compare .dq-panel")
    assert [panel.is_visible() for panel in panels.all()] == [False, True]
    tab_to(".dq-slider")
    for _ in range(10):
        page.keyboard.press("ArrowLeft")
    assert "--x: 40%" in str(panels.nth(1).locator("figure").first.get_attribute("style"))
    outline = "getComputedStyle(document.activeElement.parentElement).outlineStyle"
    assert page.evaluate(outline) == "solid", "one sees where the keyboard is"
    # back to the first button, and draw
    for _ in range(80):
        page.keyboard.press("Shift+Tab")
        if page.evaluate("document.activeElement?.id") == "dq-draw-button":
            break
    page.keyboard.press("Enter")
    visitor.says("dq-status", r"Step|Getting")
    visitor.says("dq-status", "Done: 3 pictures")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_where_the_error_goes(visit, theme: str) -> None:
    visitor = visit(f"{FEW}&__theme={theme}")
    page = visitor.page
    visitor.says("dq-status", "Done: 4 pictures")
    visitor.tab("Where the error goes")
    visitor.says("dq-error-status", "Recorded with")
    visitor.says("dq-run", "Trouser, Bag; seed 5, 3 steps")
    page.get_by_role("button", name="Trace").click()
    visitor.says("dq-error-status", "Traced")
    words = visitor.says("dq-error-words", "What to see")
    assert re.search(r"largest in block \d at timestep \d+", words)
    plot = page.locator("#dq-error-map .js-plotly-plot")
    plot.get_by_text("Accumulated error").first.wait_for(timeout=PATIENCE)
    assert plot.locator(".imagelayer image").count() == 3, "pictures stand below the map"
    page.get_by_label("each block").check()
    plot.get_by_text("Local error").first.wait_for(timeout=PATIENCE)
    visitor.says("dq-error-words", "full precision's input")
    background = plot.locator(".main-svg").first.evaluate("e => getComputedStyle(e).background")
    assert "rgba(0, 0, 0, 0)" in background, "the page shows through"
    visitor.look(f"error-{theme}")


@pytest.mark.parametrize(("theme", "size"), [("light", PHONE), ("dark", DESK)])
def test_the_blind_test(visit, theme: str, size: dict[str, int]) -> None:
    visitor = visit(f"__theme={theme}", size=size)
    page = visitor.page
    visitor.tab("Blind test")
    question = page.locator("#dq-question .dq-question")
    question.wait_for(timeout=PATIENCE)
    visitor.says("dq-score", "50 % is chance level")
    sources = [image.get_attribute("src") for image in question.locator("img").all()]
    assert len(set(sources)) == 2
    first = question.get_attribute("data-pair")
    page.keyboard.press("a")
    visitor.says("dq-answer", "was full precision")
    visitor.says("dq-score", "of 1 right")
    page.wait_for_selector(f".dq-question:not([data-pair='{first}'])", timeout=PATIENCE)
    page.get_by_role("button", name="It is B").click()
    score = visitor.says("dq-score", "of 2 right")
    assert "95 % interval" in score
    with page.expect_download() as download:
        page.get_by_text("Download votes").click()
    rows = Path(download.value.path()).read_text().splitlines()
    assert len(rows) == 3
    assert rows[0].startswith("number,model,version")
    assert [row.split(",")[-3] for row in rows[1:]] == ["A", "B"]
    visitor.fits()
    visitor.look(f"blind-{theme}-{size['width']}")


@pytest.mark.parametrize(("theme", "size"), [("dark", PHONE), ("light", DESK)])
def test_how_it_works(visit, theme: str, size: dict[str, int]) -> None:
    visitor = visit(f"__theme={theme}", size=size)
    page = visitor.page
    visitor.tab("How it works")
    page.wait_for_selector("#dq-chapter-5 .js-plotly-plot .heatmaplayer", timeout=PATIENCE)
    assert page.locator(".dq-chapter .js-plotly-plot").count() == 5
    assert page.get_by_text("notebooks/01_vq_vs_pq.ipynb").count() == 1
    visitor.fits()
    visitor.look(f"how-{theme}-{size['width']}")
