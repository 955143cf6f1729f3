"""Notebooks in step with their sources."""

from __future__ import annotations

import nbformat
import pytest

from tools import notebooks

SOURCE = """# %% [markdown]
# # Title

# %%
x = 1
x
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "00_one.py").write_text(SOURCE, encoding="utf-8")
    return tmp_path


def test_what_is_written_holds_the_cells_and_nothing_else(folder):
    notebooks.write(folder)
    book = nbformat.read(folder / "00_one.ipynb", as_version=4)
    assert [(cell.cell_type, cell.source) for cell in book.cells] == [
        ("markdown", "# Title"),
        ("code", "x = 1\nx"),
    ]
    assert book.cells[1].outputs == []
    assert book.cells[1].execution_count is None
    assert "widgets" not in book.metadata


def test_the_same_source_gives_the_same_bytes(folder):
    source = folder / "00_one.py"
    assert notebooks.notebook_of(source) == notebooks.notebook_of(source)


def test_missing_stale_orphaned_and_too_large(folder, monkeypatch):
    assert "00_one.ipynb is missing" in notebooks.troubles(folder)[0]
    notebooks.write(folder)
    assert notebooks.troubles(folder) == []
    (folder / "00_one.py").write_text(SOURCE.replace("x = 1", "x = 2"), encoding="utf-8")
    (folder / "99_orphan.ipynb").write_text("{}", encoding="utf-8")
    found = "\n".join(notebooks.troubles(folder))
    assert "00_one.ipynb is stale" in found
    assert "99_orphan.ipynb has no 99_orphan.py" in found
    monkeypatch.setattr(notebooks, "LARGEST", 10)
    assert "expected 10 at most" in "\n".join(notebooks.troubles(folder))
