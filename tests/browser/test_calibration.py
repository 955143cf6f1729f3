"""The calibration view in JupyterLab: a replay by keyboard, and a run that is stopped."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.browser.lab import Notebook

pytestmark = [pytest.mark.browser, pytest.mark.slow]

REPLAY = 'from dpqlab.widgets import CalibrationView\n\nCalibrationView("best-1bit")'
LIVE = """\
from dpqlab.studies.live_calibration import LiveConfig
from dpqlab.widgets import CalibrationView

CalibrationView("live", live=LiveConfig(steps=60, batch=4, every=2, strip_every=4))"""
# how long the kernel takes for a line of code while the calibration runs, in ms
ASK = """async () => {
  const panel = window.jupyterapp.shell.currentWidget;
  const began = performance.now();
  await panel.sessionContext.session.kernel.requestExecute({code: "6 * 7"}).done;
  return performance.now() - began;
}"""


def words(book: Notebook, text: str | re.Pattern[str], timeout: float = 60.0) -> None:
    book.page.get_by_text(text).first.wait_for(timeout=1000 * timeout)


def test_a_recorded_run_is_replayed_by_keyboard(notebook: Callable[..., Notebook]) -> None:
    book = notebook(REPLAY)
    book.run_all()
    page = book.page
    page.locator(".js-plotly-plot .heatmaplayer").first.wait_for()
    words(book, re.compile(r"Step 0 of 10,000"))
    page.get_by_role("slider").first.focus()
    page.keyboard.press("ArrowRight")
    words(book, re.compile(r"Step 500 of 10,000"))
    page.keyboard.press("End")
    words(book, re.compile(r"Step 10,000 of 10,000"))
    page.locator("[aria-label*='the best student up to step 10,000']").first.wait_for()
    page.get_by_label("Run", exact=True).select_option(label="dpq-1bit: 1.14 bits, recorded")
    words(book, re.compile(r"dpq-1bit, recorded on .* Step 8,000 of 8,000"))
    book.look("calibration")
    page.get_by_label("Compare all runs").check()
    words(book, re.compile(r"Lowest held-out error"))
    book.look("calibration-compared")
    book.clean()


def test_a_run_here_leaves_the_kernel_free_and_keeps_the_best_when_stopped(
    notebook: Callable[..., Notebook],
) -> None:
    book = notebook(LIVE)
    book.run_all()
    page: Any = book.page
    page.get_by_role("button", name="Run", exact=True).click()
    words(book, re.compile(r"Step [2-9]\d* of 60.*Held-out error"), timeout=240)
    waits = [page.evaluate(ASK) for _ in range(3)]
    assert min(waits) < 3000, f"the kernel answers while it calibrates: {waits} ms"
    page.get_by_role("button", name="Stop", exact=True).click()
    words(book, re.compile(r"Stopped after step \d+ of 60.*keeps its best state"), timeout=120)
    assert page.get_by_role("button", name="Save student").is_enabled()
    words(book, re.compile(r"vq-2bit, live"))
    book.look("calibration-live")
    book.clean()
