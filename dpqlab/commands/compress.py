"""``dpqlab compress``: a full-precision model in, a compressed folder out."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from dpqlab import __version__
from dpqlab.checkpoint import is_compressed, save_compressed
from dpqlab.commands.card import model_card
from dpqlab.commands.loading import load
from dpqlab.commands.measure import origin_of
from dpqlab.commands.terminal import Terminal, add_json_argument, megabytes
from dpqlab.core import SCOPES, CodebookCodec, ModelLedger
from dpqlab.diffusion.models import resolve, weight_bytes
from dpqlab.errors import ConfigError
from dpqlab.evaluation.sizes import size_figures
from dpqlab.nn.plan import Plan, preset, presets
from dpqlab.nn.surgery import LayerRecord, Skipped, compress_steps, ledger_of_model
from dpqlab.nn.targets import skipped_layers
from dpqlab.report import clock

EXAMPLES = """examples:
  dpqlab compress fashion-dit out/pq --preset pq-1bit
  dpqlab compress fashion-dit out/mine --preset pq-2bit --d 4 --k 16 --scope group --group 8

A model compressed below 2 bits without calibration draws noise: that is expected. The bundled
fashion-dit-*-1bit models were calibrated (see recipes/).
"""


ERRORS = "relative_errors"
"""Provenance entry: the relative weight errors of the layers, in the order of their names."""
LONGEST_NOTE = 4000  # characters of a provenance entry


@dataclass(frozen=True, kw_only=True)
class Compressed:
    """A compressed folder, its size, the mean relative error of its weights, and the seconds."""

    path: Path
    ledger: ModelLedger
    bytes_on_disk: int
    relative_error: float
    seconds: float


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = (
        "Compress the Linears of a diffusion transformer's blocks and write a folder that "
        "`dpqlab sample`, `inspect` and `evaluate` read. Nothing is calibrated, no data is needed."
    )
    parser.epilog = EXAMPLES
    parser.add_argument("source", metavar="SOURCE", help="a bundled name, or a diffusers folder")
    parser.add_argument("out", metavar="OUT", type=Path, help="folder to write")
    parser.add_argument(
        "--preset",
        default="pq-1bit",
        metavar="NAME",
        help=f"one of {', '.join(presets())} (pq-1bit)",
    )
    codec = parser.add_argument_group("change the preset's codec")
    codec.add_argument("--d", type=int, metavar="N", help="weights in a sub-vector")
    codec.add_argument("--k", type=int, metavar="N", help="codewords in a codebook")
    codec.add_argument(
        "--scope",
        choices=SCOPES,
        help="who shares a codebook: a column position (PQ), a group of positions, the whole "
        "layer (VQ), or the same layer of all blocks",
    )
    codec.add_argument(
        "--group", type=int, metavar="N", help="positions that share a codebook, with --scope group"
    )
    codec.add_argument(
        "--row-scale", action=argparse.BooleanOptionalAction, help="one fp16 scale for every row"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of k-means (0)")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it is there")
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Compress, and say what came out."""
    terminal = Terminal(as_json=args.json)
    plan = overridden(preset(args.preset), args)
    if args.seed < 0:
        raise ConfigError(f"--seed is {args.seed}: expected 0 or more")
    if args.out.exists() and not args.overwrite:
        raise ConfigError(f"{args.out} exists: choose another folder, or pass --overwrite")
    source = resolve(args.source)
    if is_compressed(source):
        raise ConfigError(f"{args.source} is compressed already: expected a full-precision model")
    pipeline = load(args.source)
    kept = kept_by_reason(skipped_layers(pipeline.transformer, plan))
    steps = compress_steps(pipeline.transformer, plan, seed=args.seed)
    records: list[LayerRecord] = []
    with terminal.progress(f"Compressing with {plan.name}", 1) as meter:
        for record in steps:
            records.append(record)
            meter.advance(1 / record.total, record.name)
    origin = origin_of(args.source, source)
    done = write(
        pipeline, args.out, records, plan, origin | {"seed": args.seed}, overwrite=args.overwrite
    )
    summary = summary_of(done)
    if args.json:
        terminal.emit(summary | {"kept": kept, "preset": plan.name, "seed": args.seed})
        return 0
    terminal.say(
        f"{done.path}: {summary['true_bits_per_weight']:.3f} true bits per weight, "
        f"{megabytes(done.bytes_on_disk)} on disk"
    )
    terminal.say(
        f"{summary['ratio_fp32']:.1f}x smaller than fp32 ({megabytes(done.ledger.fp32_bytes)}), "
        f"relative weight error {done.relative_error:.3f}, {clock(done.seconds)}"
    )
    for group in kept:
        terminal.say(
            f"kept {group['count']} Linear{'s' * (group['count'] > 1)} "
            f"({group['weights']:,} weights): {group['reason']}"
        )
    terminal.say(f"next: dpqlab sample {args.source} {done.path}")
    return 0


