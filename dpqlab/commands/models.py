"""``dpqlab models``: what is bundled."""

from __future__ import annotations

import argparse
from typing import Any

from rich.table import Table

from dpqlab.checkpoint import read_config
from dpqlab.commands.terminal import Terminal, add_json_argument, megabytes
from dpqlab.diffusion.models import ModelEntry, bundled


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = "List the bundled models. Their names work wherever a model is asked for."
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """List them."""
    terminal = Terminal(as_json=args.json)
    models = [describe(entry) for entry in bundled()]
    if args.json:
        terminal.emit({"models": models})
        return 0
    if not models:
        terminal.say("No models are bundled in this installation; `dpqlab doctor` says more.")
        return 0
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("name")
    table.add_column("kind")
    table.add_column("codec")
    table.add_column("on disk", justify="right")
    for model in models:
        codec = "; ".join(model["codecs"]) or "-"
        table.add_row(model["name"], model["kind"], codec, megabytes(model["bytes_on_disk"]))
    terminal.say(table)
    terminal.say(f"try: dpqlab sample {models[0]['name']}")
    return 0


def describe(entry: ModelEntry) -> dict[str, Any]:
    """Return what there is to say about a bundled model without loading its weights."""
    codecs: set[str] = set()
    if entry.kind == "compressed":
        codecs = {
            layer.codec.describe() for layer in read_config(entry.path).quantization.layers.values()
        }
    return {
        "name": entry.name,
        "kind": entry.kind,
        "codecs": sorted(codecs),
        "bytes_on_disk": entry.bytes_on_disk,
        "path": str(entry.path),
    }
