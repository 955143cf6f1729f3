"""``dpqlab prune``: what fewer codewords save and cost, budget by budget."""

from __future__ import annotations

import argparse
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import Tensor, nn

from dpqlab.checkpoint import is_compressed
from dpqlab.checkpoint.dense import DenseFolder, open_dense
from dpqlab.commands.compress import compress_model, summary_of, write
from dpqlab.commands.compressing import CompressJob, source_folder, streamed
from dpqlab.commands.inputs import inputs_of, journaled_inputs
from dpqlab.commands.loading import load
from dpqlab.commands.measure import origin_of
from dpqlab.commands.overrides import (
    POOL,
    add_codec_arguments,
    add_pool_arguments,
    add_preset_argument,
    overridden,
    require_codebooks,
    share,
)
from dpqlab.commands.paths import Budget, PoolPath, at_budget, pool_paths, prune_to_
from dpqlab.commands.terminal import Terminal, add_json_argument, add_resume_arguments, megabytes
from dpqlab.core import LazyWeight, PoolConfig, relative_error
from dpqlab.core.lazy import dense
from dpqlab.diffusion.models import resolve
from dpqlab.errors import ConfigError
from dpqlab.nn.plan import Plan
from dpqlab.nn.presets import preset
from dpqlab.nn.surgery import LayerRecord, ledger_of_model
from dpqlab.nn.targets import Target, targets_of
from dpqlab.report import clock

BUDGETS = (1.0, 1 / 2, 1 / 4, 1 / 8, 1 / 16)
WHOLE = float("inf")
"""The budget of everything that k-means made."""
FITS = 1 + 1e-6  # a share as it is printed still is a budget

EXAMPLES = """examples:
  dpqlab prune fashion-dit --dry-run
  dpqlab prune fashion-dit out/dpq --budget 1/4
  dpqlab prune fashion-dit --dry-run --preset dpq-2bit --pool auto --measure removal --json

A budget is the share of the bits of the codes that codewords and tables may take, in every pool.
What is written is the point of the path that is shown; `dpqlab compress --budget` stops exactly at
a budget, and may keep a few codewords more.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = (
        "Compress with a preset's codec, then remove codewords step by step, each time choosing "
        "codes again and refitting what is left, and show what the model would store and lose at "
        "each budget. Errors count columns by what flows into them on a few images that the model "
        "draws; no data is needed."
    )
    parser.epilog = EXAMPLES
    parser.add_argument("source", metavar="SOURCE", help="a bundled name, or a diffusers folder")
    parser.add_argument("out", metavar="OUT", type=Path, nargs="?", help="folder to write")
    add_preset_argument(parser, "dpq-1bit")
    add_codec_arguments(parser)
    add_pool_arguments(parser, budget=False)
    parser.add_argument(
        "--budgets",
        type=share,
        nargs="+",
        default=list(BUDGETS),
        metavar="X",
        help="rows of the table (1 1/2 1/4 1/8 1/16)",
    )
    parser.add_argument("--budget", type=share, metavar="X", help="the one to write to OUT")
    parser.add_argument(
        "--output-error", action="store_true", help="also measure the layers' output error (--json)"
    )
    parser.add_argument("--dry-run", action="store_true", help="only show; write nothing")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of k-means (0)")
    add_resume_arguments(parser)
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Walk all paths, show them, and write the chosen budget."""
    terminal = Terminal(as_json=args.json)
    check(args)
    started = time.perf_counter()
    plan, config = unpooled(preset(args.preset), args)
    with walk(args, plan, config, terminal) as walked:
        ledger = ledger_of_model(walked.pipeline.transformer)
        budgets = [WHOLE, *sorted(set(args.budgets), reverse=True)]
        rows = [at_budget(walked.paths, ledger, budget * FITS) for budget in budgets]
        if not args.json:
            terminal.say(budget_table(budgets, rows))
            terminal.say(
                f"{plan.name}: {len(walked.paths)} pools, {config.form}, by {config.measure}, "
                f"{clock(time.perf_counter() - started)}"
            )
        summary = None if args.dry_run else write_budget(args, walked, plan, config)
    if args.json:
        terminal.emit(
            {
                "preset": plan.name,
                "pool": {n: v for n, v in config.to_dict().items() if n != "budget"},
                "seed": args.seed,
                "budgets": [row.to_dict() for row in rows if row is not None],
                "written": summary,
                "pools": [path.to_dict() for path in walked.paths],
            }
        )
    elif summary is not None:
        terminal.say(
            f"{args.out}: {summary['true_bits_per_weight']:.3f} true bits per weight, "
            f"{megabytes(summary['bytes_on_disk'])} on disk, relative weight error "
            f"{summary['relative_error']:.3f}"
        )
    return 0


