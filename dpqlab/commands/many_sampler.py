"""What draws the images of ``dpqlab sample-many``: a pipeline, and a VAE behind it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dpqlab.diffusion.sampling import SampleRequest, sample_steps, to_uint8
from dpqlab.errors import CheckpointError, ConfigError
from dpqlab.nn.linear import hold_decoded

DECODED_AT_ONCE = 10  # images; decoding takes far more memory than denoising


class ManySampler:
    """Draws uint8 images (N, C, H, W) of a pipeline; an evaluation's ``Sampler``.

    Parameters
    ----------
    pipeline
        Transformer and scheduler.
    vae
        What turns latents into images (see :func:`vae_of`); None for a model of pixels.
    """

    def __init__(self, pipeline: Any, vae: tuple[Any, str] | None) -> None:
        self.pipeline = pipeline
        self.vae, self.digest = (None, "") if vae is None else vae

    def __call__(
        self, labels: tuple[int, ...], *, seed: int, first_index: int, steps: int, guidance: float
    ) -> Tensor:
        """Draw one image a label."""
        request = SampleRequest(
            labels=labels, seed=seed, first_index=first_index, steps=steps, guidance=guidance
        )
        latents: Tensor | None = None
        with hold_decoded(self.pipeline.transformer):
            for step in sample_steps(self.pipeline.transformer, self.pipeline.scheduler, request):
                latents = step.latents
        assert latents is not None
        return to_uint8(latents) if self.vae is None else self._decoded(latents)

    @torch.no_grad()
    def _decoded(self, latents: Tensor) -> Tensor:
        vae: Any = self.vae
        scaled = latents.to(vae.dtype) / vae.config.scaling_factor
        parts = [vae.decode(part).sample for part in scaled.split(DECODED_AT_ONCE)]
        return torch.cat([to_uint8(part) for part in parts])


def vae_of(
    folder: Path, given: Path | None, pipeline: Any, device: torch.device
) -> tuple[Any, str] | None:
    """Load the VAE of a model of latents, with the hash of its weights; None for one of pixels.

    Raises
    ------
    ConfigError
        If a model of latents has none, or is given another model's.
    CheckpointError
        If it cannot be loaded.
    """
    channels = pipeline.transformer.config.in_channels
    if channels in (1, 3) and given is None:
        return None
    place = folder / "vae" if given is None else given
    if not (place / "config.json").is_file():
        raise ConfigError(
            f"the model draws {channels} channels, latents of a VAE, and {place} is none: give the "
            "folder of diffusers' AutoencoderKL as --vae"
        )
    from diffusers import AutoencoderKL

    loader: Any = AutoencoderKL.from_pretrained
    try:
        vae = loader(place, local_files_only=True, use_safetensors=True)
    except (OSError, ValueError, RuntimeError, TypeError) as error:
        raise CheckpointError(
            f"{place}: no VAE can be loaded from it ({error}); expected diffusers' AutoencoderKL "
            "in safetensors"
        ) from error
    if vae.config.latent_channels != channels:
        raise ConfigError(
            f"{place} decodes {vae.config.latent_channels} channels, the model draws {channels}: "
            "expected the VAE that it was trained with"
        )
    digest = hashlib.sha256()
    for path in sorted(place.glob("*.safetensors")):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return vae.to(device).eval(), digest.hexdigest()
