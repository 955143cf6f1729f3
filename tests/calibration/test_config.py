"""Settings and the course of the learning rate."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest

from dpqlab.calibration import (
    CalibrationConfig,
    EStepConfig,
    EStepSchedule,
    LatentConfig,
    Objective,
    RevivalSchedule,
    warmup_cosine,
)
from dpqlab.errors import ConfigError

NEVER = (math.nan, math.inf)


def refused(make: Callable[..., Any], *values: tuple[str, float]) -> list[Any]:
    return [(make, name, value) for name, value in values]


@pytest.mark.parametrize(
    ("make", "name", "value"),
    [
        *refused(CalibrationConfig, *((n, 0) for n in ("steps", "batch", "holdout", "every"))),
        *refused(CalibrationConfig, ("warmup", -1), ("seed", -1)),
        *refused(CalibrationConfig, *(("learning_rate", v) for v in (0.0, -1.0, *NEVER))),
        *refused(CalibrationConfig, *(("label_drop", v) for v in (-0.1, 1.1, math.nan))),
        *refused(Objective, *((n, -0.1) for n in ("output", "features", "ddpm", "guidance"))),
        *refused(Objective, *((n, v) for n in ("output", "features", "ddpm") for v in NEVER)),
        *refused(Objective, *((n, v) for n in ("guidance", "timestep_power") for v in NEVER)),
        *refused(LatentConfig, *(("learning_rate", v) for v in (0.0, -1.0, *NEVER))),
        *refused(EStepSchedule, ("every", 0), ("batches", 0)),
        *refused(RevivalSchedule, ("every", 0)),
        *(
            case
            for make in (EStepSchedule, RevivalSchedule)
            for case in refused(make, *(("until", v) for v in (-0.1, 1.1, math.nan)))
        ),
    ],
)
def test_impossible_settings_are_refused(make, name, value):
    with pytest.raises(ConfigError, match=f"{name} is {value}: expected"):
        make(**{name: value})


def test_an_objective_asks_for_something():
    with pytest.raises(ConfigError, match="all 0: expected a loss"):
        Objective(output=0, features=0)
    assert not Objective(output=0, features=0, ddpm=1).distils
    assert Objective(output=0, ddpm=1).distils
    assert Objective(guidance=0.0, timestep_power=-2).distils


def test_settings_that_contradict_each_other_are_refused():
    with pytest.raises(ConfigError, match="latent and e_step both move the codes"):
        CalibrationConfig(latent=LatentConfig(), e_step=EStepSchedule())
    with pytest.raises(ConfigError, match=r"batch is 7: .* expected even"):
        CalibrationConfig(batch=7, objective=Objective(guidance=1.5))
    assert CalibrationConfig(batch=7).batch == 7


def test_settings_are_json_all_the_way_down():
    e_step = EStepSchedule(settings=EStepConfig(refresh="block"))
    config = CalibrationConfig(e_step=e_step, revival=RevivalSchedule())
    values = json.loads(json.dumps(config.to_dict()))
    assert values == config.to_dict()
    assert values["e_step"]["settings"]["refresh"] == "block"
    assert values["objective"]["features"] == 0.1
    assert values["latent"] is None


def test_warm_up_then_cosine_to_zero():
    rates = [warmup_cosine(2.0, i, warmup=10, done=i / 100) for i in range(101)]
    assert rates[0] == pytest.approx(0.2)
    assert rates[9] == pytest.approx(1 + math.cos(math.pi * 0.09))
    assert rates[50] == pytest.approx(1.0)
    assert rates[100] == pytest.approx(0.0, abs=1e-12)
    top = rates.index(max(rates))
    assert top in (9, 10)
    assert rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)


def test_no_warm_up_and_beyond_the_end():
    assert warmup_cosine(3.0, 0, warmup=0, done=0.0) == 3.0
    assert warmup_cosine(3.0, 9, warmup=0, done=1.5) == pytest.approx(0.0, abs=1e-12)
