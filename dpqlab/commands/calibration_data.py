"""What the commands calibrate on: images from a folder, or what the teacher draws itself."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dpqlab.calibration import teacher_trajectories
from dpqlab.commands.terminal import Terminal
from dpqlab.diffusion.schedules import scheduler_for
from dpqlab.errors import ConfigError
from dpqlab.evaluation.datasets import DATASETS, Dataset, calibration_images, dataset_for

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
        help="with the idx.gz files of the model's training images "
        f"({', '.join(f'{d.title}: {d.default_folder}' for d in DATASETS)}, if that is there)",
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
    if args.data is not None and not any(dataset.is_in(args.data) for dataset in DATASETS):
        files = " or ".join(f"{d.layout.images_file('train')} ({d.title})" for d in DATASETS)
        raise ConfigError(f"--data {args.data} has no {files}: expected the folder of idx.gz files")


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
    dataset = dataset_for(teacher.config)
    if args.data_free is None and args.data is not None:
        data = _real(args.data, dataset, teacher.config, device)
    elif args.data_free is None and dataset is not None and dataset.is_in(None):
        data = _real(None, dataset, teacher.config, device)
    else:
        count = args.data_free or TRAJECTORIES["cpu" if device.type == "cpu" else "cuda"]
        data = _drawn(count, teacher, args.seed, terminal)
    terminal.say(f"Calibrating on {data.about}.")
    return data


def _real(folder: Path | None, dataset: Dataset | None, config: Any, device: torch.device) -> Data:
    """Read a folder, or the default one, if the teacher draws what it has."""
    if dataset is None or not dataset.is_in(folder):
        held = [d for d in DATASETS if d.is_in(folder)]
        what = " or ".join(
            f"{d.title} has {len(d.classes)} of {d.channels}x{d.side}x{d.side}" for d in held
        )
        raise ConfigError(
            f"the teacher draws {config.num_embeds_ada_norm} classes of {config.in_channels}x"
            f"{config.sample_size}x{config.sample_size} images, {what}: use --data-free"
        )
    source = calibration_images(dataset.model, folder, device)
    return Data(source=source, about=f"{len(source):,} images of {dataset.title}", real=True)


def _drawn(count: int, teacher: Any, seed: int, terminal: Terminal) -> Data:
    batches = -(-count // 256)
    with terminal.progress("Drawing what the teacher sees", batches * TRAJECTORY_STEPS) as meter:
        # a pass of the teacher is a step of a batch
        handle = teacher.register_forward_hook(lambda *_: meter.advance())
        try:
            source = teacher_trajectories(
                teacher,
                scheduler_for(teacher),
                images=count,
                seed=TRAJECTORY_SEED + seed,
                steps=TRAJECTORY_STEPS,
            )
        finally:
            handle.remove()
    about = f"{len(source):,} noisy images of {count} of the teacher's own trajectories, no data"
    return Data(source=source, about=about, real=False)
