"""DDPM with a variance that the model predicts, against the papers' formulas written out."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler
from torch import Tensor

from dpqlab.diffusion.learned_variance import guided, predicts_variance, uses_variance
from dpqlab.diffusion.runtime import prepare_runtime
from dpqlab.diffusion.sampling import (
    SampleRequest,
    image_generator,
    initial_noise,
    sample_images,
    sample_steps,
)
from dpqlab.diffusion.schedules import make_scheduler, scheduler_for
from dpqlab.errors import ConfigError
from tests.tiny import forwards_of, tiny_dit

# in diffusers, which hands a tensor to numpy
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

REQUEST = SampleRequest(labels=(3, 0), seed=5, first_index=2, steps=6, guidance=1.5)


@pytest.fixture(scope="module")
def sigma() -> Any:
    """A tiny DiT of two channels for each of the image; tests must not change it."""
    return tiny_dit(out_channels=2)


@torch.no_grad()
def by_hand(model: Any, request: SampleRequest, *, clip: bool) -> Tensor:
    """Improved DDPM (arXiv 2102.09672, equations 9 to 15) on an even choice of steps, in float64.

    Guidance as in the DiT paper's code: the noise is guided, the variance is that of the class.
    """
    used = [round(i * 999 / (request.steps - 1)) for i in range(request.steps)]
    all_bars = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), dim=0)
    bars = [1.0, *all_bars[used].tolist()]
    rows = []
    for j, label in enumerate(request.labels):
        index = request.first_index + j
        x = initial_noise((1, 8, 8), request.seed, [index]).double()
        draws = image_generator(request.seed, index, stream=1)
        for i in reversed(range(request.steps)):
            before, now = bars[i], bars[i + 1]
            beta = 1 - now / before
            posterior = beta * (1 - before) / (1 - now)
            outputs = [
                model(x.float(), timestep=torch.tensor([used[i]]), class_labels=torch.tensor([c]))
                for c in (label, 10)
            ]
            with_class, without = (output.sample.double() for output in outputs)
            noise = without[:, :1] + request.guidance * (with_class[:, :1] - without[:, :1])
            clean = (x - math.sqrt(1 - now) * noise) / math.sqrt(now)
            clean = clean.clamp(-1, 1) if clip else clean
            mean = math.sqrt(before) * beta / (1 - now) * clean
            mean = mean + math.sqrt(now / before) * (1 - before) / (1 - now) * x
            if i == 0:
                x = mean
                continue
            u = (with_class[:, 1:] + 1) / 2
            log_variance = u * math.log(beta) + (1 - u) * math.log(posterior)
            x = mean + (0.5 * log_variance).exp() * torch.randn(1, 1, 8, 8, generator=draws)
        rows.append(x)
    return torch.cat(rows).float()


@pytest.mark.parametrize(("steps", "clip"), [(2, True), (6, True), (6, False), (250, False)])
def test_the_papers_sampler_written_out_by_hand(sigma, steps, clip):
    request = SampleRequest(labels=(3, 0), seed=5, first_index=2, steps=steps, guidance=1.5)
    scheduler = make_scheduler("ddpm", learned_variance=True, clip=clip)
    *_, last = sample_steps(sigma, scheduler, request)
    expected = by_hand(sigma, request, clip=clip)
    torch.testing.assert_close(last.latents, expected, rtol=2e-3, atol=2e-3 * expected.abs().max())


def test_the_variance_matters(sigma):
    learned, fixed = scheduler_for(sigma, "ddpm"), make_scheduler("ddpm")
    *_, ours = sample_steps(sigma, learned, REQUEST)
    *_, other = sample_steps(sigma, fixed, REQUEST)
    assert (ours.latents - other.latents).abs().max() > 0.05


def test_the_scheduler_fits_the_model(sigma, dit):
    assert predicts_variance(sigma) and not predicts_variance(dit)
    assert uses_variance(scheduler_for(sigma, "ddpm"))
    for name in ("ddim", "dpm"):
        assert not uses_variance(scheduler_for(sigma, name))
    plain: Any = scheduler_for(dit, "ddpm")
    assert plain.config.variance_type == "fixed_small" and plain.config.clip_sample


def test_latents_of_a_vae_are_not_clipped():
    latent = tiny_dit(in_channels=4, out_channels=8)
    for name in ("ddim", "dpm", "ddpm"):
        config = dict(scheduler_for(latent, name).config)  # pyright: ignore
        assert not config.get("clip_sample", False) and not config.get("thresholding", False)
    steps = list(sample_steps(latent, scheduler_for(latent, "ddpm"), REQUEST))
    assert steps[-1].latents.shape == (2, 4, 8, 8)
    assert steps[-1].predicted_clean.shape == (2, 4, 8, 8)


def test_an_image_does_not_depend_on_its_batch(sigma):
    scheduler = scheduler_for(sigma, "ddpm")
    *_, whole = sample_steps(sigma, scheduler, REQUEST)
    alone = SampleRequest(labels=(0,), seed=5, first_index=3, steps=6, guidance=1.5)
    *_, second = sample_steps(sigma, scheduler, alone)
    torch.testing.assert_close(second.latents[0], whole.latents[1], rtol=1e-4, atol=1e-4)


def test_no_guidance_takes_one_pass(sigma):
    request = SampleRequest(labels=(3, 0), steps=3, guidance=1.0)
    with forwards_of(sigma) as sizes:
        images = sample_images(sigma, scheduler_for(sigma, "ddpm"), request)
    assert sizes == [2, 2, 2] and images.shape == (2, 1, 8, 8)


def test_the_runtime_hands_the_variance_on(sigma):
    *_, expected = sample_steps(sigma, scheduler_for(sigma, "ddpm"), REQUEST)
    runtime = prepare_runtime(sigma)
    *_, ours = sample_steps(runtime, scheduler_for(runtime, "ddpm"), REQUEST)
    torch.testing.assert_close(ours.latents, expected.latents, rtol=1e-2, atol=1e-2)


def test_guidance_leaves_the_variance_alone():
    both = torch.randn(4, 6, 2, 2)
    joined = guided(both, 3, 2.0)
    assert torch.equal(joined[:, 3:], both[:2, 3:])
    torch.testing.assert_close(joined[:, :3], 2 * both[:2, :3] - both[2:, :3])
    assert torch.equal(guided(both[:, :3], 3, 1.0), guided(both, 3, 1.0)[:, :3])


def test_a_variance_that_no_one_predicts_is_refused(dit):
    scheduler = DDPMScheduler(variance_type="learned_range")
    with pytest.raises(ConfigError, match="predicts 1 channels for images of 1"):
        sample_steps(dit, scheduler, REQUEST)
