"""Noise schedules and samplers, by name, with the settings the bundled models were trained for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dpqlab.errors import ConfigError

if TYPE_CHECKING:
    from diffusers import SchedulerMixin

TRAINING_NOISE: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_schedule": "linear",
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "prediction_type": "epsilon",
}
"""DDPM's linear schedule (Ho et al., arXiv 2006.11239, section 4)."""

SCHEDULERS = ("ddim", "dpm")


def make_scheduler(name: str = "ddim") -> SchedulerMixin:
    """Build a diffusers scheduler for a bundled pixel model.

    Parameters
    ----------
    name
        ``"ddim"`` (Song et al., arXiv 2010.02502; deterministic, eta 0, predicted images clipped to
        [-1, 1] at each step) or ``"dpm"`` (DPM-Solver++ 2M, arXiv 2211.01095).

    Raises
    ------
    ConfigError
        For another name.

    Notes
    -----
    Steps are spaced "trailing": the first one starts at t = 999, where training ended, so that pure
    noise is what the model has learned to expect (arXiv 2305.08891).
    """
    from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

    if name == "ddim":
        return DDIMScheduler(**TRAINING_NOISE, clip_sample=True, timestep_spacing="trailing")
    if name == "dpm":
        # thresholding with ratio 1 and a maximum of 1 is DDIM's clip_sample under another name
        return DPMSolverMultistepScheduler(
            **TRAINING_NOISE,
            algorithm_type="dpmsolver++",
            timestep_spacing="trailing",
            thresholding=True,
            dynamic_thresholding_ratio=1.0,
            sample_max_value=1.0,
        )
    raise ConfigError(f"unknown scheduler {name!r}: expected one of {', '.join(SCHEDULERS)}")
