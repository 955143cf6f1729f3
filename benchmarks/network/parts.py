"""What is run under the watch: the demo, a notebook, the app up to its first picture.

python -m benchmarks.network.parts notebook|app FOLDER
"""

from __future__ import annotations

import asyncio
import base64
import json
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.app_client import DRAW, Request, client
from benchmarks.record import ROOT

NOTEBOOK = "01_vq_vs_pq"
PATIENCE_S = 3600
PICTURE = "data:image/png;base64,"


def commands(folder: Path) -> dict[str, list[str]]:
    """The command of each part; what it writes goes to `folder`."""
    own = [sys.executable, "-m", "benchmarks.network.parts"]
    return {
        "dpqlab demo": [sys.executable, "-m", "dpqlab", "demo", "--out", str(folder / "demo")],
        f"notebook {NOTEBOOK}": [*own, "notebook", str(folder)],
        "dpqlab app, first picture": [*own, "app", str(folder)],
    }


def run_notebook(folder: Path) -> None:
    """Run the notebook from top to bottom in a fresh kernel."""
    import nbformat
    from nbclient import NotebookClient

    book = nbformat.read(ROOT / "notebooks" / f"{NOTEBOOK}.ipynb", as_version=4)
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(book, timeout=PATIENCE_S, resources=resources).execute()
    shown = [output for cell in book.cells for output in cell.get("outputs", ())]
    if not any(output.output_type in ("display_data", "execute_result") for output in shown):
        raise RuntimeError("the notebook ran and showed nothing")
    print(f"{len(shown)} outputs")


@contextmanager
def app() -> Iterator[str]:
    """The app as a user starts it, in a process of its own; yields its address."""
    command = [sys.executable, "-m", "dpqlab", "app", "--no-browser", "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield address_said(process.stdout)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=60)


def address_said(lines: Iterable[str]) -> str:
    """The address in the JSON value that ``dpqlab app --json`` prints over several lines."""
    text = ""
    for line in lines:
        text += line
        if line.startswith("}"):
            return json.loads(text)["url"]
    raise RuntimeError(f"the app did not start; it said {text!r}")


async def first_picture(url: str) -> bytes:
    """Open the page, ask for a drawing as a program would; its first finished picture."""
    async with client(url, 2) as http:
        page = await http.get("/")
        page.raise_for_status()
        posted = await http.post(DRAW, json={"data": Request(steps=4).data})
        posted.raise_for_status()
        found: list[bytes] = []
        async with http.stream("GET", f"{DRAW}/{posted.json()['event_id']}") as stream:
            async for line in stream.aiter_lines():
                if line.startswith("data: ") and PICTURE in line:
                    found = list(pictures(json.loads(line.removeprefix("data: "))))
    if not found:
        raise RuntimeError("the drawing ended without a picture")
    return found[0]


def pictures(value: Any) -> Iterator[bytes]:
    """All PNG data URIs within a JSON value, decoded."""
    if isinstance(value, str) and value.startswith(PICTURE):
        yield base64.b64decode(value.removeprefix(PICTURE))
    elif isinstance(value, list | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from pictures(item)


def run_app(folder: Path) -> None:
    """Start the app, get a picture, keep it in `folder`."""
    with app() as url:
        picture = asyncio.run(first_picture(url))
    if not picture.startswith(b"\x89PNG\r\n\x1a\n"):
        raise RuntimeError(f"expected a PNG, got {picture[:8]!r}")
    (folder / "first.png").write_bytes(picture)
    print(f"a picture of {len(picture)} bytes")


if __name__ == "__main__":
    {"notebook": run_notebook, "app": run_app}[sys.argv[1]](Path(sys.argv[2]))
