"""Settings and the course of the learning rate."""

from __future__ import annotations

import math

import pytest

from dpqlab.calibration import CalibrationConfig, warmup_cosine
from dpqlab.errors import ConfigError


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, 0) for name in ("steps", "batch", "holdout", "every")),
        ("warmup", -1),
        ("seed", -1),
        *(("learning_rate", value) for value in (0.0, -1.0, math.nan, math.inf)),
        *(("feature_weight", value) for value in (-0.1, math.nan, math.inf)),
        *(("label_drop", value) for value in (-0.1, 1.1, math.nan)),
    ],
)
def test_impossible_settings_are_refused(name, value):
    with pytest.raises(ConfigError, match=f"{name} is {value}: expected"):
        CalibrationConfig(**{name: value})


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
