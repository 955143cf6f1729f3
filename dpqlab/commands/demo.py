"""``dpqlab demo``: compress the bundled model now, and write a page to look at."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.table import Table

from dpqlab.commands.expected import SOURCE
from dpqlab.commands.terminal import Terminal, add_json_argument, megabytes
from dpqlab.demo import DemoConfig, run_demo
from dpqlab.evaluation.datasets import MODELS
from dpqlab.report import Report, best_of, clock, headline


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = (
        "Compress the bundled diffusion transformer now, by rounding, vector quantization and "
        "product quantization near 2 and near 1 bit; sample the same seeds from full precision, "
        "from each of these, and from the bundled calibrated models; write OUT/report.html (one "
        "file, opens anywhere), OUT/summary.json and OUT/models. About two minutes on two CPU "
        "cores; no network, no GPU."
    )
    parser.add_argument(
        "--model",
        default=SOURCE,
        choices=MODELS,
        help=f"the bundled full-precision model ({SOURCE})",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("out/demo"), metavar="FOLDER", help="(out/demo)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of noise and k-means (0)")
    parser.add_argument("--steps", type=int, default=20, metavar="N", help="sampling steps (20)")
    parser.add_argument(
        "--guidance", type=float, default=1.5, metavar="X", help="guidance scale (1.5)"
    )
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Run the demo, and say where to look."""
    terminal = Terminal(as_json=args.json)
    settings = {"seed": args.seed, "steps": args.steps, "guidance": args.guidance}
    config = DemoConfig.of(args.model, args.out, **settings)
    if not args.json:
        terminal.say(
            f"Compressing a trained diffusion transformer in {len(config.presets)} ways, then "
            f"sampling {1 + len(config.presets) + len(config.calibrated)} models from the same "
            "seeds. "
            + ("This takes about two minutes on two CPU cores." if args.model == SOURCE else "")
        )
    report = run_demo(config, terminal)
    if args.json:
        terminal.emit(report.to_dict())
        return 0
    terminal.say("", results_table(report), "")
    terminal.say(headline(report))
    terminal.say(
        f"{clock(report.facts.seconds)}. Look at {config.out / 'report.html'} in a browser."
    )
    name = (best_of(report, "calibrated", 1) or report.rows[-1]).name
    terminal.say(
        f"Then: dpqlab sample {name} --seed 1, dpqlab inspect {name}, dpqlab compress --help"
    )
    return 0


def results_table(report: Report) -> Table:
    """Lay out sizes and fidelity, a section for each group of models."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("model")
    table.add_column("codec")
    for title in ("true bits", "on disk", "vs fp32", "PSNR dB", "cosine", "same class"):
        table.add_column(title, justify="right")
    count, group = len(report.classes), report.rows[0].group
    for row in report.rows:
        if row.group != group:
            table.add_row()
        group = row.group
        table.add_row(
            row.full_title,
            row.codec,
            f"{row.bits:.3f}",
            megabytes(row.bytes_on_disk),
            f"{row.ratio_fp32:.1f}x",
            "-" if row.psnr is None else f"{row.psnr:.1f}",
            "-" if row.feature_cosine is None else f"{row.feature_cosine:.3f}",
            "-" if row.agreement is None else f"{round(row.agreement * count)}/{count}",
        )
    return table
