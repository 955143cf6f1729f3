"""Pruning the pool, in a real JupyterLab: slide, click, pin, and see everything follow."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.browser

CELLS = """
from dpqlab.widgets import PoolPruning
view = PoolPruning()
view
"""


def test_the_pruning_view(notebook, record_property):
    book = notebook(CELLS)
    before = book.received
    book.run_all()
    page = book.page
    page.wait_for_function("document.querySelectorAll('.dpqlab-plot[data-drawn]').length >= 3")
    opened = book.received - before
    record_property("opened_bytes", opened)
    assert opened < 4_000_000, opened
    words = page.locator(".jp-OutputArea-output p").first
    assert "all codewords" in words.inner_text()

    slider = page.locator(".noUi-handle").first
    slider.focus()
    for stop in ("1/4", "1/8"):
        page.keyboard.press("ArrowRight")
        page.get_by_text(f"within {stop} of the bits of the codes").first.wait_for(timeout=5000)
    page.get_by_role("button", name="Pin A").click()
    for _ in range(4):
        page.keyboard.press("Tab")
    slider.focus()
    for _ in range(6):
        page.keyboard.press("ArrowRight")
        page.wait_for_timeout(400)
    page.get_by_role("button", name="Pin B").click()
    page.get_by_text("not which codec is better").first.wait_for(timeout=5000)

    plot = page.locator(".dpqlab-plot").first
    plot.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_timeout(200)
    page.keyboard.press("Enter")
    page.get_by_text("all codewords: 491,520 of 491,520").first.wait_for(timeout=5000)
    for _ in range(5):
        page.keyboard.press("ArrowRight")
        page.wait_for_timeout(150)
    page.keyboard.press("Enter")
    page.wait_for_function("!document.body.innerText.includes('491,520 of 491,520')")
    page.get_by_role("button", name="Show code").click()
    page.get_by_text("figure = pruning_path").wait_for(timeout=5000)
    book.look("pruning")
    book.clean()
