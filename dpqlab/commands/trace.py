"""``dpqlab trace``: where a compressed model leaves its teacher, block by block, step by step."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from dpqlab.checkpoint.journal import Journal, open_journal
from dpqlab.commands.classes import parse_classes
from dpqlab.commands.drawing import add_device_argument
from dpqlab.commands.drawn import identity_of
from dpqlab.commands.loading import load
from dpqlab.commands.terminal import Terminal, add_json_argument
from dpqlab.commands.trace_journal import read_batch, write_batch
from dpqlab.diffusion.classes import class_names_of
from dpqlab.diffusion.models import resolve
from dpqlab.diffusion.sampling import SampleRequest
from dpqlab.diffusion.schedules import SCHEDULERS, scheduler_for
from dpqlab.errors import ConfigError
from dpqlab.kernels.devices import device_of
from dpqlab.report import clock
from dpqlab.tracing import (
    MEASURES,
    Pair,
    Trace,
    TraceBuilder,
    TraceConfig,
    TraceStep,
    dit_sampler,
    trace_steps,
)

EXAMPLES = """examples:
  dpqlab trace fashion-dit fashion-dit-best-1bit --out best.npz
  dpqlab trace fashion-dit out/pq --out pq.npz --classes bag,dress --count 10 --steps 50

Errors are relative squared errors of the blocks' outputs, 0 is exact. local: the student's block is
fed what the teacher's block was fed. pass: the student gets the teacher's noisy image, and its own
activations from block to block. accumulated: the student draws its own image from the same noise.

