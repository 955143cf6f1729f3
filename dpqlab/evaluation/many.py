"""Thousands of images for a FID, drawn in shards by any number of processes.

Image ``i`` is that of (seed, ``i``), of class ``i`` modulo the number of classes. What is drawn
together is fixed too: shards are the same whoever draws them, so the same kind of device gives the
same bits, whatever the number of processes. Finished shards lie in a journal; a run that was
stopped draws the others.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from dpqlab.checkpoint.journal import Journal
from dpqlab.distributed import Team
from dpqlab.errors import CheckpointError, ConfigError
from dpqlab.evaluation.adm import as_rgb
from dpqlab.evaluation.config import Sampler, requested_labels

_KEY = "images"


@dataclass(frozen=True, kw_only=True)
class ManyConfig:
    """What is drawn.

    Attributes
    ----------
    images, classes
        How many, every class in turn.
    steps, guidance, seed
        Passed to the sampler.
    batch
        Images drawn together: a shard.
    """

    images: int = 50_000
    classes: int = 1000
    steps: int = 250
    guidance: float = 1.5
    seed: int = 0
    batch: int = 50

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn."""
        for name in ("images", "classes", "steps", "batch"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}: expected at least 1")

    @property
    def labels(self) -> np.ndarray:
        """Class of each image, int64 (N,)."""
        return requested_labels(self.images, self.classes)

    @property
    def shards(self) -> tuple[range, ...]:
        """The images of each shard."""
        starts = range(0, self.images, self.batch)
        return tuple(range(first, min(first + self.batch, self.images)) for first in starts)


@dataclass(frozen=True, kw_only=True)
class ShardRecord:
    """A shard is drawn: which images, how many this process has drawn and has to draw, seconds."""

    first: int
    count: int
    done: int
    total: int
    seconds: float


def pending_shards(config: ManyConfig, journal: Journal, team: Team) -> tuple[int, ...]:
    """Return the shards that the journal lacks, as the team's leader sees it."""
    missing: list[int] = []
    if team.leads:
        count = range(len(config.shards))
        missing = [index for index in count if journal.read(_name(index)) is None]
    return tuple(json.loads(team.agreed_text(json.dumps(missing))))


def draw_shards(
    sample: Sampler, config: ManyConfig, journal: Journal, shards: tuple[int, ...]
) -> Iterator[ShardRecord]:
    """Draw some shards into the journal, a record each.

    Parameters
    ----------
    sample
        Draws uint8 images (n, C, H, W), C 1 or 3.
    shards
        Which of them: a process's share of :func:`pending_shards`.
    """
    started, done = time.perf_counter(), 0
    labels = config.labels
    total = sum(len(config.shards[index]) for index in shards)
    for index in shards:
        wanted = config.shards[index]
        images = sample(
            tuple(int(label) for label in labels[wanted.start : wanted.stop]),
            seed=config.seed,
            first_index=wanted.start,
            steps=config.steps,
            guidance=config.guidance,
        )
        rgb = torch.from_numpy(as_rgb(torch.as_tensor(images)))
        journal.write(_name(index), {_KEY: rgb}, {"first": wanted.start})
        done += len(wanted)
        seconds = time.perf_counter() - started
        yield ShardRecord(
            first=wanted.start, count=len(wanted), done=done, total=total, seconds=seconds
        )


def shard_images(config: ManyConfig, journal: Journal) -> Iterator[np.ndarray]:
    """Yield the images of all shards in order, uint8 (n, H, W, 3).

    Raises
    ------
    CheckpointError
        If a shard is not there, or damaged.
    """
    for index in range(len(config.shards)):
        entry = journal.read(_name(index))
        if entry is None:
            raise CheckpointError(
                f"{journal.folder}: shard {index} is missing or damaged: go on with --resume"
            )
        yield entry.tensors[_KEY].numpy()


def _name(index: int) -> str:
    return f"shard-{index:06d}"
