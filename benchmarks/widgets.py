"""The workbench in a browser: how soon a move shows, and what opening a notebook sends.

    python -m benchmarks.widgets [--parts moves opening] [--dry-run]

``moves``: the time from a key on a slider of VQ against PQ (k, the dial, d) until both figures are
drawn again (a 384-wide layer is coded anew at every stop), and from a key until a picture of
512 x 512 pixels in colour is on its canvas. ``opening``: bytes over the websocket while a notebook
is opened and run from top to bottom. A headless Chromium and a JupyterLab of its own on this
machine; medians.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.record import RESULTS, append, make_record
from tests.browser.lab import Lab, Notebook, chromium, open_notebook, start_lab
from tools.notebooks import NOTEBOOKS, notebook_of

SUITE = "widgets"
MOVES = 12
GOAL_MS, GOAL_MB = 300, 15
SETTLE = 3000  # ms after the last cell in which late messages count too
VIEW = """
from dpqlab.widgets import VQAgainstPQ
view = VQAgainstPQ()
view
"""
# search loops are compiled once a machine and d, which is not what is measured
WARM = """
from dpqlab.core import CodebookCodec
from dpqlab.studies.layer_coding import code_layer
for d in (6, 8, 12):
    code_layer(view.layers, 3, "attn1.to_q", CodebookCodec(d=d, k=16, iterations=1))
"""
PICTURE = """
import ipywidgets, numpy as np
from dpqlab.widgets import Pixels
noise = np.random.default_rng(0).integers(0, 256, (512, 512, 3), dtype=np.uint8)
picture = Pixels(noise, label="noise", zoom=1)
slider = ipywidgets.IntSlider(0, 0, 250, 5)
def show(change):
    image = np.roll(noise, change["new"], 0)
    image[:8, :8] = change["new"]
    picture.show(image)
slider.observe(show, "value")
ipywidgets.VBox([slider, picture])
"""
# until every figure has been drawn once more, and the browser has painted
REDRAWN = """() => new Promise((resolve) => {
  const plots = [...document.querySelectorAll('.dpqlab-plot')];
  const before = plots.map((plot) => plot.dataset.drawn);
  let start = 0;
  document.addEventListener('keydown', () => { start = performance.now(); },
                            { capture: true, once: true });
  const check = () => {
    const done = start && plots.every((plot, i) => plot.dataset.drawn !== before[i]);
    if (done) requestAnimationFrame(() => resolve(performance.now() - start));
    else requestAnimationFrame(check);
  };
  check();
})"""
PAINTED = """() => new Promise((resolve) => {
  const canvas = document.querySelector('.dpqlab-pixels canvas');
  const pixel = () => canvas.getContext('2d').getImageData(2, 2, 1, 1).data.join();
  const before = pixel();
  let start = 0;
  document.addEventListener('keydown', () => { start = performance.now(); },
                            { capture: true, once: true });
  const check = () => {
    if (start && pixel() !== before) resolve(performance.now() - start);
    else requestAnimationFrame(check);
  };
  check();
})"""


def timed(book: Notebook, handle: int, script: str, keys: list[str]) -> list[float]:
    """Press keys on a slider, and return the ms until each shows."""
    page = book.page
    page.locator(".noUi-handle, .ui-slider-handle").nth(handle).focus()
    times: list[float] = []
    for key in keys:
        page.evaluate(f"() => {{ window.waited = ({script})(); }}")
        page.keyboard.press(key)
        times.append(page.evaluate("() => window.waited"))
        page.wait_for_timeout(250)
    return times


def moves(browser: Any, lab: Lab) -> Iterator[dict[str, Any]]:
    """Measure the two kinds of moves."""
    keys = ["ArrowRight"] * 4 + ["ArrowLeft"] * 4
    cases = (
        # k: 32 to 256 and back; what was coded once is kept, so coding is timed on the way up
        ("VQ against PQ: k slider to redraw, layer coded anew", [VIEW], 2, REDRAWN, keys[:4]),
        ("VQ against PQ: k slider to redraw, coding kept", [VIEW], 2, REDRAWN, keys),
        ("VQ against PQ: dial to redraw, layer coded anew", [VIEW], 0, REDRAWN, keys[:1] * 6),
        ("VQ against PQ: d slider to redraw, layer coded anew", [VIEW, WARM], 1, REDRAWN, keys[:3]),
        ("picture of 512 x 512 in colour", [PICTURE], 0, PAINTED, keys[:1] * MOVES),
    )
    for row, cells, handle, script, pressed in cases:
        with open_notebook(browser, lab, lab.put("moves.ipynb", cells)) as book:
            book.run_all()
            book.page.wait_for_timeout(SETTLE)
            times = timed(book, handle, script, pressed)
        times = times[4:] if "kept" in row else times
        yield make_record(
            SUITE,
            row,
            "time to show",
            round(statistics.median(times), 1),
            "ms",
            goal=GOAL_MS,
            higher_is_better=False,
            details={
                "times": [round(one, 1) for one in times],
                "load": os.getloadavg()[0],  # of a machine that others use too: read with care
                "errors": book.errors,
            },
        )


def opening(browser: Any, lab: Lab) -> Iterator[dict[str, Any]]:
    """Measure what every notebook sends to the page."""
    for source in sorted(NOTEBOOKS.glob("[0-9]*.py")):
        name = f"{source.stem}.ipynb"
        (lab.folder / name).write_text(notebook_of(source), encoding="utf-8")
        with open_notebook(browser, lab, name) as book:
            book.run_all(timeout=180)
            book.page.wait_for_timeout(SETTLE)
            megabytes = book.received / 1e6
        yield make_record(
            SUITE,
            f"opening {source.stem}",
            "websocket to the page",
            round(megabytes, 3),
            "MB",
            goal=GOAL_MB,
            higher_is_better=False,
            details={"sent": book.sent, "errors": book.errors, "strangers": book.strangers},
        )


def main() -> None:
    """Measure, print, and append the records."""
    from playwright.sync_api import sync_playwright

    parts = {"moves": moves, "opening": opening}
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--parts", nargs="+", choices=tuple(parts), default=tuple(parts))
    parser.add_argument("--dry-run", action="store_true", help="append nothing")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to append to")
    args = parser.parse_args()
    path = chromium()
    if path is None:
        parser.error("no chromium on the PATH: install it, or name one in DPQLAB_CHROMIUM")
    with sync_playwright() as p, tempfile.TemporaryDirectory() as folder:
        lab = start_lab(Path(folder))
        browser = p.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            for part in args.parts:
                for record in parts[part](browser, lab):
                    print(
                        f"{record['row']:60s} {record['value']:9.2f} {record['unit']}", flush=True
                    )
                    if not args.dry_run:
                        append(record, args.results)
        finally:
            browser.close()
            lab.stop()


if __name__ == "__main__":
    main()
