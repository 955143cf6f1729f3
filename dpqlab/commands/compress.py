"""``dpqlab compress``: a full-precision model in, a compressed folder out."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from dpqlab import __version__
from dpqlab.checkpoint import save_compressed
from dpqlab.commands.card import model_card
from dpqlab.commands.compressing import CompressJob, source_folder, streamed
from dpqlab.commands.compressing_together import compress_together
from dpqlab.commands.inputs import inputs_of
from dpqlab.commands.licences import licence_of, licence_text
from dpqlab.commands.measure import origin_of
from dpqlab.commands.overrides import (
    add_codec_arguments,
    add_pool_arguments,
    add_preset_argument,
    measures_inputs,
    overridden,
)
from dpqlab.commands.terminal import Terminal, add_json_argument, add_resume_arguments, megabytes
from dpqlab.core import ModelLedger
from dpqlab.diffusion.models import weight_bytes
from dpqlab.distributed import team_of
from dpqlab.errors import ConfigError
from dpqlab.evaluation.sizes import size_figures
from dpqlab.nn.plan import Plan
from dpqlab.nn.presets import preset
from dpqlab.nn.surgery import LayerRecord, Skipped, compress_steps, ledger_of_model
from dpqlab.nn.targets import targets_of
from dpqlab.report import clock

EXAMPLES = """examples:
  dpqlab compress fashion-dit out/pq --preset pq-1bit
  dpqlab compress fashion-dit out/mine --preset pq-2bit --d 4 --k 16 --scope group --group 8
  dpqlab compress fashion-dit out/dpq --preset dpq-1bit --budget 1/8 --measure removal
  dpqlab compress path/to/DiT-XL-2-256 out/xl --preset best-1bit --licence cc-by-nc-4.0

Weights are read layer by layer, so the model need not fit into memory. What is done is kept in
OUT.partial until OUT is complete: a run that was stopped goes on with --resume, to the same bytes.
Under torchrun or accelerate launch, layers are split over the processes, to the same bytes too.
The model card names the licence of the source, from --licence or from its own card; where neither
tells, it says that the licence is not known.

A model compressed below 2 bits without calibration draws noise: that is expected. The presets
best-* above all are only what they should be after `dpqlab calibrate`: their codecs are chosen for
what calibration can make of them. `dpqlab prune` shows what other budgets would cost.
"""


ERRORS = "relative_errors"
"""Provenance entry: the relative weight errors of the layers, in the order of their names."""
LONGEST_NOTE = 4000  # characters of a provenance entry


@dataclass(frozen=True, kw_only=True)
class Compressed:
    """A compressed folder: its size, what was lost, and the seconds.

    Errors are means over the weights; ``weighted_error`` is None where nobody measured what flows
    into the layers. Codewords are those that k-means made, and those of them (refitted) that the
    pools hold.
    """

    path: Path
    ledger: ModelLedger
    bytes_on_disk: int
    relative_error: float
    weighted_error: float | None
    codewords_made: int
    codewords_kept: int
    seconds: float


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = (
        "Compress the Linears of a diffusion transformer's blocks and write a folder that "
        "`dpqlab sample`, `inspect` and `evaluate` read. Nothing is calibrated, no data is needed."
    )
    parser.epilog = EXAMPLES
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="a bundled name, or a diffusers folder: of a pipeline, or of a DiT transformer alone "
        "(which gets the DDIM schedule of 1,000 linear steps)",
    )
    parser.add_argument("out", metavar="OUT", type=Path, help="folder to write")
    add_preset_argument(parser, "pq-1bit")
    add_codec_arguments(parser)
    add_pool_arguments(parser, budget=True)
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of k-means (0)")
    parser.add_argument(
        "--device",
        default="cpu",
        metavar="NAME",
        help="where layers are compressed, one at a time: cpu, cuda, cuda:1, or auto (cpu: its "
        "results are the same everywhere)",
    )
    parser.add_argument(
        "--licence",
        "--license",
        metavar="TEXT",
        type=licence_text,
        help="licence of the source, for the model card (the one that its own card names)",
    )
    add_resume_arguments(parser)
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Compress, and say what came out."""
    terminal = Terminal(as_json=args.json)
    plan = overridden(preset(args.preset), args)
    if args.seed < 0:
        raise ConfigError(f"--seed is {args.seed}: expected 0 or more")
    if args.out.exists() and not args.overwrite:
        raise ConfigError(f"{args.out} exists: choose another folder, or pass --overwrite")
    source = source_folder(args.source)
    licence = args.licence or licence_of(source)
    with team_of(args.device) as team:
        job = CompressJob(
            source=args.source,
            folder=source,
            out=args.out,
            plan=plan,
            origin=origin_of(args.source, source),
            seed=args.seed,
            device=team.device,
            resume=args.resume,
            overwrite=args.overwrite,
        )
        before = compress_together(job, terminal, team) if team.world > 1 else None
    if not team.leads:
        return 0
    if before is not None:
        job = replace(job, resume=True)  # all layers are there
    with streamed(job, terminal) as stream:
        origin = job.origin | {"seed": args.seed} | ({"licence": licence} if licence else {})
        done = write(
            stream.pipeline, args.out, stream.records, plan, origin, overwrite=args.overwrite
        )
    kept = kept_by_reason(stream.skipped)
    resumed = stream.resumed if before is None else before
    summary = summary_of(done)
    if args.json:
        about = {"preset": plan.name, "seed": args.seed, "licence": licence}
        terminal.emit(summary | about | {"kept": kept, "resumed_layers": resumed})
        return 0
    terminal.say(
        f"{done.path}: {summary['true_bits_per_weight']:.3f} true bits per weight, "
        f"{megabytes(done.bytes_on_disk)} on disk"
    )
    terminal.say(
        f"{summary['ratio_fp32']:.1f}x smaller than fp32 ({megabytes(done.ledger.fp32_bytes)}), "
        f"relative weight error {done.relative_error:.3f}, {clock(done.seconds)}"
    )
    if done.codewords_kept:
        terminal.say(codewords_line(done))
    for group in kept:
        terminal.say(
            f"kept {group['count']} Linear{'s' * (group['count'] > 1)} "
            f"({group['weights']:,} weights): {group['reason']}"
        )
    if licence is None:
        terminal.say(
            f"{args.source} names no licence, and so neither does the model card: find it out, "
            "and give it as --licence, before you pass the folder on"
        )
    terminal.say(f"next: dpqlab sample {args.source} {done.path}")
    return 0


