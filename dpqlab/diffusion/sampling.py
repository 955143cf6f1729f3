"""Sampling as a generator: a record a step, so that previews, tracing and Stop need no callbacks.

Image ``i`` of a seed is the same picture whatever the batch it is drawn in: its noise comes from
generators of its own, seeded by (seed, i).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from dpqlab.diffusion.learned_variance import check_variance, guided, uses_variance
from dpqlab.diffusion.schedules import check_prediction, clean_image, prediction_of
from dpqlab.errors import ConfigError, ShapeError

if TYPE_CHECKING:
    from diffusers import SchedulerMixin

MAX_STEPS = 1000
MAX_SEED = 2**64 - 1
MAX_INDEX = 2**31 - 1


@runtime_checkable
class PreparedDenoiser(Protocol):
    """What samples like a diffusers DiT but is none: :class:`dpqlab.diffusion.DiTRuntime`.

    It has the transformer's ``config``, takes timesteps and labels on the CPU too, and wants to
    know in advance which will come.
    """

    config: Any

    def parameters(self) -> Iterator[Tensor]:
        """Yield tensors on its device, the first floating one in the dtype it computes in."""
        ...

    def expect(self, timesteps: Sequence[float], labels: Sequence[int]) -> None:
        """Take note of the timesteps, in their order, and of every label that will come."""
        ...

    def __call__(self, hidden_states: Tensor, timestep: Tensor, class_labels: Tensor) -> Any:
        """Return an object whose ``sample`` is the prediction."""
        ...


Denoiser = nn.Module | PreparedDenoiser


@dataclass(frozen=True, kw_only=True)
class SampleRequest:
    """What to draw.

    Parameters
    ----------
    labels
        Class of each image; their number is the number of images.
    seed, first_index
        Image ``j`` of the request starts from the noise of (seed, first_index + j). 0 to 2**64 - 1
        and 0 to 2**31 - 1.
    steps
        Sampling steps, 1 to 1000.
    guidance
        Classifier-free guidance scale (arXiv 2207.12598); 1 switches guidance off.
    """

    labels: tuple[int, ...]
    seed: int = 0
    first_index: int = 0
    steps: int = 50
    guidance: float = 1.5

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn."""
        if not self.labels:
            raise ConfigError("labels is empty: expected at least one class label")
        for label in self.labels:
            _check_whole("a label", label, 0, MAX_INDEX)
        _check_whole("seed", self.seed, 0, MAX_SEED)
        _check_whole("first_index", self.first_index, 0, MAX_INDEX)
        _check_whole("steps", self.steps, 1, MAX_STEPS)
        if not math.isfinite(self.guidance) or not 0 <= self.guidance <= 100:
            raise ConfigError(f"guidance is {self.guidance}: expected a number from 0 to 100")


def _check_whole(what: str, value: object, low: int, high: int) -> None:
    if not isinstance(value, int | np.integer) or isinstance(value, bool):
        raise ConfigError(f"{what} is {value!r}: expected a whole number")
    if not low <= value <= high:
        raise ConfigError(f"{what} is {value}: expected {low} to {high}")


@dataclass(frozen=True, kw_only=True)
class SampleStep:
    """The state after one step.

    ``latents`` is the noisy image batch (N, C, H, W), ``predicted_clean`` the image that the model
    expects at the end (N, C, H, W), both in [-1, 1] units; ``timestep`` is the one just left.
    """

    index: int
    total: int
    timestep: int
    latents: Tensor
    predicted_clean: Tensor


def image_generator(seed: int, index: int, stream: int = 0) -> torch.Generator:
    """Return the CPU generator of image ``index`` of ``seed``.

    Seed and index are hashed, not added: image 1 of seed 0 and image 0 of seed 1 have nothing in
    common. torch's CPU generator keeps 32 bits of a seed, so two given images share their noise by
    chance once in 2**32.

    Parameters
    ----------
    seed, index
        As in :class:`SampleRequest`.
    stream
        0 for the starting noise; another number for noise that must not repeat it.
    """
    # 32-bit words: a longer integer would spill over into the place of the next one
    words = [seed % 2**32, index, seed >> 32, stream]
    state = np.random.SeedSequence(words).generate_state(1, np.uint64)[0]
    return torch.Generator("cpu").manual_seed(int(state))


