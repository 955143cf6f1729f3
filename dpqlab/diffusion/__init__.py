"""Sampling: schedules, the step generator, the pipeline, the runtime, the bundled models.

diffusers is imported when a scheduler or a pipeline is first made, not before.
"""

from dpqlab.diffusion.models import ModelEntry, bundled, load_pipeline, resolve, weight_bytes
from dpqlab.diffusion.runtime import DiTRuntime, RuntimeConfig, prepare_runtime
from dpqlab.diffusion.sampling import (
    SampleRequest,
    SampleStep,
    initial_noise,
    sample_images,
    sample_steps,
    to_uint8,
)
from dpqlab.diffusion.schedules import make_scheduler, scheduler_for

__all__ = [
    "DiTRuntime",
    "ModelEntry",
    "RuntimeConfig",
    "SampleRequest",
    "SampleStep",
    "bundled",
    "initial_noise",
    "load_pipeline",
    "make_scheduler",
    "prepare_runtime",
    "resolve",
    "sample_images",
    "sample_steps",
    "scheduler_for",
    "to_uint8",
    "weight_bytes",
]
