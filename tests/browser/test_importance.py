"""Codebook importance, in a real JupyterLab: choose, click, reveal, remove and draw, stop."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.browser

CELLS = """
from dpqlab.widgets import CodebookImportance
view = CodebookImportance()
view.state.scope = 40
view
"""
TOP = "document.querySelector('.jp-WindowedPanel-outer, .jp-Notebook').scrollTo(0, 0)"


def test_the_importance_view(notebook, record_property):
    book = notebook(CELLS)
    before = book.received
    book.run_all(timeout=120)
    page = book.page
    page.wait_for_function("document.querySelectorAll('.dpqlab-plot[data-drawn]').length >= 2")
    opened = book.received - before
    record_property("opened_bytes", opened)
    assert opened < 4_000_000, opened
    said = page.locator(".jp-OutputArea-output p").first
    first = said.inner_text()
    assert "of position 40" in first

    plot = page.locator(".dpqlab-plot").first
    plot.focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowRight", "Enter"):
        page.keyboard.press(key)
        page.wait_for_timeout(200)
    page.wait_for_function(f"!document.body.innerText.includes({first[:16]!r})")
    page.get_by_role("button", name="removal cost").click()
    page.get_by_text("that removal cost calls least important").first.wait_for(timeout=8000)
    page.get_by_role("button", name="Reveal").click()
    page.get_by_text("Held-out output error with 20% removed").first.wait_for(timeout=8000)

    page.get_by_role("button", name="Remove and draw").click()
    page.get_by_text("Drawing: teacher").wait_for(timeout=30_000)
    page.get_by_text("codewords removed by removal cost").wait_for(timeout=90_000)
    assert page.locator(".dpqlab-plot:visible").count() == 4
    page.evaluate(TOP)
    book.look("importance")

    page.get_by_role("button", name="Remove and draw").click()
    page.wait_for_timeout(800)
    page.get_by_role("button", name="Stop", exact=True).click()
    page.get_by_text("Stopped; what was drawn").wait_for(timeout=30_000)
    book.clean()
