"""Render the notebooks as pages of pictures: ``make gallery`` writes ``out/gallery/index.html``.

Every notebook is executed here, and what it shows is kept as PNG and text: no server, no script, no
request, no widget state. ``--pictures docs/gallery`` also writes one picture of each view, for the
README. Needs what the notebooks need, kaleido and a Chromium or Chrome for the pictures.
"""

from __future__ import annotations

import argparse
import base64
import html
import itertools
import os
import re
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from tools.gallery_pictures import LARGEST_PICTURE, png_bytes

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
GAP = 12  # pixels between pictures of a view
ENLARGED = 2.0
TIMEOUT = 600  # s for a cell
INSTALL = "from tools.gallery_pictures import install\n\ninstall()"
_IMAGE = re.compile(r'<img class="(?P<kind>\w+)" data-view="(?P<view>[^"]*)"(?P<rest>[^>]*)'
                    r'src="data:image/png;base64,(?P<data>[^"]+)">')  # fmt: skip
_MATH = re.compile(r"\$\$(?P<block>.+?)\$\$|(?<![\\$\w])\$(?P<line>[^$\n]+?)\$(?!\w)", re.DOTALL)

STYLE = """\
:root { color-scheme: light; }
body { font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; color: #222;
  max-width: 940px; margin: 2rem auto; padding: 0 1rem; background: #fff; }
h1, h2 { line-height: 1.25; } a { color: #0072B2; }
img { max-width: 100%; height: auto; display: block; margin: .6rem 0; }
img.pixels { image-rendering: pixelated; display: inline-block; margin-right: .6rem; }
pre { background: #f5f5f5; padding: .6rem .8rem; overflow-x: auto; font-size: 13px;
  line-height: 1.4; border-radius: 4px; }
pre.out { background: none; border-left: 3px solid #ddd; }
code { background: #f5f5f5; font-size: .9em; } pre code { background: none; }
table { border-collapse: collapse; } td, th { border-bottom: 1px solid #ddd; padding: .2rem .8rem; }
.asked { border: 1px solid #0072B2; border-radius: 4px; padding: .6rem .9rem; margin: 1rem 0; }
.words { margin: .4rem 0; } summary { cursor: pointer; color: #0072B2; }
math { font-size: 1.1em; } nav { font-size: 14px; }
"""


@dataclass(frozen=True, kw_only=True)
class Page:
    """A rendered notebook: its name, its title, and its HTML with pictures inside."""

    name: str
    title: str
    body: str


def run_notebook(path: Path) -> Any:
    """Execute a notebook in a kernel where everything shows its still form."""
    import jupytext
    import nbclient
    import nbformat

    book = jupytext.read(path)
    hidden = nbformat.v4.new_code_cell(INSTALL)
    book.cells.insert(0, hidden)
    # what a notebook writes beside itself stays out of the tree
    with tempfile.TemporaryDirectory() as folder:
        client = nbclient.NotebookClient(
            book,
            timeout=TIMEOUT,
            kernel_name="python3",
            store_widget_state=False,
            resources={"metadata": {"path": folder}},
        )
        client.execute()
    del book.cells[0]
    return book


def page_of(name: str, book: Any) -> Page:
    """Turn an executed notebook into HTML."""
    parts = [cell_html(cell) for cell in book.cells]
    first = next((c.source for c in book.cells if c.cell_type == "markdown"), name)
    title = re.sub(r"^#+ *", "", first.strip().splitlines()[0])
    return Page(name=name, title=title, body="\n".join(parts))


def cell_html(cell: Any) -> str:
    """Return a cell with what it put out."""
    if cell.cell_type == "markdown":
        return markdown_html(cell.source)
    if cell.cell_type != "code":
        return ""
    return code_html(cell.source) + "".join(output_html(output) for output in cell.outputs)


def code_html(source: str) -> str:
    """Return Python, folded when it is long: pictures and prose come first here."""
    shown = f"<pre><code>{html.escape(source)}</code></pre>"
    if source.count("\n") < 3:
        return shown
    return f"<details><summary>Code</summary>{shown}</details>"


def output_html(output: Any) -> str:
    """Return one output: still forms, pictures, text; warnings on stderr are left out."""
    if output.output_type == "stream":
        return (
            "" if output.name == "stderr" else f'<pre class="out">{html.escape(output.text)}</pre>'
        )
    data = output.get("data", {})
    if "text/html" in data:
        return str(data["text/html"])
    if "image/png" in data:
        source = f"data:image/png;base64,{data['image/png']}"
        return f'<img class="plot" data-view="" alt="" src="{source}">'
    # progress bars and other widgets mean nothing without a kernel
    if "text/plain" not in data or "application/vnd.jupyter.widget-view+json" in data:
        return ""
    return f'<pre class="out">{html.escape(data["text/plain"])}</pre>'


def markdown_html(text: str) -> str:
    """Return Markdown as HTML, formulas as MathML; notebooks that it links to are pages here."""
    import mistune

    formulas: list[str] = []

    def keep(found: re.Match[str]) -> str:
        block = found["block"] is not None
        formulas.append(math_html(found["block"] or found["line"], block=block))
        return f"FORMULA{len(formulas) - 1}E"

    render = mistune.create_markdown(plugins=["table"])
    page = str(render(_MATH.sub(keep, text)))
    page = page.replace('.ipynb">', '.html">')  # to the neighbouring page, not to the notebook
    return re.sub(r"FORMULA(\d+)E", lambda found: formulas[int(found[1])], page)


