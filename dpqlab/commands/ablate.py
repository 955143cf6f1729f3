"""``dpqlab ablate``: run rows of the ablation, which say what each part of the method earns."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace

import torch
from rich.table import Table

from dpqlab.calibration.ablation import AblationRow, ablation_row, ablation_rows
from dpqlab.checkpoint import is_compressed
from dpqlab.commands.ablation_bench import Bench, RowResult
from dpqlab.commands.calibration_data import add_data_arguments, check_data
from dpqlab.commands.drawing import add_device_argument
from dpqlab.commands.terminal import Terminal, add_json_argument
from dpqlab.diffusion.models import resolve
from dpqlab.diffusion.sampling import SampleRequest
from dpqlab.errors import ConfigError
from dpqlab.evaluation.bundled import DEFAULT_MODEL
from dpqlab.evaluation.config import QUICK_IMAGES, QUICK_STEPS, EvaluationConfig
from dpqlab.kernels.devices import device_of
from dpqlab.report import clock

STEPS = 2500
IMAGE_SECONDS = 0.011  # of two CPU cores, for one image through the bundled model once
PASSES = 4  # that a step of calibration is worth: the teacher's, the student's, and back

EXAMPLES = """examples:
  dpqlab ablate
  dpqlab ablate "dpq latent" best-1bit
  dpqlab ablate "dpq pruned" "dpq k-means" --images 10000 --sampling-steps 50

Rows are comparable at equal --steps, --batch, data, --images and --sampling-steps only. A row of
2,500 steps takes a minute or two on a GPU, and hours on two CPU cores; what it will take is said
first. The images that are judged are always those of seed 0.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = (
        "Without names: list the rows, what each changes, and which row it is to be compared with. "
        "With names: compress, calibrate and evaluate each of them now, and show the table."
    )
    parser.epilog = EXAMPLES
    parser.add_argument("rows", nargs="*", metavar="ROW", help="names of rows (quote the spaces)")
    parser.add_argument(
        "--source",
        default=DEFAULT_MODEL,
        metavar="MODEL",
        help=f"full-precision model ({DEFAULT_MODEL})",
    )
    add_data_arguments(parser)
    parser.add_argument(
        "--steps", type=int, default=STEPS, metavar="N", help=f"of calibration ({STEPS})"
    )
    parser.add_argument("--batch", type=int, metavar="N", help="images a step (256)")
    parser.add_argument(
        "--images", type=int, default=QUICK_IMAGES, metavar="N", help=f"to judge ({QUICK_IMAGES})"
    )
    parser.add_argument(
        "--sampling-steps",
        type=int,
        default=QUICK_STEPS,
        metavar="N",
        help=f"of each image ({QUICK_STEPS})",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of k-means and calibration (0)"
    )
    add_device_argument(parser)
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """List rows, or run some."""
    terminal = Terminal(as_json=args.json)
    if not args.rows:
        return show_rows(terminal)
    rows, config = checked(args)
    device = device_of(args.device)
    bench = Bench(args, rows, config, device, terminal)
    results: list[RowResult] = []
    terminal.say(cost_note(bench.rows, config, device))
    try:
        for row in bench.rows:
            results.append(bench.run(row))
    finally:
        # rows that are done are shown whatever stops the next one
        if results:
            show_results(results, bench, terminal)
    return 0


def checked(args: argparse.Namespace) -> tuple[list[AblationRow], EvaluationConfig]:
    """Refuse what can be seen to be wrong before a model is loaded."""
    if args.steps < 1:
        raise ConfigError(f"--steps is {args.steps}: expected at least 1")
    check_data(args)
    rows = [ablation_row(name, args.steps) for name in dict.fromkeys(args.rows)]
    if args.seed < 0:
        raise ConfigError(f"--seed is {args.seed}: expected 0 or more")
    config = EvaluationConfig(images=args.images, steps=args.sampling_steps)
    SampleRequest(labels=(0,), seed=config.seed, steps=config.steps, guidance=config.guidance)
    if is_compressed(resolve(args.source)):
        raise ConfigError(f"--source {args.source} is compressed: expected a full-precision model")
    if args.batch is not None:
        rows = [
            row
            if row.config is None
            else replace(row, config=replace(row.config, batch=args.batch))
            for row in rows
        ]
    return rows, config


def cost_note(rows: Sequence[AblationRow], config: EvaluationConfig, device: torch.device) -> str:
    """Say what the rows will take, where that is long."""
    steps = sum(row.config.steps for row in rows if row.config is not None)
    what = (
        f"{len(rows)} row{'s' * (len(rows) > 1)}, {steps:,} steps of calibration, "
        f"{config.images:,} images each, on {device}"
    )
    if device.type != "cpu":
        return what
    trained = sum(row.config.steps * row.config.batch for row in rows if row.config is not None)
    drawn = 2 * len(rows) * config.images * config.steps  # with and without the label
    hours = (PASSES * trained + drawn) * IMAGE_SECONDS / 3600
    took = f"{hours:.1f} hours" if hours >= 1 else clock(3600 * hours)
    return f"{what}: about {took} on two cores for {DEFAULT_MODEL}; Ctrl-C keeps finished rows"


def show_rows(terminal: Terminal) -> int:
    """List all rows."""
    rows = ablation_rows().values()
    if terminal.as_json:
        terminal.emit(
            [
                {
                    "row": row.name,
                    "base": row.base,
                    "change": row.change,
                    "plan": row.plan.name,
                    "calibrated": row.config is not None,
                }
                for row in rows
            ]
        )
        return 0
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("row", "what it changes", "compared with", "calibrated"):
        table.add_column(title)
    for row in rows:
        table.add_row(row.name, row.change, row.base or "-", "no" if row.config is None else "yes")
    terminal.say(table)
    terminal.say('next: dpqlab ablate "ROW" ...')
    return 0


def show_results(results: Sequence[RowResult], bench: Bench, terminal: Terminal) -> None:
    """Show the rows that have run, with the settings that they share."""
    if terminal.as_json:
        terminal.emit(
            {
                "source": bench.source,
                "device": str(bench.device),
                "data": None if bench.data is None else bench.data.about,
                "teacher": bench.why_not or "recorded",
                "rows": [result.to_dict() for result in results],
            }
        )
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("row")
    for title in ("true bits", "loss", "FCD", "excess FCD", "same class", "time"):
        table.add_column(title, justify="right")
    table.add_column("change")
    table.add_column("compared with")
    for result in results:
        judged = result.evaluation
        fidelity = judged.fidelity
        table.add_row(
            result.row.name,
            f"{result.true_bits:.3f}",
            "-" if result.loss is None else f"{result.loss:.5f}",
            str(judged.fcd),
            "-" if fidelity is None else str(fidelity.excess_fcd),
            "-" if fidelity is None else f"{fidelity.agreement:.3f}",
            clock(result.seconds),
            result.row.change,
            result.row.base or "-",
        )
    terminal.say(table)
    terminal.say("loss: held-out distance from the teacher; FCD: to real images, lower is better")
    if bench.why_not:
        terminal.say(f"The teacher is {bench.why_not.partition('; --teacher')[0]}.")
