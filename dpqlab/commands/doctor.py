"""``dpqlab doctor``: what this machine can do, and what is missing."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from rich.text import Text

from dpqlab import __version__
from dpqlab.checkpoint import is_compressed, verify
from dpqlab.commands.checksums import SUMS, check_sums
from dpqlab.commands.expected import SOURCE, sources, students_of
from dpqlab.commands.terminal import Terminal, add_json_argument
from dpqlab.diffusion.models import bundled
from dpqlab.errors import ConfigError, DPQError
from dpqlab.evaluation.bundled import (
    bundled_feature_net,
    bundled_reference,
    has_quick_reference,
    quick_reference,
)
from dpqlab.kernels.overview import overview

EXTRAS: dict[str, tuple[tuple[str, str], ...]] = {
    "diffusers": (("diffusers", "loading and sampling models"), ("accelerate", "offloading")),
    "cli": (("rich", "this command"), ("plotly", "the report's figures")),
    "fast": (("numba", "fast k-means on the CPU"),),
}
"""Optional packages and what they are for, by the extra that installs them."""

Check = Callable[[], str]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = (
        "Say what this machine can do and what is missing: versions, CPU, GPUs, compute backends, "
        "which of them multiplies with compressed weights and when (the first rule that fits), "
        "optional packages with the extra that installs each, bundled models (their files are "
        "hashed and compared with the recorded SHA-256), free disk. Missing optional things are no "
        "error."
    )
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Look, and report."""
    terminal = Terminal(as_json=args.json)
    found = {
        "dpqlab": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": cpu(),
        "gpus": gpus(),
        **overview().to_dict(),
        "packages": packages(),
        "assets": assets(),
        "free_disk_bytes": shutil.disk_usage(Path.cwd()).free,
    }
    found["missing"] = missing(found)
    if args.json:
        terminal.emit(found)
    else:
        show(terminal, found)
    return 0


def cpu() -> dict[str, int]:
    """Count the cores that this process may use, and the threads that torch uses."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"cores": usable or 1, "torch_threads": torch.get_num_threads()}


def gpus() -> list[dict[str, Any]]:
    """List CUDA devices with their memory in bytes."""
    if not torch.cuda.is_available():
        return []
    listed = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        listed.append({"name": properties.name, "memory_bytes": properties.total_memory})
    return listed


def packages() -> list[dict[str, Any]]:
    """List optional packages: version or None, what for, and the extra that installs them."""
    return [
        {"name": name, "version": _version(name), "for": purpose, "extra": extra}
        for extra, members in EXTRAS.items()
        for name, purpose in members
    ]


def assets() -> list[dict[str, Any]]:
    """Check every bundled thing.

    Returns
    -------
    list
        Of each its ``name``, its ``state`` in words, and its ``problem``, None where there is none.
    """
    names = [name for source in sources() for name in (source, *students_of(source))]
    expected: dict[str, Check] = dict.fromkeys(names, _not_bundled)
    models: dict[str, Check] = {e.name: partial(_check_model, e.path) for e in bundled()}
    others: dict[str, Check] = {}
    for source in sources():
        of = "" if source == SOURCE else f" of {source}"
        others |= {
            f"feature network{of}": partial(_check_loads, bundled_feature_net, source),
            f"reference statistics{of}": partial(_check_loads, bundled_reference, source),
        }
        if source == SOURCE or has_quick_reference(source):
            others[f"quick reference{of}"] = partial(_check_loads, quick_reference, source)
    return [_examined(name, check) for name, check in (expected | models | others).items()]


def missing(found: dict[str, Any]) -> list[str]:
    """Say in sentences what is missing and how to get it."""
    said = []
    for extra in EXTRAS:
        gone = [
            p["name"] for p in found["packages"] if p["extra"] == extra and p["version"] is None
        ]
        if gone:
            said.append(f"{', '.join(gone)}: {_install(extra)}")
    return said + [f"{a['name']}: {a['problem']}" for a in found["assets"] if a["problem"]]


def show(terminal: Terminal, found: dict[str, Any]) -> None:
    """Lay it out for a person."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    table.add_row("dpqlab", f"{found['dpqlab']}, Python {found['python']}, torch {found['torch']}")
    cores, threads = found["cpu"]["cores"], found["cpu"]["torch_threads"]
    table.add_row("CPU", f"{found['platform']}, {cores} cores, torch uses {threads} threads")
    names = [f"{gpu['name']} ({gpu['memory_bytes'] / 1e9:.0f} GB)" for gpu in found["gpus"]]
    table.add_row("GPU", ", ".join(names) or "none that torch can use: everything runs on the CPU")
    table.add_row("free disk", f"{found['free_disk_bytes'] / 1e9:.1f} GB")
    for backend in found["backends"]:
        table.add_row(f"backend {backend['name']}", _mark(backend["available"], backend["reason"]))
    for package in found["packages"]:
        text = package["version"] or f"missing: {_install(package['extra'])}"
        line = _mark(package["version"] is not None, f"{text}, for {package['for']}")
        table.add_row(package["name"], line)
    for asset in found["assets"]:
        table.add_row(
            asset["name"], _mark(not asset["problem"], asset["problem"] or asset["state"])
        )
    terminal.say(table)
    terminal.say("\nProducts with compressed weights, by the first that fits:", rules_table(found))
    terminal.say("\nMissing:" if found["missing"] else "\nNothing is missing.")
    for line in found["missing"]:
        terminal.say(f"  {line}")


def rules_table(found: dict[str, Any]) -> Table:
    """Return the rules that choose a kernel, and whether they apply here."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("on", "for", "by", "here"):
        table.add_column(title, overflow="fold")
    for rule in found["rules"]:
        table.add_row(
            rule["device"],
            ", ".join(filter(None, (rule["rows"], rule["conditions"]))),
            f"{rule['backend']} {rule['method']}",
            _mark(rule["applies"], rule["refusal"] or rule["why"]),
        )
    return table


def _mark(good: bool, text: str) -> Text:
    return Text.assemble(("ok  ", "green") if good else ("no  ", "yellow"), text)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _install(extra: str) -> str:
    return f"pip install -e '.[{extra}]' in the clone"


def _check_model(folder: Path) -> str:
    """Hash a model's files against its manifest, or against its SHA256SUMS."""
    if is_compressed(folder) or (folder / "manifest.json").is_file():
        return f"intact: {len(verify(folder))} files match their SHA-256"
    if (folder / SUMS).is_file():
        return f"intact: {check_sums(folder)} files match their SHA-256"
    return "present, not verified"


def _check_loads(loader: Callable[[str], object], model: str) -> str:
    loader(model)
    return "loads"


def _not_bundled() -> str:
    raise ConfigError("not bundled in this installation")


def _examined(name: str, check: Check) -> dict[str, str | None]:
    """Run a check: what it says is the state, what it complains about the problem."""
    try:
        return {"name": name, "state": check(), "problem": None}
    except (DPQError, OSError) as error:
        return {"name": name, "state": "missing or damaged", "problem": str(error)}
