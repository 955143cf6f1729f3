"""Noise schedules and samplers, by name, with the settings the bundled models were trained for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from dpqlab.diffusion.learned_variance import predicts_variance
from dpqlab.errors import ConfigError

if TYPE_CHECKING:
    from diffusers import SchedulerMixin

TRAINING_NOISE: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_schedule": "linear",
    "beta_start": 1e-4,
    "beta_end": 0.02,
}
"""DDPM's linear schedule (Ho et al., arXiv 2006.11239, section 4)."""

SCHEDULERS = ("ddim", "dpm", "ddpm")
PREDICTIONS = ("epsilon", "v_prediction")
"""What a model may predict, as diffusers names it: the noise, or the velocity
sqrt(alpha_bar) noise - sqrt(1 - alpha_bar) image (Salimans & Ho, arXiv 2202.00512)."""
_NOTE = "dpqlab_predicts"


def make_scheduler(
    name: str = "ddim",
    *,
    prediction: str = "epsilon",
    learned_variance: bool = False,
    clip: bool = True,
) -> SchedulerMixin:
    """Build a diffusers scheduler for a bundled pixel model, or for one that was trained likewise.

    Parameters
    ----------
    name
        ``"ddim"`` (Song et al., arXiv 2010.02502; deterministic, eta 0), ``"dpm"`` (DPM-Solver++
        2M, arXiv 2211.01095) or ``"ddpm"`` (Ho et al., arXiv 2006.11239; ancestral, from two steps
        on; the DiT paper takes 250).
    prediction
        What the model predicts, one of ``PREDICTIONS``.
    learned_variance
        Whether it predicts a variance too (:mod:`dpqlab.diffusion.learned_variance`); "ddpm" uses
        it, and the variance of the posterior otherwise.
    clip
        Whether predicted images are clipped to [-1, 1] at each step: not for latents of a VAE.

    Raises
    ------
    ConfigError
        For another name or prediction.

    Notes
    -----
    Steps are spaced "trailing": the first one starts at t = 999, where training ended, so that pure
    noise is what the model has learned to expect (arXiv 2305.08891). Those of "ddpm" are spaced
    evenly from 999 to 0, both included, as the DiT paper's code does.
    """
    from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler

    if prediction not in PREDICTIONS:
        raise ConfigError(
            f"unknown prediction {prediction!r}: expected one of {', '.join(PREDICTIONS)}"
        )
    noise: dict[str, Any] = TRAINING_NOISE | {"prediction_type": prediction}
    if name == "ddim":
        return DDIMScheduler(**noise, clip_sample=clip, timestep_spacing="trailing")
    if name == "ddpm":
        variance = "learned_range" if learned_variance else "fixed_small"
        return DDPMScheduler(
            **noise, clip_sample=clip, timestep_spacing="linspace", variance_type=variance
        )
    if name == "dpm":
        # thresholding with ratio 1 and a maximum of 1 is DDIM's clip_sample under another name
        return DPMSolverMultistepScheduler(
            **noise,
            algorithm_type="dpmsolver++",
            timestep_spacing="trailing",
            thresholding=clip,
            dynamic_thresholding_ratio=1.0,
            sample_max_value=1.0,
        )
    raise ConfigError(f"unknown scheduler {name!r}: expected one of {', '.join(SCHEDULERS)}")


def scheduler_for(model: Any, name: str = "ddim") -> SchedulerMixin:
    """Build the named scheduler for what ``model`` predicts: the noise, if nobody has said.

    Images of another number of channels than 1 or 3 are taken for latents of a VAE, not clipped.
    """
    return make_scheduler(
        name,
        prediction=known_prediction(model) or PREDICTIONS[0],
        learned_variance=predicts_variance(model),
        clip=model.config.in_channels in (1, 3),
    )


def remember_prediction(model: Any, scheduler: SchedulerMixin) -> None:
    """Note on a model what it predicts, as the scheduler that it came with says; the first stays.

    diffusers keeps this with the scheduler alone, which a study of the weights does not have.
    """
    if known_prediction(model) is None:
        setattr(model, _NOTE, prediction_of(scheduler))


def pass_on_prediction(model: Any, made: Any) -> None:
    """Note on what was made of a model the same as on the model."""
    if (known := known_prediction(model)) is not None:
        setattr(made, _NOTE, known)


def known_prediction(model: Any) -> str | None:
    """Return what a model predicts, None if it was never in a pipeline."""
    return getattr(model, _NOTE, None)


def check_prediction(model: Any, scheduler: SchedulerMixin) -> None:
    """Refuse a scheduler that takes a model's output for something else.

    Raises
    ------
    ConfigError
        If the two are known to differ; the images would be noise.
    """
    known, taken = known_prediction(model), prediction_of(scheduler)
    if known is not None and known != taken:
        raise ConfigError(
            f"the model predicts {known!r}, and the scheduler takes it for {taken!r}: expected "
            "dpqlab.diffusion.scheduler_for(model)"
        )


def prediction_of(scheduler: SchedulerMixin) -> str:
    """Return what a model that comes with ``scheduler`` predicts, as diffusers names it."""
    config: Any = scheduler.config  # pyright: ignore[reportAttributeAccessIssue]
    return config.get("prediction_type", "epsilon")


def velocity(noise: Tensor, noisy: Tensor, alpha: Tensor) -> Tensor:
    """Return sqrt(alpha) noise - sqrt(1 - alpha) image, of the noise in a noisy image.

    Parameters
    ----------
    noise, noisy
        (N, C, H, W).
    alpha
        Cumulative product of the noise schedule, broadcast against them.
    """
    return (noise - (1 - alpha).sqrt() * noisy) / alpha.sqrt()


def clean_image(predicted: Tensor, noisy: Tensor, alpha: Tensor, prediction: str) -> Tensor:
    """Return the image that a prediction means, not clipped; arguments as in :func:`velocity`."""
    if prediction == "v_prediction":
        return alpha.sqrt() * noisy - (1 - alpha).sqrt() * predicted
    return (noisy - (1 - alpha).sqrt() * predicted) / alpha.sqrt()
