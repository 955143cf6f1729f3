"""One JupyterLab and one Chromium a session; a fresh page with one notebook a test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser.lab import Lab, Notebook, chromium, start_lab


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
    contexts = []

    def opened(source: Path | str, name: str = "test.ipynb") -> Notebook:
        context = browser.new_context(viewport={"width": 1280, "height": 900})
        contexts.append(context)
        name = lab.copy(source) if isinstance(source, Path) else lab.put(name, source.split("# %%"))
        book = Notebook(page=context.new_page(), name=name, host=lab.url)
        book.watch()
        book.page.goto(f"{lab.url}/doc/tree/{name}?token={lab.token}&reset")
        book.page.wait_for_selector(".jp-Notebook", timeout=60_000)
        book.page.wait_for_function(
            "window.jupyterapp?.shell?.currentWidget?.sessionContext?.session?.kernel?.status"
            " === 'idle'",
            timeout=60_000,
        )
        return book

    yield opened
    for context in contexts:
        for page in context.pages:
            page.evaluate("window.jupyterapp?.shell?.currentWidget?.sessionContext?.shutdown?.()")
        context.close()
