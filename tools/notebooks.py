"""Keep ``notebooks/*.ipynb`` in step with the ``.py`` files that they are written as.

    python -m tools.notebooks --write     make them anew
    python -m tools.notebooks --check     fail where one is missing, stale, or too large

The ``.py`` (jupytext's percent format) is the source: it can be read, compared and merged. The
``.ipynb`` is for those who click on it; it holds no outputs, no widget state, and the same bytes
every time it is made.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import jupytext
import nbformat

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
LARGEST = 200_000  # bytes
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def notebook_of(source: Path) -> str:
    """Return the text of the notebook that a ``.py`` file stands for."""
    book = jupytext.read(source, fmt="py:percent")
    book.metadata = nbformat.from_dict(
        {"kernelspec": KERNEL, "language_info": {"name": "python"}}
        | {"jupytext": {"formats": "ipynb,py:percent"}}
    )
    for index, cell in enumerate(book.cells):
        cell.id = f"cell-{index:02d}"  # jupytext draws them at random
        cell.metadata = nbformat.from_dict({})
    book.nbformat, book.nbformat_minor = 4, 5
    nbformat.validate(book)
    return nbformat.writes(book) + "\n"


def troubles(folder: Path = NOTEBOOKS) -> list[str]:
    """Return what is wrong with the notebooks of a folder, a line each."""
    found: list[str] = []
    sources = {path.stem: path for path in sorted(folder.glob("*.py"))}
    for path in sorted(folder.glob("*.ipynb")):
        if path.stem not in sources:
            found.append(f"{path.name} has no {path.stem}.py that it is made from")
    for stem, source in sources.items():
        path = folder / f"{stem}.ipynb"
        wanted = notebook_of(source)
        if not path.exists():
            found.append(f"{path.name} is missing: run python -m tools.notebooks --write")
        elif path.read_text(encoding="utf-8") != wanted:
            found.append(f"{path.name} is stale: run python -m tools.notebooks --write")
        if len(wanted.encode()) > LARGEST:
            found.append(f"{path.name} would have {len(wanted)} bytes: expected {LARGEST} at most")
    return found


def write(folder: Path = NOTEBOOKS) -> None:
    """Make every notebook of a folder anew."""
    for source in sorted(folder.glob("*.py")):
        path = source.with_suffix(".ipynb")
        path.write_text(notebook_of(source), encoding="utf-8", newline="\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 1 when a check failed."""
    parser = argparse.ArgumentParser(prog="python -m tools.notebooks", description=__doc__)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--write", action="store_true", help="make the notebooks anew")
    action.add_argument("--check", action="store_true", help="only say what is wrong")
    if parser.parse_args(arguments).write:
        write()
    found = troubles()
    print("\n".join(found) or "The notebooks are in step with their sources.")
    return bool(found)


if __name__ == "__main__":
    raise SystemExit(main())