def initial_noise(
    shape: Sequence[int], seed: int, indices: Sequence[int], *, device: torch.device | str = "cpu"
) -> Tensor:
    """Draw the starting noise of some images.

    Parameters
    ----------
    shape
        Shape of one image, (C, H, W).

    Returns
    -------
    Tensor of shape (len(indices), C, H, W), float32; row j depends on ``seed`` and ``indices[j]``
    alone.
    """
    rows = [torch.randn(*shape, generator=image_generator(seed, i)) for i in indices]
    return torch.stack(rows).to(device)


def guided_prediction(
    transformer: Denoiser,
    latents: Tensor,
    timestep: Tensor,
    labels: Tensor,
    guidance: float,
    variance: bool = False,
) -> Tensor:
    """Predict the noise, or the velocity, with classifier-free guidance.

    Both branches go through the model in one batch. The null class comes from the model's own
    config (diffusers' DiTPipeline hard-codes ImageNet's 1000).

    Parameters
    ----------
    latents
        What the model gets to see (N, C, H, W); it is cast to the model's dtype.
    timestep, labels
        A scalar, and int64 (N,).
    guidance
        Scale; at 1 the unguided branch is not computed.
    variance
        Whether to keep the channels beyond the image's, a learned variance
        (:mod:`dpqlab.diffusion.learned_variance`).

    Returns
    -------
    Tensor of the shape and dtype of ``latents``; with its variance (N, 2C, H, W).
    """
    config: Any = transformer.config
    channels = latents.shape[1]

    def predict(x: Tensor, classes: Tensor) -> Tensor:
        times = timestep.expand(len(classes))
        out = transformer(x.to(compute_dtype(transformer)), timestep=times, class_labels=classes)
        return out.sample[:, : 2 * channels if variance else channels].to(latents.dtype)

    if guidance == 1:
        return predict(latents, labels)
    null = torch.full_like(labels, config.num_embeds_ada_norm)
    both = predict(torch.cat([latents, latents]), torch.cat([labels, null]))
    return guided(both, channels, guidance)


def compute_dtype(transformer: Denoiser) -> torch.dtype:
    """Return the dtype that a DiT's input layer works in, which its inputs must have."""
    return next(p.dtype for p in transformer.parameters() if p.is_floating_point())


def device_of_model(transformer: Denoiser) -> torch.device:
    """Return the device that a DiT computes on: where its weights are, or where they will be sent.

    With ``enable_model_cpu_offload`` and the like, weights wait elsewhere between two passes.
    """
    if isinstance(transformer, nn.Module):
        for module in transformer.modules():
            device = getattr(getattr(module, "_hf_hook", None), "execution_device", None)
            if device is not None:
                return torch.device(device)
    return next(transformer.parameters()).device


def step_options(scheduler: SchedulerMixin, request: SampleRequest) -> dict[str, Any]:
    """Return the arguments that a scheduler's ``step`` needs beyond the usual three.

    DDIM clips the predicted image to [-1, 1]; unless the noise is derived anew from the clipped
    image, the two disagree at the noisiest steps and the error grows with the number of steps:
    with 50 guided steps the bundled model's FCD is 9.1 one way and below 0.1 the other. Ancestral
    schedulers draw noise; generators of its own, other than the one of its starting noise, keep an
    image independent of its batch.
    """
    accepted = inspect.signature(scheduler.step).parameters  # pyright: ignore
    options: dict[str, Any] = {}
    if "use_clipped_model_output" in accepted:
        options["use_clipped_model_output"] = True
    elif "generator" in accepted:
        first = request.first_index
        options["generator"] = [
            image_generator(request.seed, first + i, stream=1) for i in range(len(request.labels))
        ]
    return options


