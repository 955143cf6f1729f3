"""``dpqlab plan``: what a preset would store of a model, before anything is compressed."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import nn

from dpqlab.checkpoint import is_compressed
from dpqlab.checkpoint.documents import parse_json
from dpqlab.commands.overrides import (
    add_codec_arguments,
    add_pool_arguments,
    add_preset_argument,
    overridden,
)
from dpqlab.commands.terminal import Terminal, add_json_argument, megabytes
from dpqlab.core import LayerLedger, ModelLedger
from dpqlab.diffusion.models import resolve
from dpqlab.errors import ConfigError
from dpqlab.nn.forecast import forecast_
from dpqlab.nn.presets import preset

EXAMPLES = """examples:
  dpqlab plan fashion-dit --preset best-1bit
  dpqlab plan path/to/DiT-XL-2-256 --preset vq-1bit --k 128

Sizes are exact, but for a pool with a budget, which counts as the most that it may take. The bytes
of the files are a little more: headers and settings are not counted here.
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
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Show the forecast."""
    terminal = Terminal(as_json=args.json)
    plan = overridden(preset(args.preset), args)
    source = resolve(args.source)
    if is_compressed(source):
        raise ConfigError(f"{args.source} is compressed already: expected a full-precision model")
    ledger = forecast_(skeleton(source), plan)
    report = report_of(ledger)
    if args.json:
        terminal.emit(report | {"preset": plan.name})
        return 0
    terminal.say(_table(ledger))
    terminal.say(
        f"{plan.name}: {report['true_bits_per_weight']:.3f} true bits per weight, "
        f"{megabytes(report['bytes'])} ({megabytes(report['kept_bytes'])} of them kept), "
        f"{report['ratio_fp32']:.1f}x smaller than fp32 ({megabytes(ledger.fp32_bytes)})"
    )
    return 0


def skeleton(source: Path) -> nn.Module:
    """Build a full-precision model on the meta device from its config, with one embedder.

    Raises
    ------
    ConfigError
        If there is no config, or diffusers cannot build a DiT of it.
    """
    from diffusers import DiTTransformer2DModel

    path = source / "transformer" / "config.json"
    if not path.is_file():
        raise ConfigError(f"{path} is missing: expected the folder of a diffusers pipeline")
    config: Any = parse_json(path.read_bytes(), "transformer/config.json")
    try:
        with torch.device("meta"):
            model: Any = DiTTransformer2DModel.from_config(config)
    except Exception as error:
        raise ConfigError(f"diffusers cannot build the DiT of {path}: {error}") from None
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


def _table(ledger: ModelLedger) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("layer", "codec"):
        table.add_column(name)
    for name in ("shape", "bits a weight", "bytes"):
        table.add_column(name, justify="right")
    for row in map(_row, ledger.layers):
        shape = "x".join(map(str, row["shape"]))
        table.add_row(
            row["name"], row["codec"], shape, f"{row['true_bits']:.3f}", f"{row['bytes']:,}"
        )
    return table
