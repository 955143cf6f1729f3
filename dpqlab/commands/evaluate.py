"""``dpqlab evaluate``: how good a model's samples are, and how close to its teacher's.

Every model is sampled with DDIM, whatever scheduler its folder names: the recorded teacher was too.
"""

from __future__ import annotations

import argparse
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import Tensor

from dpqlab.checkpoint.journal import Journal, open_journal
from dpqlab.commands.drawing import BATCH, add_device_argument, draw
from dpqlab.commands.drawn import identity_of, kept
from dpqlab.commands.loading import load
from dpqlab.commands.terminal import Meter, Terminal, add_json_argument
from dpqlab.diffusion.models import resolve
from dpqlab.diffusion.sampling import SampleRequest
from dpqlab.diffusion.schedules import scheduler_for
from dpqlab.errors import ConfigError
from dpqlab.evaluation.bundled import (
    DEFAULT_MODEL,
    bundled_feature_net,
    bundled_reference,
    has_quick_reference,
    quick_reference,
)
from dpqlab.evaluation.config import EvaluationConfig, Sampler
from dpqlab.evaluation.datasets import DATASETS, Dataset, dataset_for
from dpqlab.evaluation.evaluator import (
    EvaluationResult,
    draw_teacher_steps,
    evaluate_steps,
    last_of,
)
from dpqlab.kernels.devices import device_of

SCHEDULER = "ddim"
OWN_TEACHER = "auto"
PROTOCOL = ("images", "steps", "guidance", "seed")

EXAMPLES = """examples:
  dpqlab evaluate fashion-dit-best-1bit --quick
  dpqlab evaluate out/pq --images 10000 --steps 50 --teacher

Sampling is DDIM, whatever scheduler the model's folder names. --quick draws 2,000 images with 20
steps, which takes about twenty minutes on two CPU cores and seconds on a GPU; the time left
is shown, and Ctrl-C stops it. Its teacher is recorded for guidance 1.5 and seed 0; for any other
setting --teacher draws it, in three times the time.

FCD is a Frechet distance in the features of the bundled classifier. It depends on the number of
images and of steps: compare equal ones only, and never with an Inception FID.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = (
        "Draw thousands of images and compare them with real ones (FCD, precision, recall) and, "
        "where the teacher's are known, with the teacher's at the same seeds (PSNR, feature "
        "cosine, agreement, excess FCD). --quick uses the bundled teacher's samples as recorded. "
        "Always sampled with DDIM."
    )
    parser.epilog = EXAMPLES
    parser.add_argument("model", metavar="MODEL", help="a bundled name, or a folder")
    parser.add_argument("--quick", action="store_true", help="2,000 images, 20 steps")
    parser.add_argument(
        "--teacher",
        nargs="?",
        const=OWN_TEACHER,
        metavar="MODEL",
        help="draw this teacher's samples too, for the comparison (the bundled full-precision "
        "model of the same images)",
    )
    parser.add_argument("--images", type=int, metavar="N", help="images (10000, quick: 2000)")
    parser.add_argument("--steps", type=int, metavar="N", help="sampling steps (50, quick: 20)")
    parser.add_argument(
        "--guidance", type=float, default=1.5, metavar="X", help="guidance scale, 1 is none (1.5)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed (0)")
    parser.add_argument(
        "--journal",
        type=Path,
        metavar="PATH",
        help="keep what is drawn in PATH.partial until all is done: the same command goes on with "
        "it after a stop",
    )
    add_device_argument(parser)
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Draw, compare, and show the result."""
    terminal = Terminal(as_json=args.json)
    changes = {n: getattr(args, n) for n in PROTOCOL if getattr(args, n) is not None}
    make = EvaluationConfig.quick if args.quick else EvaluationConfig
    config = make(**changes)
    SampleRequest(labels=(0,), seed=config.seed, steps=config.steps, guidance=config.guidance)
    device = device_of(args.device)
    pipeline = load(args.model, device=device)
    dataset = dataset_drawn(pipeline, args.model)
    net = bundled_feature_net(dataset.model, device=str(device))
    reference = bundled_reference(dataset.model)
    name = dataset.model if args.teacher == OWN_TEACHER else args.teacher
    draws_teacher = name is not None
    note = "" if draws_teacher else why_no_teacher(config, dataset.model)
    teacher = None if draws_teacher or note else quick_reference(dataset.model)
    if args.quick and note:
        terminal.say(f"The teacher is {note}.")
    total = config.steps * _chunks(config) * (3 if draws_teacher else 1)
    count = config.images * (3 if draws_teacher else 1)
    terminal.say(f"Drawing {count:,} images with {config.steps} steps on {device}; Ctrl-C stops.")
    with journal_of(args, config, device, name) as journal:
        with terminal.progress("Evaluating", total) as meter:
            if draws_teacher:
                teacher_pipeline = load(name, device=device)
                check_same_images(dataset_drawn(teacher_pipeline, name), dataset)
                sampler = sampler_of(teacher_pipeline, meter, f"teacher {name}")
                sampler = sampler if journal is None else kept(sampler, journal, "teacher")
                teacher = last_of(draw_teacher_steps(sampler, net, config))
            sampler = sampler_of(pipeline, meter, args.model)
            sampler = sampler if journal is None else kept(sampler, journal, "model")
            result = last_of(evaluate_steps(sampler, net, reference, config, teacher))
        if args.json:
            about = {"model": str(args.model), "device": str(device), "scheduler": SCHEDULER}
            about["teacher"] = name or note or "recorded"
            terminal.emit(about | result.to_dict())
        else:
            terminal.say(result_table(result, note))
        if journal is not None:  # only now has nobody use for it
            journal.remove()
    return 0


