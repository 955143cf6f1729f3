"""Schedulers by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dpqlab.diffusion.schedules import SCHEDULERS, make_scheduler
from dpqlab.errors import ConfigError

# in diffusers, which hands a tensor to numpy
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_noise_is_ddpms_linear_schedule(name):
    scheduler: Any = make_scheduler(name)
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    expected = torch.cumprod(1 - betas, dim=0).float()
    torch.testing.assert_close(scheduler.alphas_cumprod, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("steps", [1, 7, 20, 50])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_sampling_starts_where_training_ended(name, steps):
    scheduler: Any = make_scheduler(name)
    scheduler.set_timesteps(steps)
    assert len(scheduler.timesteps) == steps
    assert scheduler.timesteps[0] == 999
    assert scheduler.init_noise_sigma == 1


def test_each_call_makes_a_scheduler_of_its_own():
    assert make_scheduler() is not make_scheduler()


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match="unknown scheduler 'euler': expected one of ddim, dpm"):
        make_scheduler("euler")