def math_html(tex: str, *, block: bool) -> str:
    """Return a formula as MathML; as its source where latex2mathml is not installed."""
    try:
        from latex2mathml.converter import convert
    except ImportError:
        return f"<code>{html.escape(tex.strip())}</code>"
    return str(convert(tex.strip(), display="block" if block else "inline"))


def with_files(page: Page, folder: Path) -> str:
    """Move the pictures of a page into files below ``folder``, and return what is left."""
    folder.mkdir(parents=True, exist_ok=True)
    count = 0

    def moved(found: re.Match[str]) -> str:
        nonlocal count
        count += 1
        file = folder / f"{page.name}-{count:02}.png"
        file.write_bytes(base64.b64decode(found["data"]))
        return f'<img class="{found["kind"]}"{found["rest"]}src="{folder.name}/{file.name}">'

    return _IMAGE.sub(moved, page.body)


def views_of(page: Page) -> dict[str, list[Image.Image]]:
    """Return the pictures of every view on a page, by the view's name."""
    import io

    found: dict[str, list[Image.Image]] = {}
    for match in _IMAGE.finditer(page.body):
        if match["view"]:
            data = base64.b64decode(match["data"])
            found.setdefault(match["view"], []).append(Image.open(io.BytesIO(data)).convert("RGB"))
    return found


def stacked(pictures: list[Image.Image]) -> Image.Image:
    """Put pictures below each other on white, all of one width; small ones of a size in a row."""
    width = max(picture.width for picture in pictures)
    rows: list[Image.Image] = []
    for size, group in itertools.groupby(pictures, key=lambda picture: picture.size):
        alike = list(group)
        a_row = max(1, min(len(alike), width // size[0]))
        for first in range(0, len(alike), a_row):
            rows.append(_joined(alike[first : first + a_row]))
    rows = [_widened(row, width) for row in rows]
    sheet = Image.new("RGB", (width, sum(row.height + GAP for row in rows) - GAP), "white")
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height + GAP
    return sheet


def _joined(pictures: list[Image.Image]) -> Image.Image:
    """Put pictures of one size beside each other."""
    width, height = pictures[0].size
    row = Image.new("RGB", (len(pictures) * (width + GAP) - GAP, height), "white")
    for place, picture in enumerate(pictures):
        row.paste(picture, (place * (width + GAP), 0))
    return row


def _widened(picture: Image.Image, width: int) -> Image.Image:
    """Enlarge a picture without smoothing; one that would become twice as large stays as it is."""
    factor = width / picture.width
    if factor >= ENLARGED:
        return picture
    return picture.resize((width, round(picture.height * factor)), Image.Resampling.NEAREST)


def write_picture(path: Path, picture: Image.Image) -> int:
    """Write a PNG below the limit, scaled down until it fits; return its bytes."""
    data = png_bytes(picture)
    while len(data) > LARGEST_PICTURE:
        size = (picture.width * 9 // 10, picture.height * 9 // 10)
        picture = picture.resize(size, Image.Resampling.LANCZOS)
        data = png_bytes(picture)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return len(data)


def document(title: str, body: str, home: str = "") -> str:
    """Return a whole page."""
    nav = f'<nav><a href="{home}">All notebooks</a></nav>' if home else ""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width"><title>{html.escape(title)}</title>'
        f"<style>{STYLE}</style></head><body>{nav}\n{body}\n{nav}</body></html>\n"
    )


def index(pages: list[Page]) -> str:
    """Return the page that lists the others."""
    items = "".join(
        f'<li><a href="{page.name}.html">{html.escape(page.title)}</a></li>' for page in pages
    )
    return document(
        "dpqlab: the notebooks in pictures",
        "<h1>The notebooks in pictures</h1><p>Still pictures of what the notebooks show, executed "
        "when this gallery was made. To move the sliders: <code>make lab</code>.</p>"
        f"<ol start='0'>{items}</ol>",
    )


def main(arguments: list[str] | None = None) -> int:
    """Execute, render, write."""
    parser = argparse.ArgumentParser(prog="python -m tools.gallery", description=__doc__)
    parser.add_argument(
        "notebooks", nargs="*", type=Path, help="all in notebooks/ if none is named"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "gallery")
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="one picture of each view")
    options = parser.parse_args(arguments)
    os.environ["PYTHONPATH"] = os.pathsep.join(
        filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])
    )
    pages: list[Page] = []
    views: dict[str, list[Image.Image]] = {}
    for path in options.notebooks or sorted(NOTEBOOKS.glob("[0-9]*.py")):
        started = time.monotonic()
        page = page_of(path.stem, run_notebook(path))
        pages.append(page)
        for name, pictures in views_of(page).items():
            views.setdefault(name, pictures)
        body = with_files(page, options.out / "pictures")
        (options.out / f"{page.name}.html").write_text(
            document(page.title, body, "index.html"), encoding="utf-8"
        )
        print(f"{path.name}: {time.monotonic() - started:.0f} s", flush=True)
    (options.out / "index.html").write_text(index(pages), encoding="utf-8")
    print(f"open {options.out / 'index.html'}")
    for name, pictures in views.items() if options.pictures else ():
        size = write_picture(options.pictures / f"{name}.png", stacked(pictures))
        print(f"{options.pictures / name}.png: {size / 1000:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