def check(args: argparse.Namespace) -> None:
    """Refuse what can be seen to be wrong before a model is loaded."""
    if args.seed < 0:
        raise ConfigError(f"--seed is {args.seed}: expected 0 or more")
    if not args.dry_run:
        if args.out is None:
            raise ConfigError("no OUT: name the folder to write, or pass --dry-run to only look")
        if args.budget is None:
            raise ConfigError("no --budget: say which one to write, such as --budget 1/4")
        if args.out.exists() and not args.overwrite:
            raise ConfigError(f"{args.out} exists: choose another folder, or pass --overwrite")
    if is_compressed(resolve(args.source)):
        raise ConfigError(f"{args.source} is compressed already: expected a full-precision model")


def unpooled(plan: Plan, args: argparse.Namespace) -> tuple[Plan, PoolConfig]:
    """Return the plan without pools, and how to prune: as the preset does, but for the options."""
    require_codebooks(plan, "there is nothing to prune")
    codec = argparse.Namespace(**vars(args) | dict.fromkeys(POOL))
    named = overridden(plan, codec)
    own = next((rule.pool for rule in plan.rules if rule.pool is not None), PoolConfig())
    given = {"measure": args.measure, "merge": args.merge, "form": args.pool}
    config = replace(own, **{name: value for name, value in given.items() if value is not None})
    rules = tuple(replace(rule, pool=None) for rule in named.rules)
    return replace(named, rules=rules), config


@dataclass(frozen=True, kw_only=True)
class Walked:
    """A model with the codebooks of k-means, what it was made of, and the paths of its pools.

    The model may be mapped from a journal: it is good as long as that is there.
    """

    pipeline: Any
    weights: Mapping[str, Tensor | LazyWeight]
    records: list[LayerRecord]
    paths: list[PoolPath]


@contextmanager
def walk(
    args: argparse.Namespace, plan: Plan, config: PoolConfig, terminal: Terminal
) -> Generator[Walked]:
    """Compress the model without pruning, and walk the paths of its pools.

    What is to be written has a journal until the block ends well; a dry run has none.
    """
    if args.dry_run:
        yield _walked_in_memory(args, plan, config, terminal)
        return
    with streamed(job_of(args, plan, config), terminal) as stream:
        model, journal = stream.pipeline.transformer, stream.journal
        folder = open_dense(source_folder(args.source))
        weights = {t.name: _lazy(t, folder) for t in targets_of(folder.skeleton(), plan)}
        inputs = journaled_inputs(
            folder, list(weights), journal, terminal, seed=args.seed, grams=args.output_error
        )
        with terminal.progress("Pruning", 1) as meter:
            paths = pool_paths(
                model, weights, inputs, config, meter, seed=args.seed, journal=journal
            )
        yield Walked(pipeline=stream.pipeline, weights=weights, records=stream.records, paths=paths)


