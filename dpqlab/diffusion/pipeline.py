"""A diffusers pipeline for class-conditional DiTs that work on pixels, without a VAE."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Sequence
from typing import Any

import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput, ModelMixin, SchedulerMixin
from torch import Tensor

from dpqlab.diffusion.sampling import SampleRequest, SampleStep, sample_steps
from dpqlab.diffusion.schedules import remember_prediction
from dpqlab.errors import CheckpointError, ConfigError
from dpqlab.nn.embedder import tie_embedders_, untie_embedders_
from dpqlab.nn.linear import PackedLinear

StepCallback = Callable[["PixelDiTPipeline", int, int, dict[str, Tensor]], dict[str, Tensor] | None]


class PixelDiTPipeline(DiffusionPipeline):
    """Class-conditional sampling in pixel space.

    Unlike diffusers' ``DiTPipeline`` the null class comes from the model's config, each image has
    its own noise generator, and every step can be watched: iterate over :meth:`steps`, or pass
    ``callback_on_step_end`` as in other diffusers pipelines.

    Parameters
    ----------
    transformer
        ``DiTTransformer2DModel``, full precision or compressed.
    scheduler
        DDIM, DPM-Solver++ or another diffusers scheduler (:func:`dpqlab.diffusion.make_scheduler`),
        which says what the transformer predicts: the noise, or the velocity.
    """

    model_cpu_offload_seq = "transformer"
    _callback_tensor_inputs = ["latents"]  # noqa: RUF012 - the name and type diffusers expects

    transformer: Any
    scheduler: Any

    def __init__(self, transformer: ModelMixin, scheduler: SchedulerMixin) -> None:
        super().__init__()
        self.register_modules(transformer=transformer, scheduler=scheduler)
        remember_prediction(transformer, scheduler)

    def steps(self, request: SampleRequest) -> Generator[SampleStep, Tensor | None, None]:
        """Yield every step of ``request``: see :func:`dpqlab.diffusion.sampling.sample_steps`."""
        return sample_steps(self.transformer, self.scheduler, request)

    @torch.no_grad()
    def __call__(
        self,
        class_labels: Sequence[int],
        *,
        seed: int = 0,
        num_inference_steps: int = 50,
        guidance_scale: float = 1.5,
        latents: Tensor | None = None,
        output_type: str = "pil",
        callback_on_step_end: StepCallback | None = None,
    ) -> ImagePipelineOutput:
        """Draw one image for each label.

        Parameters
        ----------
        class_labels
            Class of each image.
        seed
            Image i depends on (seed, i) alone.
        num_inference_steps, guidance_scale
            Steps, and the classifier-free guidance scale (1: none).
        latents
            Starting noise (N, C, H, W) instead of the seed's.
        output_type
            ``"pil"``, ``"np"`` (N, H, W, C) or ``"pt"`` (N, C, H, W), floats in [0, 1].
        callback_on_step_end
            Called as ``f(pipeline, index, timestep, {"latents": x})`` after each step; may return
            a dict whose "latents" replace the current ones.

        Raises
        ------
        ConfigError
            For an impossible request or output type.
        ShapeError
            If ``latents`` have another shape.
        """
        if output_type not in ("pil", "np", "pt"):
            raise ConfigError(f"output_type is {output_type!r}: expected 'pil', 'np' or 'pt'")
        request = SampleRequest(
            labels=tuple(int(label) for label in class_labels),
            seed=seed,
            steps=num_inference_steps,
            guidance=guidance_scale,
        )
        steps = sample_steps(self.transformer, self.scheduler, request, latents=latents)
        x = self._run(steps, num_inference_steps, callback_on_step_end)
        self.maybe_free_model_hooks()
        images: Any = (x.float() / 2 + 0.5).clamp(0, 1)
        if output_type != "pt":
            images = images.cpu().permute(0, 2, 3, 1).numpy()
        if output_type == "pil":
            images = self.numpy_to_pil(images)
        return ImagePipelineOutput(images=images)

    def save_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, save_directory: str | os.PathLike[str], **options: Any
    ) -> None:
        """Write a full-precision pipeline as diffusers does, with its ``options``.

        diffusers stores a copy of the embedder for each block; a shared one is untied meanwhile.

        Raises
        ------
        CheckpointError
            If the transformer is compressed: :func:`dpqlab.checkpoint.save_compressed` writes it.
        """
        if any(isinstance(module, PackedLinear) for module in self.transformer.modules()):
            raise CheckpointError(
                "the transformer is compressed, which save_pretrained cannot write: "
                "use dpqlab.checkpoint.save_compressed"
            )
        copies = untie_embedders_(self.transformer)
        try:
            super().save_pretrained(save_directory, **options)
        finally:
            if copies:
                tie_embedders_(self.transformer)

    def _run(
        self, steps: Generator[SampleStep, Tensor | None, None], total: int, callback: Any
    ) -> Tensor:
        """Drive ``steps`` to the end; what the callback returns replaces the latents."""
        progress_bar: Any = self.progress_bar
        with progress_bar(total=total) as bar:
            step = next(steps)
            while True:
                bar.update()
                latents = step.latents
                if callback is not None:
                    changed = callback(self, step.index, step.timestep, {"latents": latents})
                    latents = (changed or {}).get("latents", latents)
                try:
                    step = steps.send(latents)
                except StopIteration:
                    return latents
