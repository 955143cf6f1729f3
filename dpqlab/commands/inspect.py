"""``dpqlab inspect``: what a model stores, layer by layer."""

from __future__ import annotations

import argparse
from typing import Any

from rich.table import Table
from torch import nn

from dpqlab.checkpoint import is_compressed, read_config
from dpqlab.checkpoint.schema import QuantizationConfig
from dpqlab.commands.compress import ERRORS
from dpqlab.commands.loading import load
from dpqlab.commands.measure import find_source, stored_ledger, weight_errors
from dpqlab.commands.terminal import Terminal, add_json_argument, megabytes
from dpqlab.core import CodebookCodec, LayerLedger, ModelLedger
from dpqlab.diffusion.models import resolve, weight_bytes
from dpqlab.evaluation.sizes import size_figures
from dpqlab.nn.linear import PackedLinear

RECORDED = "recorded when it was compressed"
PARTS = ("codes", "table", "pool", "scale", "bias")

EXAMPLES = """examples:
  dpqlab inspect fashion-dit-best-1bit
  dpqlab inspect out/pq --layers --source fashion-dit
  dpqlab inspect out/pq --json
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = (
        "Load a model, check its files, and say what it stores: true bits per weight (everything "
        "stored for the Linears of the blocks), and for every layer its codec, its bits by kind, "
        "and its error against the model that it was made of."
    )
    parser.epilog = EXAMPLES
    parser.add_argument("model", metavar="MODEL", help="a bundled name, or a folder")
    parser.add_argument(
        "--source", metavar="MODEL", help="full-precision model to compare the weights with"
    )
    parser.add_argument("--layers", action="store_true", help="every layer, not one row a kind")
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Show what is stored."""
    terminal = Terminal(as_json=args.json)
    report = inspect(args.model, source=args.source)
    if args.json:
        terminal.emit(report)
        return 0
    terminal.say(
        f"{args.model}: {report['true_bits_per_weight']:.3f} true bits per weight over "
        f"{report['compressed_weights']:,} compressed weights"
    )
    terminal.say(
        f"{megabytes(report['bytes_on_disk'])} on disk: {report['ratio_fp32']:.1f}x smaller than "
        f"fp32 ({megabytes(report['fp32_bytes'])}), {report['ratio_bf16']:.1f}x than bf16"
    )
    if report["layers"]:
        rows = report["layers"] if args.layers else by_kind(report["layers"])
        terminal.say(layer_table(rows, single=args.layers))
        for note in (error_note(report), *notes(report)):
            terminal.say(note)
    return 0


def inspect(model: str, *, source: str | None = None) -> dict[str, Any]:
    """Return everything about a model as JSON values; ``source`` is what to compare weights with.

    Raises
    ------
    ConfigError
        If there is no such model, or ``source`` is another one.
    CheckpointError
        If a file is damaged.
    """
    folder = resolve(model)
    transformer = load(model).transformer
    ledger = stored_ledger(transformer, folder)
    stored = read_config(folder).quantization if is_compressed(folder) else None
    against, errors = (None, {}) if stored is None else _errors(transformer, source, stored)
    size = weight_bytes(folder)
    figures = size_figures(ledger, size)
    return {
        "model": str(model),
        "true_bits_per_weight": ledger.true_bits_per_weight,
        "compressed_weights": ledger.compressed_weights,
        "bytes_on_disk": size,
        "tensor_bytes": ledger.stored_bytes,
        "fp32_bytes": ledger.fp32_bytes,
        "bf16_bytes": ledger.bf16_bytes,
        "ratio_fp32": figures["ratio_fp32"],
        "ratio_bf16": figures["ratio_bf16"],
        "weight_errors_against": against,
        "layers": _layers(transformer, ledger, errors),
        "kept": [
            {
                "name": t.name,
                "numel": t.numel,
                "bits": t.bits,
                "reason": t.reason,
                "in_blocks": t.in_blocks,
            }
            for t in ledger.kept
        ],
        "provenance": {} if stored is None else dict(stored.provenance),
    }