Ten images with 20 steps take about a minute on two CPU cores. The file holds sums, not activations.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = (
        "Draw the same images with both models and record, at every sampling step, how far the "
        "output of each block of the student is from the teacher's."
    )
    parser.epilog = EXAMPLES
    parser.add_argument("teacher", metavar="TEACHER", help="a bundled name, or a folder")
    parser.add_argument("student", metavar="STUDENT", help="a bundled name, or a folder")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="file to write, .npz"
    )
    parser.add_argument(
        "--classes", default="all", metavar="LIST", help="such as 0-9 or bag,dress (default: all)"
    )
    parser.add_argument("--count", type=int, default=1, metavar="N", help="images a class (1)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed (0)")
    parser.add_argument("--steps", type=int, default=20, metavar="N", help="sampling steps (20)")
    parser.add_argument(
        "--guidance", type=float, default=1.5, metavar="X", help="guidance scale, 1 is none (1.5)"
    )
    parser.add_argument(
        "--scheduler", "--sampler", choices=SCHEDULERS, default="ddim", help="sampler (ddim)"
    )
    parser.add_argument("--batch", type=int, default=20, metavar="N", help="images at a time (20)")
    parser.add_argument(
        "--pictures", type=int, default=20, metavar="N", help="steps whose images are kept (20)"
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on with a run that was stopped, if there is one"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="without --resume, drop what a stopped run left"
    )
    add_device_argument(parser)
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Trace, write the file, and show a summary."""
    terminal = Terminal(as_json=args.json)
    config = check(args)
    device = device_of(args.device)
    pair = pair_of(args, device)
    names = class_names_of(pair.teacher.config)
    every = tuple(range(len(names)))
    chosen = every if args.classes == "all" else parse_classes(args.classes, names)
    request = SampleRequest(
        labels=chosen * args.count, seed=args.seed, steps=args.steps, guidance=args.guidance
    )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    builder = TraceBuilder(pair=pair, request=request)
    images = len(request.labels)
    terminal.say(f"Drawing {images} images with {args.steps} steps on {device}; Ctrl-C stops.")
    identity = what_is_traced(args, request, config, device)
    with open_journal(args.out, identity, resume=args.resume, overwrite=args.overwrite) as journal:
        with terminal.progress("Tracing", images * args.steps) as meter:
            for step in traced(pair, request, config, journal):
                builder.add(step)
                meter.advance(step.count, f"timestep {step.timestep}")
        trace = builder.trace()
        trace.save(args.out)
        journal.remove()
    if args.json:
        terminal.emit(summary(trace) | {"out": str(args.out)})
        return 0
    terminal.say(table_of(trace))
    kilobytes = args.out.stat().st_size / 1e3
    terminal.say(f"{args.out}: {kilobytes:.0f} kB, {clock(trace.about.seconds)}")
    return 0


def traced(
    pair: Pair, request: SampleRequest, config: TraceConfig, journal: Journal
) -> Iterator[TraceStep]:
    """Yield the steps of the batches that a journal has, then trace the others and keep them."""
    first = 0
    while steps := read_batch(journal, first):
        yield from steps
        first += steps[0].count
    if first == len(request.labels):
        return
    batch: list[TraceStep] = []
    for step in trace_steps(pair, request, config, first):
        yield step
        batch.append(step)
        if len(batch) == step.total:
            write_batch(journal, batch)
            batch = []


def what_is_traced(
    args: argparse.Namespace, request: SampleRequest, config: TraceConfig, device: torch.device
) -> dict[str, Any]:
    """Return what a trace depends on, as JSON values."""
    models = {"teacher": resolve(args.teacher), "student": resolve(args.student)}
    return identity_of(
        models,
        device,
        labels=list(request.labels),
        seed=request.seed,
        steps=request.steps,
        guidance=request.guidance,
        scheduler=args.scheduler,
        batch=config.batch,
        pictures=config.pictures,
    )


def check(args: argparse.Namespace) -> TraceConfig:
    """Refuse what can be seen to be wrong before a model is loaded."""
    if not 1 <= args.count <= 1000:
        raise ConfigError(f"--count is {args.count}: expected 1 to 1000")
    if args.out.is_dir():
        raise ConfigError(f"--out {args.out} is a folder: expected the name of an npz file")
    if args.out.suffix != ".npz":
        raise ConfigError(f"--out {args.out}: expected a name that ends in .npz")
    SampleRequest(labels=(0,), seed=args.seed, steps=args.steps, guidance=args.guidance)
    return TraceConfig(batch=args.batch, pictures=args.pictures)


def pair_of(args: argparse.Namespace, device: torch.device) -> Pair:
    """Load both models quietly."""
    teacher, student = (
        load(name, device=device).transformer for name in (args.teacher, args.student)
    )
    return Pair(
        teacher=teacher,
        student=student,
        teacher_name=Path(args.teacher).name,
        student_name=Path(args.student).name,
        sampler=dit_sampler(scheduler_for(teacher, args.scheduler)),
        sampler_name=args.scheduler,
    )


def summary(trace: Trace) -> dict[str, object]:
    """Return what the trace found as JSON values: errors by block and by step."""
    return {
        "teacher": trace.about.teacher,
        "student": trace.about.student,
        "true_bits": trace.about.true_bits,
        "images": len(trace.about.labels),
        "timesteps": list(trace.timesteps),
        "blocks": {
            measure: dict(zip(trace.blocks, trace.by_block(measure).tolist(), strict=True))
            for measure in MEASURES
        },
        "steps": {measure: trace.by_step(measure).tolist() for measure in MEASURES},
        "latent": trace.latent_error().tolist(),
        "image": trace.picture_error().tolist(),
        "seconds": trace.about.seconds,
    }


def table_of(trace: Trace) -> Table:
    """Lay out the errors of the blocks over all steps."""
    table = Table(
        title=f"{trace.name}, {trace.about.true_bits:.2f} true bits: relative squared error",
        title_justify="left",
        box=None,
        pad_edge=False,
    )
    table.add_column("block")
    for measure in MEASURES:
        table.add_column(measure, justify="right")
    columns = [trace.by_block(measure) for measure in MEASURES]
    for name, *values in zip(trace.blocks, *columns, strict=True):
        table.add_row(name, *(f"{value:.4f}" for value in values))
    means = (trace.by_step(measure)[-1] for measure in MEASURES)
    table.add_row("last step, mean", *(f"{value:.4f}" for value in means))
    return table
