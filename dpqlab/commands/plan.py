"""``dpqlab plan``: what a preset would store of a model, before anything is compressed."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table
from torch import nn

from dpqlab.checkpoint.dense import build_dense, transformer_folder
from dpqlab.commands.compressing import source_folder
from dpqlab.commands.loading import quieten
from dpqlab.commands.overrides import (
    add_codec_arguments,
    add_pool_arguments,
    add_preset_argument,
    overridden,
)
from dpqlab.commands.terminal import Terminal, add_json_argument, megabytes
from dpqlab.core import LayerLedger, ModelLedger
from dpqlab.kernels.devices import device_of
from dpqlab.nn.expectation import expect_
from dpqlab.nn.presets import preset
from dpqlab.nn.resident import resident_bytes
from dpqlab.nn.workspace import Workspace
from dpqlab.report import clock

EXAMPLES = """examples:
  dpqlab plan fashion-dit --preset best-1bit
  dpqlab plan path/to/DiT-XL-2-256 --preset vq-1bit --k 128

Sizes are exact, but for a pool with a budget, which counts as the most that it may take. The bytes
of the files are a little more: headers and settings are not counted here. Seconds are an estimate
from a second or two of k-means and coding of random numbers on this machine, as busy as it is now;
reading and writing files is not in it. What layers share counts for the first of them.

Memory is what `dpqlab compress` would have resident at its peak on a CPU, interpreter and libraries
included: a layer at a time, what is written mapped from its files. Measured peaks were within a
quarter of it. What --measure weighted or removal adds, the activations of ten images, is not in it.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = (
        "Say what `dpqlab compress` would store, layer by layer, from the model's config alone: no "
        "weights are read. The embedders of the blocks count once, as in a compressed folder."
    )
    parser.epilog = EXAMPLES
    parser.add_argument("source", metavar="SOURCE", help="a bundled name, or a diffusers folder")
    add_preset_argument(parser, "pq-1bit")
    add_codec_arguments(parser)
    add_pool_arguments(parser, budget=True)
    parser.add_argument(
        "--device",
        default="cpu",
        metavar="NAME",
        help="where seconds are estimated for: cpu, cuda, cuda:1, or auto (cpu)",
    )
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Show the forecast."""
    terminal = Terminal(as_json=args.json)
    plan = overridden(preset(args.preset), args)
    quieten()
    model = skeleton(source_folder(args.source))
    expected = expect_(model, plan, device_of(args.device))
    ledger, seconds, workspace = expected.ledger, expected.layer_seconds, expected.workspace
    report = report_of(ledger)
    if args.json:
        for row in report["layers"]:
            row["seconds"] = seconds[row["name"]]
        needs = {"seconds": expected.seconds, "memory": memory_of(workspace)}
        terminal.emit(report | {"preset": plan.name} | needs)
        return 0
    terminal.say(_table(ledger, seconds))
    terminal.say(
        f"{plan.name}: {report['true_bits_per_weight']:.3f} true bits per weight, "
        f"{megabytes(report['bytes'])} ({megabytes(report['kept_bytes'])} of them kept), "
        f"{report['ratio_fp32']:.1f}x smaller than fp32 ({megabytes(ledger.fp32_bytes)})"
    )
    terminal.say(
        f"about {clock(expected.seconds)} on {args.device}, estimated from a short measurement"
    )
    memory = memory_of(workspace)
    terminal.say(
        f"at most about {megabytes(memory['peak_bytes'])} of memory: "
        f"{megabytes(memory['libraries_bytes'])} libraries, {megabytes(workspace.working)} to make "
        f"{workspace.layer} in, {megabytes(workspace.output)} written by then"
    )
    return 0


def memory_of(workspace: Workspace) -> dict[str, Any]:
    """Return the largest moment as JSON values, bytes; ``libraries`` are those of this process."""
    libraries = resident_bytes()
    return {
        "peak_bytes": libraries + workspace.total,
        "libraries_bytes": libraries,
        "output_bytes": workspace.output,
        "working_bytes": workspace.working,
        "layer": workspace.layer,
    }


def skeleton(source: Path) -> nn.Module:
    """Build a full-precision model on the meta device from its config, with one embedder.

    Raises
    ------
    ConfigError
        If there is no config.
    CheckpointError
        If it is not that of a DiT.
    """
    model: Any = build_dense(transformer_folder(source))
    for block in model.transformer_blocks[1:]:
        block.norm1.emb = model.transformer_blocks[0].norm1.emb
    return model


def report_of(ledger: ModelLedger) -> dict[str, Any]:
    """Return the forecast as JSON values; sizes in bytes."""
    kept = sum(tensor.bits for tensor in ledger.kept) // 8
    total = kept + sum(layer.total for layer in ledger.layers) // 8
    return {
        "true_bits_per_weight": ledger.true_bits_per_weight,
        "bytes": total,
        "kept_bytes": kept,
        "ratio_fp32": ledger.fp32_bytes / total,
        "layers": [_row(layer) for layer in ledger.layers],
    }


def _row(layer: LayerLedger) -> dict[str, Any]:
    return {
        "name": layer.name,
        "shape": list(layer.shape),
        "codec": layer.codec,
        "true_bits": layer.true_bits,
        "bytes": -(-layer.total // 8),
        "pool_bytes": layer.pool // 8,
    }


def _table(ledger: ModelLedger, seconds: Mapping[str, float]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("layer", "codec"):
        table.add_column(name)
    for name in ("shape", "bits a weight", "bytes", "seconds"):
        table.add_column(name, justify="right")
    for row in map(_row, ledger.layers):
        shape = "x".join(map(str, row["shape"]))
        bits, size = f"{row['true_bits']:.3f}", f"{row['bytes']:,}"
        table.add_row(row["name"], row["codec"], shape, bits, size, f"{seconds[row['name']]:.1f}")
    return table