def _errors(
    transformer: nn.Module, source: str | None, stored: QuantizationConfig
) -> tuple[str | None, dict[str, float]]:
    """Return what weights were compared with, and the errors: measured, recorded, or none."""
    found = source or find_source(stored.provenance)
    if found is not None:
        return found, weight_errors(transformer, found)
    recorded = [float(word) for word in str(stored.provenance.get(ERRORS, "")).split()]
    if len(recorded) != len(stored.layers):
        return None, {}
    return RECORDED, dict(zip(sorted(stored.layers), recorded, strict=True))


def _layers(
    transformer: nn.Module, ledger: ModelLedger, errors: dict[str, float]
) -> list[dict[str, Any]]:
    return [
        _layer(layer, transformer.get_submodule(layer.name), errors.get(layer.name))
        for layer in ledger.layers
    ]


def _layer(layer: LayerLedger, module: nn.Module, error: float | None) -> dict[str, Any]:
    codec = module.codec if isinstance(module, PackedLinear) else None
    book = codec if isinstance(codec, CodebookCodec) else None
    return {
        "name": layer.name,
        "kind": layer.kind,
        "shape": list(layer.shape),
        "codec": layer.codec,
        "d": book.d if book else None,
        "k": book.k if book else None,
        "scope": book.scope if book else None,
        "across": book.across if book else None,
        "bits": {part: getattr(layer, part) for part in PARTS} | {"total": layer.total},
        "true_bits": layer.true_bits,
        "relative_error": error,
    }


def by_kind(layers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Merge layers of the same kind, shape and codec: bits summed, errors averaged."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for layer in layers:
        key = (layer["kind"], tuple(layer["shape"]), layer["codec"])
        groups.setdefault(key, []).append(layer)
    merged = []
    for (kind, shape, _), group in groups.items():
        bits = {part: sum(layer["bits"][part] for layer in group) for part in (*PARTS, "total")}
        errors = [layer["relative_error"] for layer in group if layer["relative_error"] is not None]
        weights = shape[0] * shape[1] * len(group)
        merged.append(
            group[0]
            | {
                "name": kind,
                "count": len(group),
                "bits": bits,
                "true_bits": bits["total"] / weights,
                "relative_error": sum(errors) / len(errors) if errors else None,
            }
        )
    return merged


def layer_table(rows: list[dict[str, Any]], *, single: bool) -> Table:
    """Lay out layers, or kinds of layers, with kilobytes by part."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("layer" if single else "kind", no_wrap=True)
    if not single:
        table.add_column("layers", justify="right")
    table.add_column("shape", justify="right")
    table.add_column("codec")
    for title in ("codes kB", "pool kB", "scale kB", "bias kB", "true bits", "error"):
        table.add_column(title, justify="right")
    for row in rows:
        bits, error = row["bits"], row["relative_error"]
        sizes = (bits["codes"], bits["pool"] + bits["table"], bits["scale"], bits["bias"])
        table.add_row(
            row["name"],
            *([] if single else [str(row["count"])]),
            "x".join(map(str, row["shape"])),
            row["codec"],
            *(f"{size / 8e3:.1f}" for size in sizes),
            f"{row['true_bits']:.3f}",
            "-" if error is None else f"{error:.4f}",
        )
    return table


def error_note(report: dict[str, Any]) -> str:
    """Say what the errors are measured against."""
    against = report["weight_errors_against"]
    if against is None:
        return "no weight errors: name the model it was made of with --source"
    joint = "" if against == RECORDED else "against "
    return f"error: relative squared error of the weights, {joint}{against}"


def notes(report: dict[str, Any]) -> list[str]:
    """Say what is easily misread: errors after calibration, and bits of shared codebooks."""
    said = []
    errors = [layer["relative_error"] for layer in report["layers"]]
    if any(error is not None for error in errors) and "calibration_steps" in report["provenance"]:
        said.append(
            "calibrated: weights were moved to do together what the source does; their errors no "
            "longer tell how good the images are"
        )
    if any(layer["across"] in ("kind", "model") for layer in report["layers"]):
        said.append("a codebook that layers share is counted in the first of them")
    return said