def _walked_in_memory(
    args: argparse.Namespace, plan: Plan, config: PoolConfig, terminal: Terminal
) -> Walked:
    pipeline = load(args.source)
    model: Any = pipeline.transformer
    weights = {target.name: target.linear.weight for target in targets_of(model, plan)}
    inputs = inputs_of(model, weights, terminal, seed=args.seed, grams=args.output_error)
    records = compress_model(pipeline, plan, terminal, seed=args.seed)
    with terminal.progress("Pruning", 1) as meter:
        paths = pool_paths(model, weights, inputs, config, meter, seed=args.seed)
    return Walked(pipeline=pipeline, weights=weights, records=records, paths=paths)


def _lazy(target: Target, folder: DenseFolder) -> LazyWeight:
    shape = (target.linear.out_features, target.linear.in_features)
    return LazyWeight(shape=shape, read=partial(folder.read, f"{target.name}.weight"))


def job_of(args: argparse.Namespace, plan: Plan, config: PoolConfig) -> CompressJob:
    """Return the compression that is pruned; any budget may be read of its paths."""
    folder = source_folder(args.source)
    pool = {name: value for name, value in config.to_dict().items() if name != "budget"}
    return CompressJob(
        source=args.source,
        folder=folder,
        out=args.out,
        plan=plan,
        origin=origin_of(args.source, folder),
        seed=args.seed,
        device=torch.device("cpu"),
        resume=args.resume,
        overwrite=args.overwrite,
        also={"pruned": pool, "output_error": args.output_error},
    )


def write_budget(
    args: argparse.Namespace, walked: Walked, plan: Plan, config: PoolConfig
) -> dict[str, Any]:
    """Prune the model to the chosen budget, save it, and return its summary.

    Raises
    ------
    ConfigError
        If the budget cannot be met; nothing is written.
    """
    worst = max(walked.paths, key=lambda path: path.smallest)
    if worst.smallest > args.budget * FITS:
        raise ConfigError(
            f"--budget {args.budget:g} cannot be met: the pool of {worst.names[0]} takes at least "
            f"{worst.smallest:.3g} of the bits of its codes; raise the budget, or let more "
            "positions or layers share codebooks (--scope, --across, --pool indexed)"
        )
    model = walked.pipeline.transformer
    prune_to_(model, walked.paths, args.budget * FITS)
    records = pruned_records(walked, model)
    note = {"seed": args.seed, "budget": args.budget, "measure": config.measure}
    origin = origin_of(args.source, resolve(args.source)) | note
    done = write(walked.pipeline, args.out, records, plan, origin, overwrite=args.overwrite)
    return summary_of(done)


def pruned_records(walked: Walked, model: nn.Module) -> list[LayerRecord]:
    """Return the records of the layers with the figures that pruning has changed."""
    layers = {layer.name: layer for layer in ledger_of_model(model).layers}
    records = []
    for record in walked.records:
        module: Any = model.get_submodule(record.name)
        error = relative_error(dense(walked.weights[record.name]), module.decode())
        ledger, kept = layers[record.name], len(module.pool)
        records.append(replace(record, relative_error=error, codewords_kept=kept, ledger=ledger))
    return records


def budget_table(budgets: Sequence[float], rows: Sequence[Budget | None]) -> Table:
    """Lay out the model at each budget, with what cannot be met."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("budget", no_wrap=True)
    for title in ("used", "codewords", "true bits", "weight error", "weighted error"):
        table.add_column(title, justify="right")
    for budget, row in zip(budgets, rows, strict=True):
        title = "none" if budget == WHOLE else fraction(budget)
        if row is None:
            table.add_row(title, "-", "-", "-", "-", "a pool cannot fit")
            continue
        table.add_row(
            title,
            f"{row.share:.3f}",
            f"{row.codewords:,}",
            f"{row.true_bits:.3f}",
            f"{row.weight_error:.4f}",
            f"{row.weighted_error:.4f}",
        )
    return table


def fraction(share: float) -> str:
    """Write a share as people say it.

    Examples
    --------
    >>> fraction(0.125), fraction(0.3)
    ('1/8', '0.3')
    """
    part = 1 / share
    return f"1/{part:.0f}" if part > 1 and part == round(part) else f"{share:g}"
