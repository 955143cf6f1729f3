"""How each preset is calibrated by default."""

from __future__ import annotations

from dataclasses import replace

from dpqlab.calibration.config import (
    CalibrationConfig,
    EStepSchedule,
    LatentConfig,
    Objective,
    RevivalSchedule,
)
from dpqlab.calibration.estep import EStepConfig
from dpqlab.core.assignment import AssignmentConfig

PAPER = CalibrationConfig(
    objective=Objective(output=0.0, features=0.0, ddpm=1.0),
    e_step=EStepSchedule(
        every=500,
        until=0.6,
        batches=4,
        settings=EStepConfig(assignment=AssignmentConfig(candidates=0)),
    ),
    revival=RevivalSchedule(every=500, until=0.6),
)
"""EM calibration as in arXiv 2411.12306: the E-step chooses codes that reconstruct what layers put
out, the M-step trains codewords by the diffusion loss, dead codewords start again just before an
E-step. Rate and intervals are ours: the paper's 1e-4 is for 8 hours, and it tells no interval."""

DISTILLED = CalibrationConfig()
"""Codes stay; codewords, row scales and biases learn from the teacher."""

BEST = CalibrationConfig(learning_rate=0.01, latent=LatentConfig(learning_rate=0.03))
"""Codes and codewords move together, and learn from the teacher."""


def calibration_for(preset: str, *, steps: int | None = None) -> CalibrationConfig:
    """Return the calibration of a preset by its name, whatever plan it stands for.

    ``vq`` and ``dpq`` presets are calibrated as the paper does it, ``best`` presets as we found
    best, others with codes fixed.

    Examples
    --------
    >>> calibration_for("dpq-1bit").objective.ddpm
    1.0
    >>> calibration_for("best-1bit", steps=100).latent.learning_rate
    0.03
    """
    family = preset.partition("-")[0]
    config = {"vq": PAPER, "dpq": PAPER, "best": BEST}.get(family, DISTILLED)
    return config if steps is None else lasting(config, steps)


def lasting(config: CalibrationConfig, steps: int) -> CalibrationConfig:
    """Return a calibration of another length, with as many E-steps and revivals."""

    def scaled(every: int) -> int:
        return max(1, every * steps // config.steps)

    e_step, revival = config.e_step, config.revival
    return replace(
        config,
        steps=steps,
        e_step=None if e_step is None else replace(e_step, every=scaled(e_step.every)),
        revival=None if revival is None else replace(revival, every=scaled(revival.every)),
    )
