"""A JupyterLab of its own on this machine, and one notebook in a headless Chromium."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PICTURES = ROOT / "out" / "browser"  # ignored by git: to be looked at
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
START = 90.0  # s for the server to answer
SETTINGS = {
    "@jupyterlab/apputils-extension:notification": {
        "fetchNews": "false",
        "checkForUpdates": False,
    },
    # every cell exists at once: what is asserted need not be scrolled to
    "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"},
}
# noise of JupyterLab itself on a slow machine, and of Chromium without a GPU
HARMLESS = re.compile(r"took too long|[Ss]low|GPU stall|WebGL|Failed to load resource.*404")

STARTED = (
    "window.jupyterapp?.shell?.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"
)
IDLE = """() => {
  const panel = window.jupyterapp.shell.currentWidget;
  const cells = panel.content.widgets.filter((cell) => cell.model.type === "code");
  const over = (cell) => cell.model.executionCount || !cell.model.sharedModel.source.trim();
  const waits = cells.some((cell) => cell.inputArea.promptNode.textContent.includes("*"));
  return !waits && cells.every(over) && panel.sessionContext.session.kernel.status === "idle";
}"""


def chromium() -> str | None:
    """Path of a Chromium or Chrome, or None."""
    wanted = os.environ.get("DPQLAB_CHROMIUM")
    found = (shutil.which(name) for name in ((wanted,) if wanted else BROWSERS))
    return next((path for path in found if path), None)


@dataclass(kw_only=True)
class Lab:
    """A running server: ``folder`` is its root."""

    url: str
    token: str
    folder: Path
    process: subprocess.Popen[bytes]
    log: Path

    def put(self, name: str, cells: Sequence[str]) -> str:
        """Write a notebook of code cells; return its name."""
        import nbformat

        book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c.strip()) for c in cells])
        book.metadata["kernelspec"] = {
            "name": "python3",
            "display_name": "Python 3",
            "language": "python",
        }
        nbformat.write(book, self.folder / name)
        return name

    def copy(self, path: Path) -> str:
        """Bring a notebook here; return its name."""
        shutil.copy(path, self.folder / path.name)
        return path.name

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)


def start_lab(folder: Path) -> Lab:
    """Start JupyterLab with settings of its own, and wait until it answers."""
    config, root = folder / "config", folder / "root"
    (config / "labconfig").mkdir(parents=True)
    root.mkdir()
    settings = config / "labconfig" / "default_setting_overrides.json"
    settings.write_text(json.dumps(SETTINGS), encoding="utf-8")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token = secrets.token_hex(8)
    environment = os.environ | {
        "JUPYTER_CONFIG_DIR": str(config),
        "JUPYTER_DATA_DIR": str(folder / "data"),
        "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
        "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
        "IPYTHONDIR": str(folder / "ipython"),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        "HF_HUB_OFFLINE": "1",
        "DPQLAB_FAST": "1",
    }
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1"]
    command += [f"--port={port}", "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}"]
    command += [f"--ServerApp.root_dir={root}", "--LabApp.expose_app_in_browser=True"]
    command += ["--ServerApp.allow_root=True", "--LabApp.news_url=None"]
    command += ["--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    log = folder / "lab.log"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            command, env=environment, cwd=root, stdout=sink, stderr=subprocess.STDOUT
        )
    lab = Lab(url=f"http://127.0.0.1:{port}", token=token, folder=root, process=process, log=log)
    until = time.monotonic() + START
    while time.monotonic() < until and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{lab.url}/api/status?token={token}", timeout=2):
                return lab
        except OSError:
            time.sleep(0.3)
    lab.stop()
    raise RuntimeError(f"JupyterLab did not start:\n{log.read_text()[-3000:]}")


@dataclass(kw_only=True)
class Notebook:
    """An open notebook, and what its page did so far.

    Attributes
    ----------
    page
        Playwright's page.
    errors
        Errors of the console and of the page.
    strangers
        Addresses outside this machine that the page asked for.
    received, sent
        Bytes over websockets.
    """

    page: Any
    name: str
    host: str
    errors: list[str] = field(default_factory=list)
    strangers: list[str] = field(default_factory=list)
    received: int = 0
    sent: int = 0

    def watch(self) -> None:
        """Begin to note what the page does."""
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", self._request)
        self.page.on("websocket", self._websocket)

    def run_all(self, timeout: float = 90.0) -> None:
        """Run every cell, and wait for the last; a cell that raised is an error here."""
        self.command("notebook:run-all-cells")
        self.wait_idle(timeout)
        raised = self.page.locator(".jp-OutputArea-output[data-mime-type*='stderr']")
        tracebacks = self.page.locator(
            ".jp-RenderedText[data-mime-type='application/vnd.jupyter.error'], "
            ".jp-OutputArea-output.jp-mod-error"
        )
        assert tracebacks.count() == 0, tracebacks.first.inner_text()
        assert raised.count() == 0, raised.first.inner_text()

    def wait_idle(self, timeout: float = 90.0) -> None:
        """Wait until no cell is running or waiting."""
        self.page.wait_for_function(IDLE, timeout=1000 * timeout)

    def command(self, name: str, arguments: dict[str, Any] | None = None) -> None:
        """Execute a command of JupyterLab; do not wait for its end."""
        script = "([name, given]) => { window.jupyterapp.commands.execute(name, given); }"
        self.page.evaluate(script, [name, arguments or {}])

    def theme(self, name: str) -> None:
        """Change to ``"light"`` or ``"dark"``."""
        title = {"light": "JupyterLab Light", "dark": "JupyterLab Dark"}[name]
        self.command("apputils:change-theme", {"theme": title})
        light = "true" if name == "light" else "false"
        selector = f"body[data-jp-theme-light='{light}']"
        self.page.wait_for_selector(selector, state="attached", timeout=15_000)
        self.page.wait_for_timeout(700)

    def look(self, name: str) -> list[Path]:
        """Save the whole notebook as PNG in both themes, under ``out/browser/``."""
        PICTURES.mkdir(parents=True, exist_ok=True)
        before = self.page.viewport_size
        height = self.page.evaluate(
            "Math.max(...[...document.querySelectorAll('.jp-WindowedPanel-outer')]"
            ".map((panel) => panel.scrollHeight))"
        )
        wanted = max(before["height"], min(12_000, height + 160))
        self.page.set_viewport_size({"width": before["width"], "height": wanted})
        taken = []
        for theme in ("light", "dark"):
            self.theme(theme)
            path = PICTURES / f"{name}-{theme}.png"
            self.page.screenshot(path=path)
            taken.append(path)
        self.theme("light")
        self.page.set_viewport_size(before)
        return taken

    def clean(self) -> None:
        """Fail if the page had errors, or asked anyone outside this machine."""
        assert self.errors == []
        assert self.strangers == []

    def _console(self, message: Any) -> None:
        if message.type == "error" and not HARMLESS.search(message.text):
            self.errors.append(message.text)

    def _request(self, request: Any) -> None:
        local = request.url.startswith((self.host, "data:", "blob:"))
        if not local:
            self.strangers.append(request.url)

    def _websocket(self, socket: Any) -> None:
        def count(way: str, payload: str | bytes) -> None:
            size = len(payload.encode()) if isinstance(payload, str) else len(payload)
            setattr(self, way, getattr(self, way) + size)

        socket.on("framereceived", lambda payload: count("received", payload))
        socket.on("framesent", lambda payload: count("sent", payload))


@contextmanager
def open_notebook(browser: Any, lab: Lab, name: str) -> Iterator[Notebook]:
    """Open a notebook of the lab in a page of its own, with an idle kernel; end both afterwards."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    try:
        book = Notebook(page=context.new_page(), name=name, host=lab.url)
        book.watch()
        book.page.goto(f"{lab.url}/doc/tree/{name}?token={lab.token}&reset")
        book.page.wait_for_selector(".jp-Notebook", timeout=60_000)
        book.page.wait_for_function(STARTED, timeout=60_000)
        yield book
    finally:
        for page in context.pages:
            page.evaluate("window.jupyterapp?.shell?.currentWidget?.sessionContext?.shutdown?.()")
        context.close()
