"""What the commands calibrate on: Fashion-MNIST from a folder, or what the teacher draws itself."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dpqlab.calibration import teacher_trajectories
from dpqlab.commands.terminal import Terminal
from dpqlab.diffusion.schedules import make_scheduler
from dpqlab.errors import ConfigError
from dpqlab.evaluation.fashion_mnist import CLASSES, DEFAULT_FOLDER, SIDE, calibration_images

TRAINING = "train-images-idx3-ubyte.gz"
TRAJECTORY_STEPS = 50
TRAJECTORY_SEED = 20_000
"""Added to the seed: no evaluation draws these images."""
TRAJECTORIES = {"cpu": 32, "cuda": 1024}


@dataclass(frozen=True, kw_only=True)
class Data:
    """What to calibrate on, and what it is in words; ``real`` images have a known noise.

    ``source`` is a :class:`~dpqlab.calibration.CalibrationSource`.
    """

    source: Any
    about: str
    real: bool


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--data`` and ``--data-free``."""
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument(
        "--data",
        type=Path,
        metavar="FOLDER",
        help=f"with Fashion-MNIST's idx.gz files ({DEFAULT_FOLDER}, if that is there)",
    )
    choice.add_argument(
        "--data-free",
        type=int,
        nargs="?",
        const=0,
        metavar="N",
        help="use no data, but N sampling trajectories of the teacher "
        f"({TRAJECTORIES['cpu']}, on a GPU {TRAJECTORIES['cuda']})",
    )


def check_data(args: argparse.Namespace) -> None:
    """Refuse what can be seen to be wrong before a model is loaded."""
    if args.data_free is not None and args.data_free < 0:
        raise ConfigError(f"--data-free is {args.data_free}: expected at least 1 trajectory")
    if args.data is not None and not (args.data / TRAINING).is_file():
        raise ConfigError(
            f"--data {args.data} has no {TRAINING}: expected the folder of Fashion-MNIST's four "
            "idx.gz files"
        )


def data_of(
    args: argparse.Namespace, teacher: Any, device: torch.device, terminal: Terminal
) -> Data:
    """Read or draw what to calibrate on, and say what it is.

    Parameters
    ----------
    args
        With ``data``, ``data_free`` and ``seed``.
    teacher
        The full-precision transformer, on ``device``.
    device
        Where the data are wanted.
    terminal
        Shows the progress.

    Raises
    ------
    ConfigError
        If the folder lacks a file, or the teacher draws other images.
    CheckpointError
        If a file is damaged.
    """
    if args.data_free is None and (args.data is not None or default_fits(teacher)):
        data = _real(args.data or DEFAULT_FOLDER, teacher, device)
    else:
        count = args.data_free or TRAJECTORIES["cpu" if device.type == "cpu" else "cuda"]
        data = _drawn(count, teacher, args.seed, terminal)
    terminal.say(f"Calibrating on {data.about}.")
    return data


def default_fits(teacher: Any) -> bool:
    """Whether Fashion-MNIST is where Debian puts it, and may be what the teacher draws."""
    return (DEFAULT_FOLDER / TRAINING).is_file() and _draws_fashion(teacher)


def _draws_fashion(teacher: Any) -> bool:
    config = teacher.config
    looks = (config.in_channels, config.sample_size, config.num_embeds_ada_norm)
    return looks == (1, SIDE, len(CLASSES))


def _real(folder: Path, teacher: Any, device: torch.device) -> Data:
    if not _draws_fashion(teacher):
        config = teacher.config
        raise ConfigError(
            f"the teacher draws {config.num_embeds_ada_norm} classes of {config.in_channels}x"
            f"{config.sample_size}x{config.sample_size} images, Fashion-MNIST has {len(CLASSES)} "
            f"of 1x{SIDE}x{SIDE}: use --data-free"
        )
    source = calibration_images(folder, device)
    return Data(source=source, about=f"{len(source):,} images of Fashion-MNIST", real=True)


def _drawn(count: int, teacher: Any, seed: int, terminal: Terminal) -> Data:
    batches = -(-count // 256)
    with terminal.progress("Drawing what the teacher sees", batches * TRAJECTORY_STEPS) as meter:
        # a pass of the teacher is a step of a batch
        handle = teacher.register_forward_hook(lambda *_: meter.advance())
        try:
            source = teacher_trajectories(
                teacher,
                make_scheduler("ddim"),
                images=count,
                seed=TRAJECTORY_SEED + seed,
                steps=TRAJECTORY_STEPS,
            )
        finally:
            handle.remove()
    about = f"{len(source):,} noisy images of {count} of the teacher's own trajectories, no data"
    return Data(source=source, about=about, real=False)
