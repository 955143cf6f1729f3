"""``dpqlab sample``: images of one model, or of several side by side."""

from __future__ import annotations

import argparse
import io
import time
from pathlib import Path
from typing import Any

import torch

from dpqlab.checkpoint.whole import write_whole
from dpqlab.commands.classes import parse_classes
from dpqlab.commands.drawing import add_device_argument, batches, draw
from dpqlab.commands.loading import load
from dpqlab.commands.terminal import Terminal, add_json_argument
from dpqlab.diffusion.classes import class_names_of
from dpqlab.diffusion.sampling import SampleRequest
from dpqlab.diffusion.schedules import SCHEDULERS, scheduler_for
from dpqlab.errors import ConfigError
from dpqlab.kernels.devices import device_of
from dpqlab.report import clock
from dpqlab.viz.images import sheet

EXAMPLES = """examples:
  dpqlab sample fashion-dit
  dpqlab sample fashion-dit fashion-dit-vq-1bit fashion-dit-best-1bit --classes bag,dress,5-9
"""
LARGEST_SHEET = 10_000  # images


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = (
        "Draw images and lay them out on one sheet. Several models get the same seeds, a band of "
        "rows each, in the order given."
    )
    parser.epilog = EXAMPLES
    parser.add_argument("models", nargs="+", metavar="MODEL", help="a bundled name, or a folder")
    parser.add_argument(
        "--classes",
        "--labels",
        default="all",
        metavar="LIST",
        help="classes by number, range or name, such as 0-9 or bag,dress (default: all)",
    )
    parser.add_argument("--count", type=int, default=1, metavar="N", help="images a class (1)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed (0)")
    parser.add_argument("--steps", type=int, default=50, metavar="N", help="sampling steps (50)")
    parser.add_argument(
        "--guidance", type=float, default=1.5, metavar="X", help="guidance scale, 1 is none (1.5)"
    )
    parser.add_argument(
        "--scheduler", "--sampler", choices=SCHEDULERS, default="ddim", help="sampler (ddim)"
    )
    parser.add_argument("--zoom", type=int, default=4, metavar="N", help="pixels for a pixel (4)")
    parser.add_argument(
        "--out", type=Path, default=Path("sheet.png"), metavar="FILE", help="PNG file (sheet.png)"
    )
    add_device_argument(parser)
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Draw the sheet."""
    terminal = Terminal(as_json=args.json)
    check(args)
    device = device_of(args.device)
    pipelines = [load(model, device=device) for model in args.models]
    names = shared_classes(pipelines, args.models)
    chosen = (
        tuple(range(len(names))) if args.classes == "all" else parse_classes(args.classes, names)
    )
    labels = chosen * args.count
    if len(labels) * len(pipelines) > LARGEST_SHEET:
        raise ConfigError(
            f"{len(labels)} images of each model: at most {LARGEST_SHEET} fit a sheet"
        )
    request = SampleRequest(labels=labels, seed=args.seed, steps=args.steps, guidance=args.guidance)
    started = time.perf_counter()
    rows = []
    total = batches(len(labels)) * args.steps * len(pipelines)
    with terminal.progress("Sampling", total) as meter:
        for name, pipeline in zip(args.models, pipelines, strict=True):
            pipeline.scheduler = scheduler_for(pipeline.transformer, args.scheduler)
            rows.append(draw(pipeline, request, meter=meter, note=str(name)))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    picture = io.BytesIO()
    sheet(torch.cat(rows), len(chosen), zoom=args.zoom).save(picture, format="PNG")
    write_whole(args.out, picture.getvalue())
    seconds = time.perf_counter() - started
    if args.json:
        terminal.emit(
            {
                "out": str(args.out),
                "models": [str(model) for model in args.models],
                "classes": [names[label] for label in chosen],
                "count": args.count,
                "seed": args.seed,
                "steps": args.steps,
                "guidance": args.guidance,
                "scheduler": args.scheduler,
                "seconds": round(seconds, 2),
            }
        )
    else:
        terminal.say(
            f"{args.out}: {', '.join(names[label] for label in chosen)} from left to right"
        )
        if len(pipelines) > 1:
            terminal.say(f"from top to bottom: {', '.join(map(str, args.models))}")
        terminal.say(f"{len(labels) * len(pipelines)} images in {clock(seconds)}")
    return 0


def check(args: argparse.Namespace) -> None:
    """Refuse what can be seen to be wrong before a model is loaded."""
    for name, most in {"count": 1000, "zoom": 64}.items():
        if not 1 <= getattr(args, name) <= most:
            raise ConfigError(f"--{name} is {getattr(args, name)}: expected 1 to {most}")
    if args.out.is_dir():
        raise ConfigError(f"--out {args.out} is a folder: expected the name of a PNG file")
    if args.out.suffix.lower() != ".png":
        raise ConfigError(f"--out {args.out}: expected a name that ends in .png")
    SampleRequest(labels=(0,), seed=args.seed, steps=args.steps, guidance=args.guidance)


def shared_classes(pipelines: list[Any], models: list[str]) -> tuple[str, ...]:
    """Return the class names of models that are to share a sheet."""
    configs = [pipeline.transformer.config for pipeline in pipelines]
    looks = [(c.num_embeds_ada_norm, c.in_channels, c.sample_size) for c in configs]
    for model, look in zip(models, looks, strict=True):
        if look != looks[0]:
            raise ConfigError(
                f"{model} has (classes, channels, pixels) {look} and {models[0]} {looks[0]}: "
                "only models of the same images fit one sheet"
            )
    return class_names_of(configs[0])
