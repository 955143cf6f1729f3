"""The step generator against independent loops, and what one image may depend on."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from dpqlab.diffusion.sampling import (
    SampleRequest,
    SampleStep,
    guided_prediction,
    initial_noise,
    sample_images,
    sample_steps,
    to_uint8,
)
from dpqlab.diffusion.schedules import TRAINING_NOISE, make_scheduler
from tests.tiny import forwards_of, tiny_dit

# in diffusers, which hands a tensor to numpy
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

REQUEST = SampleRequest(labels=(3, 0, 9, 3), seed=5, steps=5, guidance=2.5)
SCHEDULERS = ("ddim", "dpm")


def assert_same_pictures(a: Tensor, b: Tensor) -> None:
    """Equal but for a pixel or two at the edge of a level: sums depend on the batch they are in."""
    difference = (a.int() - b.int()).abs()
    assert difference.max() <= 1
    assert difference.float().mean() <= 0.01


def last_latents(model: Any, scheduler: Any, request: SampleRequest) -> Tensor:
    return list(sample_steps(model, scheduler, request))[-1].latents


def guided_by_hand(model: Any, x: Tensor, t: int, request: SampleRequest) -> Tensor:
    """Guided noise, branch by branch."""

    def branch(labels: tuple[int, ...]) -> Tensor:
        times = torch.full((len(labels),), t)
        return model(x, timestep=times, class_labels=torch.tensor(labels)).sample

    without = branch((10,) * len(request.labels))
    return without + request.guidance * (branch(request.labels) - without)


def plain_loop(model: Any, scheduler: Any, request: SampleRequest, **options: Any) -> Tensor:
    """What a user of diffusers would write."""
    x = initial_noise((1, 8, 8), request.seed, range(len(request.labels)))
    scheduler.set_timesteps(request.steps)
    with torch.no_grad():
        for t in scheduler.timesteps:
            noise = guided_by_hand(model, x, int(t), request)
            x = scheduler.step(noise, t, x, **options).prev_sample
    return x


def test_ddim_is_diffusers_ddim_with_clipped_images(dit):
    theirs = diffusers.DDIMScheduler(
        num_train_timesteps=1000,
        beta_schedule="linear",
        beta_start=1e-4,
        beta_end=0.02,
        clip_sample=True,
        timestep_spacing="trailing",
    )
    ours = last_latents(dit, make_scheduler("ddim"), REQUEST)
    expected = plain_loop(dit, theirs, REQUEST, use_clipped_model_output=True)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)
    # the clipping matters: without it the same loop ends elsewhere
    unclipped = plain_loop(dit, theirs, REQUEST)
    assert (ours - unclipped).abs().max() > 0.1


@torch.no_grad()
def test_ddim_written_out_by_hand(dit):
    """Song et al., arXiv 2010.02502, equation 12 with eta = 0 on a clipped image, in float64."""
    alphas = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), dim=0)
    x = initial_noise((1, 8, 8), REQUEST.seed, range(4))
    times = [999 - 200 * i for i in range(5)]
    records = list(sample_steps(dit, make_scheduler("ddim"), REQUEST))
    assert [record.timestep for record in records] == times
    for t, following, record in zip(times, [*times[1:], None], records, strict=True):
        now = alphas[t]
        then = torch.tensor(1.0) if following is None else alphas[following]
        noise = guided_by_hand(dit, x, t, REQUEST).double()
        clean = ((x - (1 - now).sqrt() * noise) / now.sqrt()).clamp(-1, 1)
        noise = (x - now.sqrt() * clean) / (1 - now).sqrt()
        x = (then.sqrt() * clean + (1 - then).sqrt() * noise).float()
        torch.testing.assert_close(record.predicted_clean, clean.float(), rtol=1e-4, atol=2e-4)
        torch.testing.assert_close(record.latents, x, rtol=1e-4, atol=2e-4)


def test_dpm_is_diffusers_dpm_solver_plus_plus(dit):
    theirs = diffusers.DPMSolverMultistepScheduler(
        num_train_timesteps=1000,
        beta_schedule="linear",
        beta_start=1e-4,
        beta_end=0.02,
        algorithm_type="dpmsolver++",
        solver_order=2,
        timestep_spacing="trailing",
        thresholding=True,
        dynamic_thresholding_ratio=1.0,
        sample_max_value=1.0,
    )
    ours = last_latents(dit, make_scheduler("dpm"), REQUEST)
    torch.testing.assert_close(ours, plain_loop(dit, theirs, REQUEST), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("guidance", [1.0, 1.5])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_an_image_depends_on_its_seed_and_index_alone(dit, name, guidance):
    scheduler = make_scheduler(name)
    request = SampleRequest(labels=(3, 0, 9, 3, 7), seed=2, steps=5, guidance=guidance)
    together = last_latents(dit, scheduler, request)
    alone = [
        last_latents(dit, scheduler, replace(request, labels=(label,), first_index=i))
        for i, label in enumerate(request.labels)
    ]
    torch.testing.assert_close(torch.cat(alone), together, rtol=1e-3, atol=1e-3)
    later = replace(request, labels=request.labels[2:], first_index=2)
    assert_same_pictures(sample_images(dit, scheduler, later), to_uint8(together)[2:])
    order = [4, 2, 0]
    noise = initial_noise((1, 8, 8), 2, order)
    shuffled = replace(request, labels=tuple(request.labels[i] for i in order))
    *_, last = sample_steps(dit, scheduler, shuffled, latents=noise)
    assert_same_pictures(to_uint8(last.latents), to_uint8(together)[order])
    assert not torch.equal(together[0], together[3])


def test_other_seeds_and_labels_give_other_images(dit):
    scheduler = make_scheduler()
    changed = [
        REQUEST,
        replace(REQUEST, seed=6),
        replace(REQUEST, first_index=1),
        replace(REQUEST, labels=(4, 1, 8, 2)),
        replace(REQUEST, guidance=1.0),
    ]
    images = [sample_images(dit, scheduler, request).flatten() for request in changed]
    assert len({tuple(image.tolist()) for image in images}) == len(changed)
    again = sample_images(dit, scheduler, REQUEST)
    assert torch.equal(again.flatten(), images[0])
    assert again.shape == (4, 1, 8, 8)
    assert again.dtype == torch.uint8


def test_every_step_is_told(dit):
    steps = list(sample_steps(dit, make_scheduler(), REQUEST))
    assert [step.index for step in steps] == list(range(5))
    assert {step.total for step in steps} == {5}
    assert steps[0].timestep == 999  # trailing: where training ended
    assert all(a.timestep > b.timestep for a, b in itertools.pairwise(steps))
    for step in steps:
        assert step.latents.shape == step.predicted_clean.shape == (4, 1, 8, 8)
        assert step.predicted_clean.abs().max() <= 1
        assert not step.latents.requires_grad
    # with nothing left to remove, DDIM's image is the model's prediction
    torch.testing.assert_close(steps[-1].latents, steps[-1].predicted_clean, rtol=1e-4, atol=1e-4)


def test_sampling_leaves_the_callers_gradients_on(dit):
    for _ in sample_steps(dit, make_scheduler(), replace(REQUEST, steps=2)):
        assert torch.is_grad_enabled()
    assert torch.is_grad_enabled()


def test_guidance_one_skips_the_second_branch(dit):
    with forwards_of(dit) as sizes:
        last_latents(dit, make_scheduler(), replace(REQUEST, guidance=1.0))
        last_latents(dit, make_scheduler(), replace(REQUEST, guidance=0.0))
    assert sizes == [4] * 5 + [8] * 5


@torch.no_grad()
def test_the_null_class_comes_from_the_models_config():
    model = tiny_dit(num_embeds_ada_norm=3)
    seen: list[Tensor] = []
    embedding = model.transformer_blocks[0].norm1.emb.class_embedder
    embedding.register_forward_hook(lambda module, args, output: seen.append(args[0]))
    x, labels = torch.randn(2, 1, 8, 8), torch.tensor([0, 2])
    guided_prediction(model, x, torch.tensor(500), labels, 1.5)
    assert seen[0].tolist() == [0, 2, 3, 3]


@torch.no_grad()
def test_guidance_between_the_branches(dit):
    x, labels, t = torch.randn(2, 1, 8, 8), torch.tensor([4, 5]), torch.tensor(300)
    null = torch.tensor([10, 10])
    without, half, with_class = (guided_prediction(dit, x, t, labels, g) for g in (0.0, 0.5, 1.0))
    torch.testing.assert_close(
        without, guided_prediction(dit, x, t, null, 1.0), rtol=1e-5, atol=1e-5
    )
    torch.testing.assert_close(half, (without + with_class) / 2, rtol=1e-4, atol=1e-5)
    # "no class" is a label like any other, and guiding it changes nothing
    torch.testing.assert_close(
        guided_prediction(dit, x, t, null, 7.0), without, rtol=1e-4, atol=1e-4
    )
    assert (without - with_class).abs().max() > 0.01


def test_a_learned_variance_is_dropped():
    model = tiny_dit(out_channels=2)
    with torch.no_grad():
        x, labels, t = torch.randn(2, 1, 8, 8), torch.tensor([1, 2]), torch.tensor(9)
        full = model(x, timestep=t.expand(2), class_labels=labels).sample
        assert full.shape == (2, 2, 8, 8)
        assert torch.equal(guided_prediction(model, x, t, labels, 1.0), full[:, :1])
    assert sample_images(model, make_scheduler(), replace(REQUEST, steps=2)).shape == (4, 1, 8, 8)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_latents_sent_in_replace_the_current_ones(dit, guidance):
    request = replace(REQUEST, guidance=guidance)
    other = list(sample_steps(dit, make_scheduler(), replace(request, seed=8)))
    steps = sample_steps(dit, make_scheduler(), request)
    next(steps)
    for wanted in other[1:]:
        sent = other[wanted.index - 1].latents
        assert torch.equal(steps.send(sent).latents, wanted.latents)


def test_given_latents_are_where_it_starts(dit):
    noise = initial_noise((1, 8, 8), REQUEST.seed, range(4))
    given = sample_steps(dit, make_scheduler(), replace(REQUEST, seed=99), latents=noise.double())
    for ours, theirs in zip(given, sample_steps(dit, make_scheduler(), REQUEST), strict=True):
        assert torch.equal(ours.latents, theirs.latents)


def test_closing_stops_the_work(dit):
    with forwards_of(dit) as sizes:
        steps = sample_steps(dit, make_scheduler(), REQUEST)
        assert sizes == []
        next(steps)
        next(steps)
        steps.close()
        assert list(steps) == []
    assert sizes == [8, 8]


def ancestral(name: str) -> Any:
    return getattr(diffusers, name)(**TRAINING_NOISE, timestep_spacing="trailing")


@pytest.mark.parametrize("name", ["DDPMScheduler", "EulerDiscreteScheduler"])
def test_other_schedulers_keep_images_independent_of_their_batch(dit, name):
    request = replace(REQUEST, steps=4)
    together = sample_images(dit, ancestral(name), request)
    for i, label in enumerate(request.labels):
        alone = replace(request, labels=(label,), first_index=i)
        assert_same_pictures(sample_images(dit, ancestral(name), alone)[0], together[i])


class Spy(diffusers.DDPMScheduler):
    """Tells what noise its steps add, by repeating each with a model output and image of zero."""

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, generator: Any) -> Any:
        states = [g.get_state() for g in generator]
        zero = torch.zeros_like(sample)
        self.added = super().step(zero, timestep, zero, generator=generator).prev_sample
        for g, state in zip(generator, states, strict=True):
            g.set_state(state)
        return super().step(model_output, timestep, sample, generator=generator)


def test_ancestral_noise_does_not_repeat_the_starting_noise(dit):
    request = SampleRequest(labels=(1,) * 16, steps=3)
    spy = Spy(**TRAINING_NOISE, timestep_spacing="trailing")
    start = initial_noise((1, 8, 8), 0, range(16)).flatten()
    added = []
    for _ in sample_steps(dit, spy, request):
        added.append(spy.added.flatten())
    for noise in added[:2]:
        assert noise.std() > 0.01
        correlation = torch.corrcoef(torch.stack([start, noise]))[0, 1]
        assert abs(correlation) < 5 / len(start) ** 0.5
    assert abs(torch.corrcoef(torch.stack(added[:2]))[0, 1]) < 5 / len(start) ** 0.5


def test_a_bfloat16_model_is_sampled_in_float32():
    model = tiny_dit().to(torch.bfloat16)
    steps: list[SampleStep] = list(sample_steps(model, make_scheduler(), REQUEST))
    assert {step.latents.dtype for step in steps} == {torch.float32}
    exact = last_latents(model.float(), make_scheduler(), REQUEST)
    assert (steps[-1].latents - exact).abs().mean() < 0.05
