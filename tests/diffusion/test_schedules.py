"""Schedulers by name."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from dpqlab.diffusion import SampleRequest, load_pipeline, prepare_runtime, sample_steps
from dpqlab.diffusion.pipeline import PixelDiTPipeline
from dpqlab.diffusion.schedules import (
    PREDICTIONS,
    SCHEDULERS,
    known_prediction,
    make_scheduler,
    prediction_of,
    scheduler_for,
)
from dpqlab.errors import ConfigError
from dpqlab.nn.embedder import untie_embedders_
from tests.tiny import tiny_dit

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
    if name == "ddpm" and steps == 1:
        pytest.skip("of one even step from 999 to 0, the DiT paper's code takes the latter")
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


def test_a_model_no_one_has_spoken_of_predicts_the_noise(dit):
    assert known_prediction(tiny_dit()) is None
    assert prediction_of(scheduler_for(tiny_dit())) == "epsilon"


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_what_a_model_predicts_is_known_of_all_that_is_made_of_it(prediction, name, tmp_path):
    scheduler: Any = make_scheduler(name, prediction=prediction)
    model: Any = tiny_dit()
    untie_embedders_(model)
    PixelDiTPipeline(model, scheduler).save_pretrained(tmp_path)
    loaded = load_pipeline(tmp_path).transformer
    for made in (model, loaded, copy.deepcopy(loaded), prepare_runtime(loaded)):
        assert known_prediction(made) == prediction
        assert prediction_of(scheduler_for(made, name)) == prediction


def test_a_scheduler_that_takes_the_output_for_something_else_is_refused():
    model: Any = tiny_dit()
    PixelDiTPipeline(model, make_scheduler(prediction="v_prediction"))
    request = SampleRequest(labels=(0,), steps=1)
    with pytest.raises(ConfigError, match=r"'v_prediction', and the scheduler takes it for 'eps"):
        sample_steps(model, make_scheduler(), request)
    assert len(list(sample_steps(model, scheduler_for(model), request))) == 1
