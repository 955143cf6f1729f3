"""How presets are calibrated, and the rows of the ablation."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dpqlab.calibration import calibration_for
from dpqlab.calibration.ablation import ablation_row, ablation_rows
from dpqlab.calibration.presets import BEST, DISTILLED, PAPER, lasting
from dpqlab.errors import ConfigError
from dpqlab.nn import presets


def test_every_preset_has_a_calibration():
    for name in presets():
        config = calibration_for(name, steps=77)
        assert config.steps == 77
    assert calibration_for("dpq-1bit") == calibration_for("vq-2bit") == PAPER
    assert calibration_for("best-1.25bit") == BEST
    assert calibration_for("something else") == DISTILLED


def test_a_longer_run_has_as_many_moves():
    long = lasting(PAPER, 4 * PAPER.steps)
    for config in (PAPER, long):
        assert config.e_step is not None
        assert config.revival is not None
        starts = range(0, int(config.e_step.until * config.steps) + 1, config.e_step.every)
        assert len(starts) == 4
        assert config.revival.every == config.e_step.every, "what is revived is assigned at once"
    assert lasting(BEST, 10) == replace(BEST, steps=10)
    assert lasting(PAPER, 1).e_step.every == 1  # pyright: ignore[reportOptionalMemberAccess]


def test_ablation_rows_build_on_each_other():
    rows = ablation_rows(123)
    for name, row in rows.items():
        assert row.name == name
        assert row.base == "" or row.base in rows
        assert row.change
        assert row.config is None or row.config.steps == 123
        if row.base:  # something differs, or there would be nothing to compare
            base = rows[row.base]
            assert (row.plan, row.config) != (base.plan, base.config)
    heads = [name for name, row in rows.items() if not row.base]
    assert heads == ["dpq k-means"]


def test_a_row_by_name():
    assert ablation_row("best-1bit", 5).config == replace(BEST, steps=5)
    with pytest.raises(ConfigError, match="no row is called 'nothing': expected one of dpq"):
        ablation_row("nothing")
