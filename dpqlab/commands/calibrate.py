"""``dpqlab calibrate``: train a compressed model until it does what its teacher does."""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from pathlib import Path

from dpqlab.calibration import CalibrationConfig
from dpqlab.checkpoint import is_compressed, read_config
from dpqlab.checkpoint.lock import exclusive
from dpqlab.commands.calibrated_folder import STOPPED, write
from dpqlab.commands.calibrating import (
    CODES,
    OBJECTIVES,
    Course,
    check_options,
    config_of,
    forget,
    run_calibration,
)
from dpqlab.commands.calibration_data import Data, add_data_arguments, check_data, data_of
from dpqlab.commands.card import loss_of, moves_of
from dpqlab.commands.drawing import add_device_argument
from dpqlab.commands.overrides import add_preset_argument, require_codebooks
from dpqlab.commands.stopping import stop_code
from dpqlab.commands.students import Pair, pair_of
from dpqlab.commands.terminal import Terminal, add_json_argument, add_resume_arguments, megabytes
from dpqlab.diffusion.models import resolve
from dpqlab.distributed import Team, team_of
from dpqlab.errors import ConfigError, DPQError
from dpqlab.nn.presets import preset
from dpqlab.report import clock

EXAMPLES = """examples:
  dpqlab calibrate out/pq out/pq-calibrated
  dpqlab calibrate fashion-dit out/best --preset best-1bit --steps 20000
  dpqlab calibrate out/pq out/pq-calibrated --data-free 64 --codes latent --guidance 1.5

A GPU takes seconds for what two CPU cores take minutes for: batches and steps are fewer there
unless you ask for more, and so is what is gained. Ctrl-C writes the best state so far to OUT; the
same command with --resume goes on, on a CPU as if it had never stopped. Until it is finished an
unfinished run lies in OUT.calibration and OUT.calibration.jsonl.

Under torchrun or accelerate launch each process takes its share of every batch; a run that was
stopped may go on with another number of processes.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = (
        "Train codewords, row scales and biases of a compressed model, and choose its codes, so "
        "that it does what its teacher does. The teacher is found by what the folder says it was "
        "made of. By default presets are calibrated as they are meant to be."
    )
    parser.epilog = EXAMPLES
    parser.add_argument("model", metavar="MODEL", help="a bundled name, or a folder")
    parser.add_argument("out", metavar="OUT", type=Path, help="folder to write")
    add_preset_argument(parser, None)
    parser.add_argument(
        "--teacher", metavar="MODEL", help="the full-precision model that MODEL was made of"
    )
    add_data_arguments(parser)
    parser.add_argument(
        "--steps", type=int, metavar="N", help="optimizer steps (200, on a GPU 2500)"
    )
    parser.add_argument("--batch", type=int, metavar="N", help="images a step (32, on a GPU 256)")
    parser.add_argument(
        "--rate", type=float, metavar="X", help="learning rate, relative to what is trained"
    )
    parser.add_argument("--every", type=int, metavar="N", help="steps between judgements")
    parser.add_argument(
        "--objective",
        choices=OBJECTIVES,
        help="do what the teacher does, remove noise from real images (the paper's loss), or both",
    )
    parser.add_argument(
        "--codes",
        choices=CODES,
        help="keep those of k-means, choose them again now and then by what layers put out (the "
        "paper's E-step), or move them at every step",
    )
    parser.add_argument(
        "--guidance", type=float, metavar="X", help="compare after guidance at this scale"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed (0)")
    add_resume_arguments(parser)
    add_device_argument(parser)
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Calibrate, and write the best state."""
    terminal = Terminal(as_json=args.json)
    progress = args.out.parent / f"{args.out.name}.calibration"
    check(args, progress)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with team_of(args.device) as team, exclusive(progress) if team.leads else nullcontext():
        if team.leads:
            check(args, progress)  # as whoever held the lock left it
        return calibrated(args, progress, terminal, team)


