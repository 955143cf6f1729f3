"""One JupyterLab and one Chromium a session; a fresh page with one notebook a test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.browser.lab import Lab, Notebook, chromium, open_notebook, start_lab


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless Chromium; skips where there is none."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install -e '.[browser]'"
    )
    path = chromium()
    if path is None:
        pytest.skip("no chromium on the PATH: install it, or name one in DPQLAB_CHROMIUM")
    with playwright.sync_playwright() as p:
        running = p.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture(scope="session")
def lab(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A JupyterLab that asks nobody outside."""
    pytest.importorskip("jupyterlab", reason="jupyterlab is not installed: the extra 'lab'")
    running = start_lab(tmp_path_factory.mktemp("lab"))
    yield running
    running.stop()


@pytest.fixture
def notebook(browser: Any, lab: Lab) -> Iterator[Callable[..., Notebook]]:
    """Open a notebook: ``notebook(path)``, or ``notebook(code)`` with ``# %%`` between cells."""
    with ExitStack() as opened:

        def open_one(source: Path | str, name: str = "test.ipynb") -> Notebook:
            copied = isinstance(source, Path)
            name = lab.copy(source) if copied else lab.put(name, source.split("# %%"))
            return opened.enter_context(open_notebook(browser, lab, name))

        yield open_one