def compress_model(
    pipeline: Any, plan: Plan, terminal: Terminal, *, seed: int = 0
) -> list[LayerRecord]:
    """Compress a model in place, showing how far it is."""
    moments = None
    if measures_inputs(plan):
        names = [target.name for target in targets_of(pipeline.transformer, plan)]
        moments = inputs_of(pipeline.transformer, names, terminal, seed=seed)
    steps = compress_steps(pipeline.transformer, plan, seed=seed, moments=moments)
    records: list[LayerRecord] = []
    with terminal.progress(f"Compressing with {plan.name}", 1) as meter:
        for record in steps:
            records.append(record)
            meter.advance(1 / record.total, record.name)
    return records


def codewords_line(done: Compressed) -> str:
    """Say how many codewords there are, and how many there were."""
    if done.codewords_made == done.codewords_kept:
        return f"{done.codewords_kept:,} codewords, all that k-means made"
    return f"{done.codewords_kept:,} codewords kept of {done.codewords_made:,} that k-means made"


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
    errors = {record.name: record.relative_error for record in records}
    owners = [record for record in records if record.ledger.pool]
    provenance = origin | {
        "tool": f"dpqlab {__version__}",
        "torch": str(torch.__version__),
        "preset": plan.name,
        "calibrated": 0,
        "true_bits_per_weight": ledger.true_bits_per_weight,
    }
    provenance |= error_note(errors)
    out.parent.mkdir(parents=True, exist_ok=True)
    save_compressed(
        pipeline.transformer,
        out,
        scheduler_config=json.loads(pipeline.scheduler.to_json_string()),
        provenance=provenance,
        card=model_card(
            out.name, ledger, origin["source"], plan.name, licence=origin.get("licence")
        ),
        overwrite=overwrite,
    )
    return Compressed(
        path=out,
        ledger=ledger,
        bytes_on_disk=weight_bytes(out),
        relative_error=_mean(records, [record.relative_error for record in records]),
        weighted_error=_mean(records, [record.weighted_error for record in records]),
        codewords_made=sum(record.codewords_made for record in owners),
        codewords_kept=sum(record.codewords_kept for record in owners),
        seconds=sum(record.seconds for record in records),
    )


def error_note(errors: Mapping[str, float]) -> dict[str, str]:
    """Return the provenance entry of weight errors by layer name, unless it would be too long."""
    note = " ".join(f"{errors[name]:.4g}" for name in sorted(errors))
    return {ERRORS: note} if len(note) <= LONGEST_NOTE else {}


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
        "weighted_error": done.weighted_error,
        "codewords_made": done.codewords_made,
        "codewords_kept": done.codewords_kept,
        "seconds": round(done.seconds, 2),
    }


def _mean(records: Sequence[LayerRecord], errors: Sequence[Any]) -> Any:
    """Return the mean of errors over the weights; None if any is missing."""
    if None in errors:
        return None
    sizes = [record.ledger.weights for record in records]
    return sum(e * n for e, n in zip(errors, sizes, strict=True)) / sum(sizes)
