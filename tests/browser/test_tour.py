"""The tour as a visitor opens it: all cells run, five views stand there, nobody is asked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.browser.lab import ROOT, Notebook

pytestmark = [pytest.mark.browser, pytest.mark.slow]
LARGEST_TRAFFIC = 15_000_000  # bytes over websockets for a notebook
VIEWS = 5


def notebook_of(source: Path, folder: Path) -> Path:
    """Make the .ipynb of a notebook in the form it is written in."""
    jupytext = pytest.importorskip("jupytext", reason="the extra 'lab' is not installed")
    path = folder / f"{source.stem}.ipynb"
    path.write_text(jupytext.writes(jupytext.read(source), fmt="ipynb"), encoding="utf-8")
    return path


def test_the_tour_shows_all_views(notebook: Callable[..., Notebook], tmp_path: Path) -> None:
    book = notebook(notebook_of(ROOT / "notebooks" / "00_tour.py", tmp_path))
    book.run_all(timeout=240)
    page = book.page
    page.wait_for_function(
        f"document.querySelectorAll('.js-plotly-plot .main-svg').length >= {VIEWS}",
        timeout=60_000,
    )
    page.get_by_label("about 22 times").click()
    page.get_by_role("button", name="Reveal", exact=True).click()
    page.get_by_text("You said about 22 times: right.").wait_for(timeout=60_000)
    book.look("tour")
    assert book.received + book.sent < LARGEST_TRAFFIC, f"{book.received:,} bytes received"
    book.clean()