def calibrated(args: argparse.Namespace, progress: Path, terminal: Terminal, team: Team) -> int:
    """Calibrate, nobody else doing so meanwhile; return the exit code."""
    device = team.device
    pair = pair_of(args, device, terminal)
    data = data_of(args, pair.teacher, device, terminal)
    name = str(pair.provenance.get("preset", ""))
    config = config_of(args, name, device, data, terminal)
    if team.leads and not args.resume:
        forget(progress)
    many = f", {team.world} processes" if team.world > 1 else ""
    terminal.say(
        f"{config.steps:,} steps of {config.batch} images on {device}{many}: {loss_of(config)}; "
        f"codes {moves_of(config)}. Ctrl-C keeps the best."
    )
    fresh = team.leads and not progress.exists()
    try:
        course = run_calibration(
            pair.student, pair.teacher, data.source, config, terminal, progress=progress, team=team
        )
    except (KeyboardInterrupt, DPQError):
        if fresh:  # nothing has been calibrated, and the command can be given again as it was
            forget(progress)
        raise
    if not team.leads:
        return 0
    return finish(args, pair, data, config, course, progress, terminal)


def finish(
    args: argparse.Namespace,
    pair: Pair,
    data: Data,
    config: CalibrationConfig,
    course: Course,
    progress: Path,
    terminal: Terminal,
) -> int:
    """Write what has been reached, say what it is, and return the exit code."""
    summary = write(args.out, pair, data, config, course)
    if course.stopped is None or isinstance(course.stopped, ConfigError):
        forget(progress)  # one that diverged would do so again
    best, last = course.best, course.records[-1]
    if args.json:
        terminal.emit(
            summary
            | {
                "preset": pair.provenance.get("preset"),
                "data": data.about,
                "config": config.to_dict(),
                "best_step": best.step,
                "resumed_from": course.resumed,
                "stopped": course.stopped is not None,
                "records": [record.to_dict() for record in course.records],
            }
        )
    reached = f"{args.out} holds the best state so far (step {best.step:,})"
    if isinstance(course.stopped, KeyboardInterrupt):
        terminal.err.print(
            f"dpqlab calibrate: stopped after step {last.step:,} of {config.steps:,}; {reached}; "
            "the same command with --resume goes on",
            soft_wrap=True,
        )
        return stop_code(course.stopped)
    if course.stopped is not None:
        raise type(course.stopped)(f"{course.stopped}; {reached}")
    if not args.json:
        terminal.say(
            f"{args.out}: loss {course.records[0].total:.5f} to {best.total:.5f}, best at step "
            f"{best.step:,} of {config.steps:,}, {clock(last.seconds)}"
        )
        terminal.say(
            f"{summary['true_bits_per_weight']:.3f} true bits per weight, "
            f"{megabytes(summary['bytes_on_disk'])} on disk"
        )
        terminal.say(f"next: dpqlab sample {args.out}")
    return 0


def check(args: argparse.Namespace, progress: Path) -> None:
    """Refuse what can be seen to be wrong before a model is loaded."""
    check_data(args)
    check_options(args)
    model = resolve(args.model)
    if args.preset is None and not is_compressed(model):
        raise ConfigError(f"{args.model} is not compressed: say how to compress it with --preset")
    if args.preset is not None:
        require_codebooks(preset(args.preset), "there is nothing to train")
        if is_compressed(model):
            raise ConfigError(f"{args.model} is compressed already: leave --preset out")
    if args.out.exists() and args.out.resolve() == model.resolve():
        raise ConfigError(f"{args.out} is the model itself: choose another folder")
    if progress.exists() and not (args.resume or args.overwrite):
        raise ConfigError(
            f"{progress} is an unfinished run: go on with --resume, or drop it with --overwrite"
        )
    if args.out.exists() and not args.overwrite and not _is_stopped(args.out, progress, args):
        raise ConfigError(f"{args.out} exists: choose another folder, or pass --overwrite")


def _is_stopped(out: Path, progress: Path, args: argparse.Namespace) -> bool:
    """Whether OUT is what the run that is to go on left behind."""
    if not (args.resume and progress.exists() and out.is_dir() and is_compressed(out)):
        return False
    return STOPPED in read_config(out).quantization.provenance