def sample_steps(
    transformer: Denoiser,
    scheduler: SchedulerMixin,
    request: SampleRequest,
    *,
    latents: Tensor | None = None,
) -> Generator[SampleStep, Tensor | None, None]:
    """Draw images step by step.

    Parameters
    ----------
    transformer
        A diffusers DiT (or anything with its forward and config) predicting what the scheduler
        takes for it (the noise, or the velocity), or what
        :func:`dpqlab.diffusion.prepare_runtime` made of it.
    scheduler
        A diffusers scheduler; it is set to ``request.steps`` and holds state while this runs.
    latents
        Starting noise (N, C, H, W) instead of the request's own.

    Yields
    ------
    SampleStep
        One a step. Closing the generator stops the work; latents sent into it (``.send(x)``)
        replace the ones it goes on with.

    Raises
    ------
    ConfigError
        For a label that the model does not know, or a scheduler made for another kind of model.
    ShapeError
        If ``latents`` are not of the model's shape, one for each label.
    """
    check_prediction(transformer, scheduler)
    check_variance(transformer, scheduler)
    config: Any = transformer.config
    classes, side = config.num_embeds_ada_norm, config.sample_size
    if max(request.labels) > classes:
        raise ConfigError(
            f"labels are {request.labels}: expected 0 to {classes - 1}, or {classes} for no class"
        )
    shape = (config.in_channels, side, side)
    if latents is None:
        indices = range(request.first_index, request.first_index + len(request.labels))
        latents = initial_noise(shape, request.seed, indices)
    elif tuple(latents.shape) != (len(request.labels), *shape):
        raise ShapeError(
            f"latents have shape {tuple(latents.shape)}: expected {(len(request.labels), *shape)}"
        )
    return _steps(transformer, scheduler, request, latents)


@torch.no_grad()
def _steps(
    transformer: Denoiser, scheduler: SchedulerMixin, request: SampleRequest, latents: Tensor
) -> Generator[SampleStep, Tensor | None, None]:
    sampler: Any = scheduler
    device = device_of_model(transformer)
    # the schedule stays on the host, where its numbers are needed at every step: read from a GPU,
    # each would wait for the work before it
    sampler.set_timesteps(request.steps, device="cpu")
    where = device
    if isinstance(transformer, PreparedDenoiser):
        where = torch.device("cpu")
        null = [] if request.guidance == 1 else [transformer.config.num_embeds_ada_norm]
        transformer.expect(sampler.timesteps.tolist(), [*request.labels, *null])
    labels = torch.tensor(request.labels, device=where)
    extra = step_options(scheduler, request)
    # float32 whatever the model computes in: the steps add up small differences
    x = latents.to(device, torch.float32) * sampler.init_noise_sigma
    total, prediction = len(sampler.timesteps), prediction_of(scheduler)
    variance = uses_variance(scheduler)
    for index, t in enumerate(sampler.timesteps):
        model_input = sampler.scale_model_input(x, t)
        predicted = guided_prediction(
            transformer, model_input, t.to(where), labels, request.guidance, variance
        )
        alpha = sampler.alphas_cumprod[int(t)].to(x.dtype)
        image = predicted[:, : x.shape[1]]
        clean = clean_image(image, model_input, alpha, prediction).clamp(-1, 1)
        x = sampler.step(predicted, t, x, **extra).prev_sample
        sent = yield SampleStep(
            index=index, total=total, timestep=int(t), latents=x, predicted_clean=clean
        )
        x = x if sent is None else sent


def to_uint8(latents: Tensor) -> Tensor:
    """Turn images in [-1, 1], any float dtype, into uint8 in [0, 255] on the CPU; same shape."""
    return (latents.float() * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8).cpu()


def sample_images(
    transformer: Denoiser, scheduler: SchedulerMixin, request: SampleRequest
) -> Tensor:
    """Run :func:`sample_steps` to its end and return uint8 images (N, C, H, W)."""
    latents = None
    for step in sample_steps(transformer, scheduler, request):
        latents = step.latents
    assert latents is not None
    return to_uint8(latents)
