"""VQ against PQ, in a real JupyterLab: step, turn the dial, click a sub-vector."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("jupytext", reason="the extra 'lab' is not installed")
from tools.notebooks import NOTEBOOKS, notebook_of

pytestmark = pytest.mark.browser

CELLS = """
from dpqlab.widgets import VQAgainstPQ
view = VQAgainstPQ()
view
"""


def bits(page) -> float:
    words = page.locator(".jp-OutputArea-output p").last.inner_text()
    return float(re.search(r"([\d.]+) true bits", words)[1])


def test_the_view(notebook, record_property):
    book = notebook(CELLS)
    before = book.received
    book.run_all()
    page = book.page
    page.wait_for_function("document.querySelectorAll('.dpqlab-plot[data-drawn]').length >= 2")
    opened = book.received - before
    record_property("opened_bytes", opened)
    assert opened < 4_000_000, opened
    assert page.locator(".dpqlab-pixels canvas").count() == 3
    page.get_by_text("PQ d=4 k=16: 96 codebooks of 16 codewords").first.wait_for(timeout=5000)
    book.look("vq-vs-pq-split")

    step = page.get_by_role("button", name="Step ▶")
    for name in ("2. find the nearest", "3. keep its number", "4. rebuild"):
        step.click()
        page.get_by_text(name).first.wait_for(timeout=5000)
        book.look("vq-vs-pq-" + name[3:].split()[0])

    pq = bits(page)
    page.evaluate("document.querySelectorAll('.main-svg').forEach((e) => (e.dataset.old = ''))")
    figures = page.locator(".main-svg").count()
    dial = page.locator(".noUi-handle").first
    dial.focus()
    page.keyboard.press("End")
    for _ in range(6):
        page.keyboard.press("ArrowRight")
    page.get_by_text("VQ d=4 k=16: one codebook of 16 codewords").first.wait_for(timeout=9000)
    assert bits(page) < pq
    assert page.locator(".main-svg[data-old]").count() == figures, "moves take no figure apart"
    book.look("vq-vs-pq-vq")

    page.locator(".dpqlab-pixels canvas").nth(1).click(position={"x": 100, "y": 60})
    page.get_by_text(re.compile(r"Row (?!20)\d+, weights")).first.wait_for(timeout=5000)
    page.get_by_role("button", name="Show code").click()
    page.get_by_text("figure = codec_steps").wait_for(timeout=5000)
    book.clean()


def test_the_notebook_is_read_by_someone_who_predicts(notebook, tmp_path, record_property):
    path = Path(tmp_path / "01.ipynb")
    path.write_text(notebook_of(NOTEBOOKS / "01_vq_vs_pq.py"), encoding="utf-8")
    book = notebook(path)
    before = book.received
    book.run_all()
    page = book.page
    page.wait_for_function("document.querySelectorAll('.dpqlab-plot[data-drawn]').length >= 6")
    opened = book.received - before
    record_property("opened_bytes", opened)
    assert opened < 15_000_000
    page.wait_for_function(
        "[...document.querySelectorAll('.dpqlab-plot')]"
        ".some(e => e.data?.some(t => t.marker?.symbol === 'star'))"
    )
    drawn = page.evaluate(
        "[...document.querySelectorAll('.dpqlab-plot')].map(e => e.data?.length ?? 0)"
    )
    assert len(drawn) == 6, drawn
    assert min(drawn) >= 2, drawn
    assert page.get_by_text("You said").count() == 0, "no answer before a guess"
    for question in range(5):
        page.get_by_role("radio", name="PQ", exact=True).nth(question).check()
        page.get_by_role("button", name="Reveal").nth(question).click()
        page.wait_for_function(
            f"[...document.querySelectorAll('[role=status]')]"
            f".filter(e => e.innerText.startsWith('You said')).length === {question + 1}"
        )
    said = page.get_by_text("You said").all_inner_texts()
    assert said[0].startswith("You said PQ: right")
    assert said[1].startswith("You said PQ. It is VQ. PQ has the lower error in 1 of 54 pairs")
    assert said[2].startswith("You said PQ: right. PQ, in 16 of 18")
    assert said[3].startswith("You said PQ: right. FCD 0.55 with PQ")
    assert said[4].startswith("You said PQ. It is VQ. FCD 0.26 with PQ")
    answer = page.get_by_placeholder("your answer")
    answer.fill("6")
    answer.press("Enter")
    page.get_by_text("Right.", exact=True).wait_for(timeout=5000)
    book.look("notebook-01")
    book.clean()
