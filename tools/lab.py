"""Open the notebooks in JupyterLab: ``make lab``, or ``python -m tools.lab``.

Everything that Jupyter would keep in the home folder (settings, workspaces, runtime files) stays in
``out/lab`` beside the notebooks. No news, no update checks, no extension manager: nothing asks the
network. Needs the standard library, and an environment with JupyterLab.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TOUR = "notebooks/00_tour.ipynb"

SETTINGS: dict[str, dict[str, Any]] = {
    # the server's option for it, --LabApp.news_url=None, leaves the pop-up
    "@jupyterlab/apputils-extension:notification": {
        "fetchNews": "false",
        "checkForUpdates": False,
        "doNotDisturbMode": True,
    },
    "@jupyterlab/extensionmanager-extension:plugin": {"enabled": False},
    "@jupyterlab/docmanager-extension:plugin": {"autosave": False},
}
"""Settings that a user may still change: they are defaults."""

QUIET = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "GRADIO_ANALYTICS_ENABLED": "False",
}


def write_settings(home: Path) -> Path:
    """Write the default settings below ``home`` and return their file."""
    path = home / "config" / "labconfig" / "default_setting_overrides.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(SETTINGS, indent=2) + "\n", encoding="utf-8")
    return path


def environment(home: Path, base: dict[str, str] | None = None) -> dict[str, str]:
    """Return the environment of a server that keeps to ``home`` and asks nobody.

    Parameters
    ----------
    home
        Folder for all that Jupyter writes.
    base
        Environment to start from; None for this process's own.
    """
    folders = {
        "JUPYTER_CONFIG_DIR": home / "config",
        "JUPYTER_DATA_DIR": home / "data",
        "JUPYTER_RUNTIME_DIR": home / "runtime",
        "JUPYTERLAB_SETTINGS_DIR": home / "config" / "lab" / "user-settings",
        "JUPYTERLAB_WORKSPACES_DIR": home / "config" / "lab" / "workspaces",
        "IPYTHONDIR": home / "ipython",
    }
    start = dict(os.environ if base is None else base)
    # kernels must find the package of this checkout, installed or not
    paths = [str(ROOT), *filter(None, [start.get("PYTHONPATH")])]
    return (
        start
        | QUIET
        | {name: str(path) for name, path in folders.items()}
        | {"PYTHONPATH": os.pathsep.join(paths)}
    )


def command(*, notebook: str = TOUR, port: int = 8888, browser: bool = True) -> list[str]:
    """Return the command that serves the checkout's root on this machine alone."""
    return [
        sys.executable,
        "-m",
        "jupyterlab",
        f"--ServerApp.root_dir={ROOT}",
        f"--LabApp.default_url=/lab/tree/{notebook}",
        f"--ServerApp.port={port}",
        "--ServerApp.ip=127.0.0.1",
        "--LabApp.news_url=None",
        "--LabApp.extension_manager=readonly",
        "--ServerApp.allow_root=True",
        *([] if browser else ["--no-browser"]),
    ]


def main(arguments: list[str] | None = None) -> int:
    """Start the server, and stay until it ends."""
    parser = argparse.ArgumentParser(prog="python -m tools.lab", description=__doc__)
    parser.add_argument("--notebook", default=TOUR, help=f"what to open ({TOUR})")
    parser.add_argument("--port", type=int, default=8888, help="or the next one that is free")
    parser.add_argument("--no-browser", action="store_true", help="only serve; print the address")
    options = parser.parse_args(arguments)
    if importlib.util.find_spec("jupyterlab") is None:
        print("JupyterLab is not installed here: run `make setup`, then `make lab`.")
        return 1
    if not (ROOT / options.notebook).is_file():
        print(f"{options.notebook} does not exist: expected a notebook below {ROOT.name}/.")
        return 1
    home = ROOT / "out" / "lab"
    write_settings(home)
    run = command(notebook=options.notebook, port=options.port, browser=not options.no_browser)
    print(f"Opening {options.notebook}. Ctrl-C twice ends it.", flush=True)
    try:
        return subprocess.run(run, env=environment(home), cwd=ROOT, check=False).returncode
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    raise SystemExit(main())