@contextmanager
def journal_of(
    args: argparse.Namespace, config: EvaluationConfig, device: torch.device, teacher: str | None
) -> Generator[Journal | None]:
    """Open the journal that was asked for, or go on with it; None if none was."""
    if args.journal is None:
        yield None
        return
    models = {"model": resolve(args.model)}
    if teacher is not None:
        models["teacher"] = resolve(teacher)
    settings = config.protocol() | {"scheduler": SCHEDULER, "batch": BATCH}
    args.journal.parent.mkdir(parents=True, exist_ok=True)
    with open_journal(
        args.journal, identity_of(models, device, **settings), resume=True
    ) as journal:
        yield journal


def sampler_of(pipeline: Any, meter: Meter, note: str) -> Sampler:
    """Wrap a pipeline as the evaluator's sampler, with DDIM; the meter counts steps of batches."""
    pipeline.scheduler = scheduler_for(pipeline.transformer, SCHEDULER)

    def sample(
        labels: tuple[int, ...], *, seed: int, first_index: int, steps: int, guidance: float
    ) -> Tensor:
        request = SampleRequest(
            labels=labels, seed=seed, first_index=first_index, steps=steps, guidance=guidance
        )
        return draw(pipeline, request, meter=meter, note=note)

    return sample


def dataset_drawn(pipeline: Any, name: str) -> Dataset:
    """Return the data set of the images that a model draws, whose classifier judges them.

    Raises
    ------
    ConfigError
        If no classifier that ships was trained on such images.
    """
    config = pipeline.transformer.config
    if (dataset := dataset_for(config)) is not None:
        return dataset
    known = "; ".join(
        f"{len(d.classes)} classes of {d.channels}x{d.side}x{d.side} ({d.model})" for d in DATASETS
    )
    raise ConfigError(
        f"{name} draws {config.num_embeds_ada_norm} classes of {config.in_channels}x"
        f"{config.sample_size}x{config.sample_size} images: the bundled classifiers know {known}"
    )


def check_same_images(teacher: Dataset, student: Dataset) -> None:
    """Refuse a teacher of other images."""
    if teacher.model != student.model:
        raise ConfigError(
            f"the teacher draws images as {teacher.model} does, the model as {student.model}: "
            "expected a teacher of the same images"
        )


def why_no_teacher(config: EvaluationConfig, model: str = DEFAULT_MODEL) -> str:
    """Say why a recorded teacher is none to compare with: settings, or no record; "" if it is."""
    mine, recorded = config.protocol(), EvaluationConfig.quick().protocol()
    differences = [
        f"{name} is {mine[name]:g}, the recorded teacher's {recorded[name]:g}"
        for name in PROTOCOL
        if mine[name] != recorded[name]
    ]
    if not differences and not has_quick_reference(model):
        differences = [f"what {model} draws is not on record"]
    return f"not compared: {'; '.join(differences)}; --teacher draws it" if differences else ""


def result_table(result: EvaluationResult, note: str = "") -> Table:
    """Lay out a result with what each number means; ``note`` says why there is no teacher."""
    table = Table(box=None, pad_edge=False, show_header=False)
    for _ in range(3):
        table.add_column()
    images = f"{result.config.images:,} images"
    table.add_row("FCD to real images", str(result.fcd), f"{images}; lower is better")
    floor = f"FCD of {result.noise_floor_images:,} real test images"
    table.add_row("noise floor", str(result.noise_floor), floor)
    table.add_row("precision", f"{result.precision:.3f}", "share of samples that look real")
    table.add_row("recall", f"{result.recall:.3f}", "share of real images that are covered")
    table.add_row(
        "class accuracy", f"{result.class_accuracy:.3f}", "the classifier sees what was asked for"
    )
    fidelity = result.fidelity
    if fidelity is None:
        table.add_row("teacher", "-", note or "not compared")
        return table
    psnr = "-" if fidelity.psnr is None else f"{fidelity.psnr:.2f} dB"
    table.add_row("PSNR to teacher", psnr, "same seeds")
    table.add_row("feature cosine", f"{fidelity.feature_cosine:.3f}", "same seeds")
    table.add_row("same class", f"{fidelity.agreement:.3f}", "same seeds")
    table.add_row("excess FCD", str(fidelity.excess_fcd), "damage alone; 0 is the teacher")
    return table


def _chunks(config: EvaluationConfig) -> int:
    """Count the batches that :func:`draw` makes of the evaluator's."""
    whole, rest = divmod(config.images, config.batch)
    return whole * -(-config.batch // BATCH) + -(-rest // BATCH)
