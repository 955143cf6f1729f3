"""The law of the noisy batches."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dpqlab.calibration import Batch, CalibrationData, noisy_batch
from dpqlab.diffusion.schedules import make_scheduler
from dpqlab.errors import ShapeError

SIZE = 200
IMAGES = torch.arange(50 * 16).reshape(50, 1, 4, 4).remainder(251).to(torch.uint8)
LABELS = torch.arange(50) % 10


@pytest.fixture(scope="module")
def alphas() -> torch.Tensor:
    scheduler: Any = make_scheduler()
    return scheduler.alphas_cumprod


def draw(alphas: torch.Tensor, seed: int = 0, **changes: Any) -> tuple[Batch, torch.Tensor]:
    settings: dict[str, Any] = {"size": SIZE, "null_class": 10, "label_drop": 0.0} | changes
    generator = torch.Generator().manual_seed(seed)
    return noisy_batch(IMAGES, LABELS, alphas, generator=generator, **settings)


def clean_of(batch: Batch, noise: torch.Tensor, alphas: torch.Tensor) -> torch.Tensor:
    """Solve ``noisy = sqrt(alpha) * clean + sqrt(1 - alpha) * noise``, as uint8."""
    alpha = alphas[batch.timesteps].double()[:, None, None, None]
    clean = (batch.noisy - (1 - alpha).sqrt() * noise) / alpha.sqrt()
    return (clean * 127.5 + 127.5).round()


def test_one_timestep_in_each_stratum(alphas):
    seen = []
    for seed in range(20):
        batch, _ = draw(alphas, seed)
        assert torch.equal(batch.timesteps // 5, torch.arange(SIZE))
        seen.append(batch.timesteps % 5)
    assert batch.timesteps.dtype == torch.int64
    # and all of a stratum's are drawn alike
    counts = torch.bincount(torch.cat(seen), minlength=5)
    assert (counts - 800).abs().max() < 5 * (800 * 0.8) ** 0.5


@pytest.mark.parametrize("size", [1, 7, 3000])
def test_timesteps_stay_within_the_schedule(alphas, size):
    for seed in range(5):
        timesteps = draw(alphas, seed, size=size)[0].timesteps
        assert timesteps.shape == (size,)
        assert timesteps.min() >= 0
        assert timesteps.max() < 1000


def test_the_noise_takes_away_what_is_real(alphas):
    """Inverting the formula gives images of the data set, with their labels."""
    batch, noise = draw(alphas)
    early = batch.timesteps < 600  # later, float32 has forgotten the image
    found = clean_of(batch, noise, alphas)[early].flatten(1)
    index = torch.cdist(found, IMAGES.flatten(1).double()).argmin(dim=1)
    assert torch.equal(found, IMAGES[index].flatten(1).double())
    assert torch.equal(batch.labels[early], LABELS[index])
    assert len(index.unique()) > 40


def test_noise_is_standard_normal_and_independent_of_time(alphas):
    noise = torch.cat([draw(alphas, seed)[1] for seed in range(10)])
    assert noise.mean().abs() < 4 / noise.numel() ** 0.5
    assert (noise.std() - 1).abs() < 4 / (2 * noise.numel()) ** 0.5
    spread = noise.view(10, SIZE, -1).std(dim=(0, 2))
    assert (spread - 1).abs().max() < 5 / (2 * 160) ** 0.5


@pytest.mark.parametrize("share", [0.0, 0.15, 1.0])
def test_labels_are_dropped_at_their_share(alphas, share):
    kept, dropped = [], []
    for seed in range(20):
        labelled, _ = draw(alphas, seed)
        batch, _ = draw(alphas, seed, label_drop=share)
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
    (first, noise), (second, again) = draw(alphas, 4), draw(alphas, 4)
    assert torch.equal(noise, again)
    for part in ("noisy", "timesteps", "labels"):
        assert torch.equal(getattr(first, part), getattr(second, part))
    other, _ = draw(alphas, 5)
    assert not torch.equal(first.noisy, other.noisy)
    generator = torch.Generator().manual_seed(4)
    settings: dict[str, Any] = {"size": 4, "null_class": 10, "label_drop": 0.1}
    one, _ = noisy_batch(IMAGES, LABELS, alphas, generator=generator, **settings)
    two, _ = noisy_batch(IMAGES, LABELS, alphas, generator=generator, **settings)
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
