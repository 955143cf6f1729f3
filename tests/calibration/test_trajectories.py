"""What a teacher passes through while it samples."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler

from dpqlab.calibration import Objective, calibrate, teacher_trajectories, trajectories
from dpqlab.diffusion.sampling import SampleRequest, initial_noise, sample_steps
from dpqlab.diffusion.schedules import make_scheduler
from dpqlab.errors import ConfigError
from tests.calibration.states import held_out_loss

IMAGES, STEPS = 14, 5


@pytest.fixture(scope="module")
def scheduler():
    return make_scheduler()


@pytest.fixture(scope="module")
def passed(teacher, scheduler):
    return teacher_trajectories(teacher, scheduler, images=IMAGES, seed=7, steps=STEPS)


def test_a_trajectory_follows_the_other(passed, scheduler):
    assert passed.noisy.shape == (IMAGES * STEPS, 1, 8, 8)
    assert passed.noisy.dtype == torch.float16
    assert torch.equal(passed.alphas, scheduler.alphas_cumprod)
    apart = passed.noisy.view(IMAGES, STEPS, 1, 8, 8)
    assert torch.equal(apart[:, 0], initial_noise((1, 8, 8), 7, range(IMAGES)).half())
    labels = passed.labels.view(IMAGES, STEPS)
    assert torch.equal(labels, (torch.arange(IMAGES) % 10)[:, None].expand(-1, STEPS))
    times = passed.timesteps.view(IMAGES, STEPS)
    assert torch.equal(times, times[:1].expand(IMAGES, -1))
    assert times[0, 0] == 999
    assert times[0].diff().lt(0).all()


def test_the_images_are_those_of_sampling(passed, teacher, scheduler):
    request = SampleRequest(labels=(3,), seed=7, first_index=3, steps=STEPS, guidance=1.5)
    steps = list(sample_steps(teacher, scheduler, request))
    mine = passed.noisy[3 * STEPS : 4 * STEPS].float()
    before = torch.cat([step.latents for step in steps[:-1]])
    torch.testing.assert_close(mine[1:], before, rtol=1e-2, atol=1e-2)
    assert passed.timesteps[:STEPS].tolist() == [step.timestep for step in steps]


def test_what_is_held_out_belongs_to_trajectories_never_trained_on(passed):
    training, judged = passed.split(2 * STEPS + 2)
    assert torch.equal(judged.labels[-2 * STEPS :].unique(), torch.tensor([2, 3]))
    starts = judged.timesteps.eq(999).nonzero()[:, 0].tolist()
    assert starts == [2, 2 + STEPS]  # the boundary cuts one trajectory
    assert training.timesteps.eq(999).sum() == IMAGES - 2


@pytest.mark.parametrize("name", ["ddim", "dpm", "ancestral"])
def test_trajectories_do_not_depend_on_the_batch(teacher, monkeypatch, name):
    if name == "ancestral":
        ddim: Any = make_scheduler()
        scheduler: Any = DDPMScheduler.from_config(ddim.config)
    else:
        scheduler = make_scheduler(name)
    whole = teacher_trajectories(teacher, scheduler, images=5, seed=1, steps=3)
    again = teacher_trajectories(teacher, scheduler, images=5, seed=1, steps=3)
    assert torch.equal(whole.noisy, again.noisy)
    monkeypatch.setattr(trajectories, "AT_ONCE", 2)
    apart = teacher_trajectories(teacher, scheduler, images=5, seed=1, steps=3)
    torch.testing.assert_close(apart.noisy, whole.noisy, rtol=1e-2, atol=1e-2)
    assert torch.equal(apart.labels, whole.labels)
    assert torch.equal(apart.timesteps, whole.timesteps)
    other = teacher_trajectories(teacher, scheduler, images=5, seed=2, steps=3)
    assert not torch.equal(other.noisy, whole.noisy)
    unguided = teacher_trajectories(teacher, scheduler, images=5, seed=1, steps=3, guidance=1.0)
    assert torch.equal(unguided.noisy[::3], whole.noisy[::3])
    assert not torch.equal(unguided.noisy, whole.noisy)


def test_no_trajectories_are_refused(teacher, scheduler):
    with pytest.raises(ConfigError, match="images is 0"):
        teacher_trajectories(teacher, scheduler, images=0)


def test_a_student_is_calibrated_without_data(passed, student, teacher, config):
    settings = replace(config, steps=15, holdout=20)
    records = list(calibrate(student, teacher, passed, settings))
    assert records[0].total > 1.5 * records[-1].total
    best = min(record.total for record in records)
    assert held_out_loss(student, teacher, passed, settings) == best


def test_trajectories_hold_no_noise_to_predict(passed, student, teacher, config):
    settings = replace(config, holdout=20, objective=Objective(ddpm=1.0))
    with pytest.raises(ConfigError, match="DDPM loss needs real images"):
        list(calibrate(student, teacher, passed, settings))