def kept_by_reason(skipped: Sequence[Skipped]) -> list[dict[str, Any]]:
    """Group the Linears that were kept by the reason why, as JSON values."""
    groups: dict[str, list[Skipped]] = {}
    for layer in skipped:
        groups.setdefault(layer.reason, []).append(layer)
    return [
        {
            "reason": reason,
            "count": len(layers),
            "weights": sum(layer.shape[0] * layer.shape[1] for layer in layers),
            "names": [layer.name for layer in layers],
        }
        for reason, layers in groups.items()
    ]


def overridden(plan: Plan, args: argparse.Namespace) -> Plan:
    """Apply ``--d --k --scope --group --row-scale`` to every codebook codec of a plan."""
    names = ("d", "k", "scope", "group", "row_scale")
    changes: dict[str, Any] = {n: getattr(args, n) for n in names if getattr(args, n) is not None}
    if not changes:
        return plan
    codecs = [rule.codec for rule in plan.rules if rule.codec is not None]
    if not all(isinstance(codec, CodebookCodec) for codec in codecs):
        raise ConfigError(
            f"preset {plan.name} has no codebooks, so --{next(iter(changes)).replace('_', '-')} "
            "means nothing to it: start from a vq or pq preset"
        )
    if changes.get("scope", "group") != "group":
        changes.setdefault("group", 1)
    rules = tuple(
        replace(rule, codec=replace(rule.codec, **changes)) if rule.codec else rule
        for rule in plan.rules
    )
    return replace(plan, rules=rules, name=f"{plan.name}, changed")


def write(
    pipeline: Any,
    out: Path,
    records: list[LayerRecord],
    plan: Plan,
    origin: dict[str, Any],
    *,
    overwrite: bool = False,
) -> Compressed:
    """Save a model that was just compressed, with where it came from and what it lost."""
    ledger = ledger_of_model(pipeline.transformer)
    weights = sum(record.ledger.weights for record in records)
    error = sum(record.relative_error * record.ledger.weights for record in records) / weights
    provenance = origin | {
        "tool": f"dpqlab {__version__}",
        "torch": str(torch.__version__),
        "preset": plan.name,
        "calibrated": 0,
        "true_bits_per_weight": ledger.true_bits_per_weight,
        ERRORS: " ".join(f"{r.relative_error:.4g}" for r in sorted(records, key=lambda r: r.name)),
    }
    if len(provenance[ERRORS]) > LONGEST_NOTE:
        del provenance[ERRORS]
    out.parent.mkdir(parents=True, exist_ok=True)
    save_compressed(
        pipeline.transformer,
        out,
        scheduler_config=json.loads(pipeline.scheduler.to_json_string()),
        provenance=provenance,
        card=model_card(out.name, ledger, origin["source"], plan.name),
        overwrite=overwrite,
    )
    return Compressed(
        path=out,
        ledger=ledger,
        bytes_on_disk=weight_bytes(out),
        relative_error=error,
        seconds=sum(record.seconds for record in records),
    )


def summary_of(done: Compressed) -> dict[str, Any]:
    """Return the sizes as JSON values."""
    figures = size_figures(done.ledger, done.bytes_on_disk)
    return {
        "path": str(done.path),
        "true_bits_per_weight": done.ledger.true_bits_per_weight,
        "compressed_weights": done.ledger.compressed_weights,
        "bytes_on_disk": done.bytes_on_disk,
        "ratio_fp32": figures["ratio_fp32"],
        "ratio_bf16": figures["ratio_bf16"],
        "relative_error": done.relative_error,
        "seconds": round(done.seconds, 2),
    }
