from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from dpqlab.checkpoint.journal import Journal, open_journal
from dpqlab.distributed import Team
from dpqlab.errors import CheckpointError, ConfigError
from dpqlab.evaluation.many import ManyConfig, draw_shards, pending_shards, shard_images
from tests.teams import alone

CONFIG = ManyConfig(images=11, classes=3, steps=5, guidance=2.0, seed=7, batch=4)


def sample(
    labels: tuple[int, ...], *, seed: int, first_index: int, steps: int, guidance: float
) -> Tensor:
    """Draw images that tell what was asked for."""
    assert (seed, steps, guidance) == (7, 5, 2.0)
    indices = torch.arange(first_index, first_index + len(labels))
    pixels = torch.stack([indices, torch.tensor(labels)], 1).to(torch.uint8)
    return pixels[:, None, :, None].expand(-1, 1, 2, 2)


def told(journal: Journal) -> list[list[int]]:
    images = np.concatenate(list(shard_images(CONFIG, journal)))
    assert images.shape == (11, 2, 2, 3)
    return images[:, :, 0, 0].tolist()


def test_every_process_draws_its_share_and_all_are_there(tmp_path: Path) -> None:
    with open_journal(tmp_path / "out", {}) as journal:
        assert pending_shards(CONFIG, journal, alone()) == (0, 1, 2)
        for rank in (1, 0):
            team = Team(rank=rank, world=2, device=torch.device("cpu"))
            list(draw_shards(sample, CONFIG, journal, tuple(team.share((0, 1, 2)))))
        assert told(journal) == [[i, i % 3] for i in range(11)]
        assert pending_shards(CONFIG, journal, alone()) == ()


def test_only_what_is_missing_is_drawn_again(tmp_path: Path) -> None:
    with open_journal(tmp_path / "out", {}) as journal:
        list(draw_shards(sample, CONFIG, journal, (0, 2)))
        (damaged,) = journal.folder.glob("shard-000002*")
        damaged.write_bytes(damaged.read_bytes()[:-1] + b"\0")
        assert pending_shards(CONFIG, journal, alone()) == (1, 2)
        with pytest.raises(CheckpointError, match="shard 1 is missing or damaged"):
            told(journal)
        records = list(draw_shards(sample, CONFIG, journal, (1, 2)))
        assert [(r.first, r.count, r.done, r.total) for r in records] == [
            (4, 4, 4, 7),
            (8, 3, 7, 7),
        ]
        assert told(journal) == [[i, i % 3] for i in range(11)]


@pytest.mark.parametrize("name", ["images", "classes", "steps", "batch"])
def test_nothing_cannot_be_drawn(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} is 0: expected at least 1"):
        ManyConfig(**{name: 0})
