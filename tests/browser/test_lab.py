"""The parts of the workbench in a real JupyterLab: what crosses, how fast, and how it looks."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.browser

CELLS = """
import numpy as np, plotly.graph_objects as go, ipywidgets as W
from dpqlab.widgets import Plot, Pixels
from dpqlab.viz.theme import themed
rng = np.random.default_rng(0)
def line(k):
    x = np.linspace(0, 6, 200)
    f = go.Figure(go.Scatter(x=x, y=np.sin(k * x), name='sine'))
    return themed(f, title=f'k = {k}', x='time (s)', y='height (m)')
first = Plot(line(1), label='a sine')
slider = W.IntSlider(value=1, min=1, max=20, description='k')
slider.observe(lambda c: first.update(line(c['new'])), names='value')
W.VBox([slider, first])
# %%
z = rng.normal(size=(40, 60)).astype('f4')
heat = go.Figure(go.Heatmap(z=z, colorscale='RdBu', zmid=0, colorbar_title='weight'))
second = Plot(themed(heat, title='weights', x='column', y='row'), label='weights')
said = W.Label()
second.on_click(lambda p: setattr(said, 'value', f"clicked {p['point']} {p['z']:.3f}"))
W.VBox([second, said])
# %%
noise = rng.integers(0, 256, (4, 512, 512, 3), dtype=np.uint8)
picture = Pixels(noise[0], label='noise', zoom=1)
turn = W.IntSlider(value=0, min=0, max=3, description='turn')
turn.observe(lambda c: picture.show(noise[c['new']]), names='value')
W.VBox([turn, picture])
# %%
from dpqlab.viz.colours import diverging
w = rng.normal(size=(24, 48))
pair = [Pixels(label=f'matrix {i}', zoom=8, group='pair', cell=(1, 4)) for i in range(2)]
for p, v in zip(pair, (w, np.round(w))):
    p.show_values(v, (-3, 3), diverging())
pair[0].frame((2, 8, 1, 4))
told = W.Label()
pair[0].on_click(lambda c: setattr(told, 'value', f"cell {c['row']} {c['column']}"))
W.VBox([*pair, told])
"""

REDRAW = """([selector, slider]) => new Promise((resolve) => {
  const drawn = document.querySelectorAll(selector)[0];
  const handle = document.querySelectorAll('.noUi-handle')[slider];
  const started = performance.now();
  new MutationObserver((_, observer) => {
    observer.disconnect();
    requestAnimationFrame(() => resolve(performance.now() - started));
  }).observe(drawn, {attributes: true, attributeFilter: ['data-drawn']});
  handle.focus();
  handle.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowRight', bubbles: true}));
})"""


def test_plots_and_pixels_in_jupyterlab(notebook, record_property):
    book = notebook(CELLS)
    before = book.received
    book.run_all()
    page = book.page
    page.wait_for_function("document.querySelectorAll('.dpqlab-plot[data-drawn]').length === 2")
    page.wait_for_function("document.querySelectorAll('.picture[data-drawn]').length === 3")
    opened = book.received - before
    # plotly.js once, compressed; one picture of 0.8 MB
    assert 1_000_000 < opened < 4_000_000, opened

    moves = [page.evaluate(REDRAW, [".dpqlab-plot", 0]) for _ in range(5)]
    updates = [page.evaluate(REDRAW, [".picture", 1]) for _ in range(3)]
    record_property("opened_bytes", opened)
    record_property("slider_to_redraw_ms", sorted(moves)[2])
    record_property("picture_512_ms", sorted(updates)[1])
    assert "k = 6" in page.locator(".dpqlab-plot").first.text_content()

    page.wait_for_selector(".noUi-handle[aria-label='k']", timeout=5000)
    # each slider names its handle on its own, one after the other
    page.wait_for_function("!document.querySelector('.noUi-handle:not([aria-label])')")

    heat = page.locator(".dpqlab-plot").nth(1)
    heat.focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowUp", "Enter"):
        page.keyboard.press(key)
        page.wait_for_timeout(150)
    page.get_by_text("clicked [1, 1]").wait_for(timeout=5000)
    heat.locator(".draglayer .nsewdrag").first.click(position={"x": 200, "y": 60})
    page.wait_for_function("!document.body.innerText.includes('clicked [1, 1]')")

    matrix = page.locator(".picture").nth(1)
    matrix.click(position={"x": 100, "y": 20})
    page.get_by_text("cell 2 12").wait_for(timeout=5000)
    readings = page.locator(".reading").all_inner_texts()[1:]
    assert all(text.startswith("row 2, column 12: ") for text in readings)
    assert readings[0] != readings[1]
    book.look("lab")
    book.clean()
