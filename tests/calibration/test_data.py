"""The law of the noisy batches."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from dpqlab.calibration import Batch, CalibrationData, TrajectoryData, noisy_batch, paired
from dpqlab.diffusion.schedules import make_scheduler
from dpqlab.errors import ConfigError, ShapeError

SIZE = 200
IMAGES = torch.arange(50 * 16).reshape(50, 1, 4, 4).remainder(251).to(torch.uint8)
LABELS = torch.arange(50) % 10


@pytest.fixture(scope="module")
def alphas() -> torch.Tensor:
    scheduler: Any = make_scheduler()
    return scheduler.alphas_cumprod


def draw(alphas: torch.Tensor, seed: int = 0, **changes: Any) -> Batch:
    settings: dict[str, Any] = {"size": SIZE, "null_class": 10, "label_drop": 0.0} | changes
    generator = torch.Generator().manual_seed(seed)
    return noisy_batch(IMAGES, LABELS, alphas, generator=generator, **settings)


def clean_of(batch: Batch, alphas: torch.Tensor) -> torch.Tensor:
    """Solve ``noisy = sqrt(alpha) * clean + sqrt(1 - alpha) * noise``, as uint8."""
    alpha = alphas[batch.timesteps].double()[:, None, None, None]
    assert batch.target is not None
    clean = (batch.noisy - (1 - alpha).sqrt() * batch.target) / alpha.sqrt()
    return (clean * 127.5 + 127.5).round()


def test_one_timestep_in_each_stratum(alphas):
    seen = []
    for seed in range(20):
        batch = draw(alphas, seed)
        assert torch.equal(batch.timesteps // 5, torch.arange(SIZE))
        assert batch.timesteps.dtype == torch.int64
        seen.append(batch.timesteps % 5)
    # and all of a stratum's are drawn alike
    counts = torch.bincount(torch.cat(seen), minlength=5)
    assert (counts - 800).abs().max() < 5 * (800 * 0.8) ** 0.5


@pytest.mark.parametrize("size", [1, 7, 3000])
def test_timesteps_stay_within_the_schedule(alphas, size):
    for seed in range(5):
        timesteps = draw(alphas, seed, size=size).timesteps
        assert timesteps.shape == (size,)
        assert timesteps.min() >= 0
        assert timesteps.max() < 1000


def test_the_noise_takes_away_what_is_real(alphas):
    """Inverting the formula gives images of the data set, with their labels."""
    batch = draw(alphas)
    early = batch.timesteps < 600  # later, float32 has forgotten the image
    found = clean_of(batch, alphas)[early].flatten(1)
    index = torch.cdist(found, IMAGES.flatten(1).double()).argmin(dim=1)
    assert torch.equal(found, IMAGES[index].flatten(1).double())
    assert torch.equal(batch.labels[early], LABELS[index])
    assert len(index.unique()) > 40


def test_noise_is_standard_normal_and_independent_of_time(alphas):
    drawn = [draw(alphas, seed).target for seed in range(10)]
    noise = torch.cat([part for part in drawn if part is not None])
    assert len(noise) == 10 * SIZE
    assert noise.mean().abs() < 4 / noise.numel() ** 0.5
    assert (noise.std() - 1).abs() < 4 / (2 * noise.numel()) ** 0.5
    spread = noise.view(10, SIZE, -1).std(dim=(0, 2))
    assert (spread - 1).abs().max() < 5 / (2 * 160) ** 0.5


@pytest.mark.parametrize("share", [0.0, 0.15, 1.0])
def test_labels_are_dropped_at_their_share(alphas, share):
    kept, dropped = [], []
    for seed in range(20):
        labelled = draw(alphas, seed)
        batch = draw(alphas, seed, label_drop=share)
        assert torch.equal(batch.noisy, labelled.noisy)
        gone = batch.labels == 10
        assert torch.equal(batch.labels[~gone], labelled.labels[~gone])
        kept.append(~gone)
        dropped.append(gone.float().mean())
    found = torch.stack(dropped).mean().item()
    assert found == pytest.approx(share, abs=5 * (share * (1 - share) / 4000) ** 0.5)
    if 0 < share < 1:  # at any time
        assert torch.stack(kept).any(dim=0).all()


def test_a_generator_decides_everything(alphas):
    first, second, other = draw(alphas, 4), draw(alphas, 4), draw(alphas, 5)
    assert len(first.tensors) == 4
    assert all(torch.equal(a, b) for a, b in zip(first.tensors, second.tensors, strict=True))
    assert not torch.equal(first.noisy, other.noisy)
    generator = torch.Generator().manual_seed(4)
    settings: dict[str, Any] = {"size": 4, "null_class": 10, "label_drop": 0.1}
    one = noisy_batch(IMAGES, LABELS, alphas, generator=generator, **settings)
    two = noisy_batch(IMAGES, LABELS, alphas, generator=generator, **settings)
    assert not torch.equal(one.noisy, two.noisy)


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (IMAGES.float(), LABELS),
        (IMAGES[:, 0], LABELS),
        (IMAGES, LABELS[:-1]),
        (IMAGES, LABELS[:, None]),
    ],
)
def test_images_that_would_be_misread_are_refused(alphas, images, labels):
    with pytest.raises(ShapeError, match="expected uint8"):
        CalibrationData(images=images, labels=labels, alphas=alphas)


def test_images_kept_for_judging_are_the_last(alphas):
    data = CalibrationData(images=IMAGES, labels=LABELS, alphas=alphas)
    training, judged = data.split(12)
    assert (len(data), len(training), len(judged)) == (50, 38, 12)
    assert torch.equal(torch.cat([training.images, judged.images]), IMAGES)
    assert torch.equal(torch.cat([training.labels, judged.labels]), LABELS)
    for holdout in (50, 51):
        with pytest.raises(ConfigError, match=f"50 images: expected more than the {holdout}"):
            data.split(holdout)


def test_data_draw_what_noisy_batch_does(alphas):
    data = CalibrationData(images=IMAGES, labels=LABELS, alphas=alphas)
    generator = torch.Generator().manual_seed(0)
    drawn = data.draw(SIZE, null_class=10, label_drop=0.0, generator=generator)
    expected = draw(alphas).tensors
    assert all(torch.equal(a, b) for a, b in zip(drawn.tensors, expected, strict=True))


def trajectories(alphas: torch.Tensor, items: int = 40) -> TrajectoryData:
    """Items that can be told apart: all pixels of item i are i."""
    noisy = torch.arange(items)[:, None, None, None].expand(-1, 1, 2, 2).half()
    index = torch.arange(items)
    return TrajectoryData(noisy=noisy, timesteps=index * 20, labels=index % 10, alphas=alphas)


def test_items_of_trajectories_stay_together(alphas, generator):
    training, judged = trajectories(alphas).split(15)
    assert (len(training), len(judged)) == (25, 15)
    for part, items in ((training, range(25)), (judged, range(25, 40))):
        batch = part.draw(400, null_class=10, label_drop=0.3, generator=generator)
        index = batch.noisy[:, 0, 0, 0].long()
        assert batch.noisy.dtype == torch.float32
        assert batch.target is None
        assert set(index.tolist()) == set(items)
        assert torch.equal(batch.timesteps, index * 20)
        kept = batch.labels != 10
        assert torch.equal(batch.labels[kept], index[kept] % 10)
        assert 0.6 < kept.float().mean() < 0.8
    with pytest.raises(ConfigError, match="40 images: expected more than the 40"):
        trajectories(alphas).split(40)


@pytest.mark.parametrize(
    "change",
    [
        {"timesteps": torch.arange(39)},
        {"labels": torch.arange(41)},
        {"noisy": torch.zeros(40, 2, 2)},
        {"noisy": torch.zeros(40, 1, 2, 2, dtype=torch.uint8)},
    ],
)
def test_trajectories_that_do_not_fit_are_refused(alphas, change):
    with pytest.raises(ShapeError, match=r"expected floats \(N, C, H, W\)"):
        replace(trajectories(alphas), **change)


@pytest.mark.parametrize("noise", [True, False])
def test_pairs_are_both_branches(alphas, noise):
    batch = draw(alphas, label_drop=0.5)
    batch = batch if noise else replace(batch, target=None)
    both = paired(batch, 10)
    assert len(both) == 2 * SIZE
    for name in ("noisy", "timesteps", *(["target"] if noise else [])):
        halves = getattr(both, name).chunk(2)
        assert all(torch.equal(half, getattr(batch, name)) for half in halves)
    assert (both.target is None) != noise
    assert torch.equal(both.labels[:SIZE], batch.labels)
    assert both.labels[SIZE:].eq(10).all()
