"""The view of errors across blocks and timesteps, in JupyterLab."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dpqlab.tracing import load_trace

pytestmark = pytest.mark.browser

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "05_error_accumulation.ipynb"
CELLS = """
from dpqlab.widgets import ErrorMap
view = ErrorMap(["vq-1bit", "best-1bit"])
view
"""
# pixels of the middle of a cell of the first map
CELL = """([row, column]) => {
  const figure = document.querySelector(".dpqlab-plot");
  const map = figure.calcdata.find((drawn) => drawn[0].trace.type === "heatmap")[0];
  figure.scrollIntoView();
  const {_fullLayout: layout} = figure;
  const box = figure.getBoundingClientRect();
  const [x, y] = [map.trace.xaxis, map.trace.yaxis].map((id) =>
    layout[id[0] + "axis" + id.slice(1)]);
  return [box.x + x._offset + x.d2p(column), box.y + y._offset + y.d2p(row)];
}"""
DRAWN = "document.querySelectorAll('.dpqlab-plot[data-drawn]').length === 2"
SWITCH = """(name) => new Promise((resolve) => {
  const started = performance.now();
  new MutationObserver((_, observer) => {
    observer.disconnect();
    requestAnimationFrame(() => resolve(performance.now() - started));
  }).observe(document.querySelector(".dpqlab-plot"), {attributes: true,
    attributeFilter: ["data-drawn"]});
  [...document.querySelectorAll("button")].find((b) => b.textContent.trim() === name).click();
})"""


def sentence(page) -> str:
    return page.get_by_text(re.compile("Block . at timestep")).last.inner_text()


def test_move_switch_and_click(notebook, record_property):
    book = notebook(CELLS)
    before = book.received
    book.run_all()
    page = book.page
    page.wait_for_function(DRAWN)
    assert book.received - before < 4_000_000
    trace = load_trace("vq-1bit")
    assert f"timestep {trace.timesteps[12]}" in sentence(page)
    strip = page.locator(".dpqlab-plot").first.locator(".imagelayer image")
    assert strip.count() == 3

    page.mouse.click(*page.evaluate(CELL, [6, 17]))
    page.get_by_text(f"Block 6 at timestep {trace.timesteps[17]}").last.wait_for(timeout=10_000)
    told = sentence(page)
    assert f"accumulated {trace.error('accumulated')[6, 17]:.2g}" in told
    assert page.get_by_text(f"at timestep {trace.timesteps[17]}: teacher").count() == 1
    page.wait_for_function(
        "document.querySelectorAll('.dpqlab-plot')[1].textContent.includes('Block 6 at timestep')"
    )

    moves = [page.evaluate(SWITCH, name) for name in ("local", "one pass", "accumulated") * 2]
    record_property("switch_to_redraw_ms", sorted(moves)[len(moves) // 2])
    page.evaluate(SWITCH, "local")
    assert "Local error" in page.locator(".dpqlab-plot").first.text_content()

    # by keyboard: the first map, two steps to the right, one block down
    page.locator(".dpqlab-plot").first.focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowRight", "ArrowDown", "Enter"):
        page.keyboard.press(key)
        page.wait_for_timeout(150)
    page.get_by_text(f"Block 1 at timestep {trace.timesteps[2]}").last.wait_for(timeout=10_000)

    page.get_by_label("dpq-1bit", exact=True).check()
    page.wait_for_function(
        "document.querySelector('.dpqlab-plot').calcdata"
        ".filter((drawn) => drawn[0].trace.type === 'heatmap').length === 3"
    )
    page.get_by_role("button", name="Show code").click()
    page.get_by_text("figure = error_map(traces").last.wait_for(timeout=5000)
    page.mouse.click(*page.evaluate(CELL, [3, 14]))
    page.get_by_text(f"Block 3 at timestep {trace.timesteps[14]}").last.wait_for(timeout=10_000)
    book.look("error-map")
    book.clean()


def test_the_notebook_from_top_to_bottom(notebook):
    book = notebook(NOTEBOOK)
    before = book.received
    book.run_all()
    page = book.page
    page.wait_for_function("document.querySelectorAll('.dpqlab-plot[data-drawn]').length >= 3")
    assert book.received - before < 15_000_000
    question = page.locator(".jp-OutputArea-output").filter(has_text="does the error of this")
    question.get_by_label("from step to step").check()
    question.get_by_role("button", name="Reveal").click()
    question.get_by_text("It is from block to block").wait_for(timeout=10_000)
    page.get_by_text("errors of the blocks", exact=True).click()
    page.wait_for_function(
        "[...document.querySelectorAll('.dpqlab-plot')].some((plot) => plot.clientWidth > 300"
        ' && plot.textContent.includes("blocks\' outputs"))'
    )
    book.look("notebook-05")
    book.clean()
