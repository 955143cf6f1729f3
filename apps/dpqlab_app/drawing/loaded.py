"""Versions of models in memory, ready to draw; those that are not needed make room."""

from __future__ import annotations

import gc
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from dpqlab_app.drawing.catalogue import Model, Version
from dpqlab_app.drawing.devices import SMALL_DEVICE, memory_of

if TYPE_CHECKING:
    from dpqlab.diffusion import DiTRuntime
    from dpqlab.kernels.coded import CodedWeight

KEPT_MODELS = 3
"""Models that a larger device holds."""

_BACKENDS = {"numba": "numba", "cuda": "CUDA", "triton": "Triton", "torch": "torch (reference)"}
DENSE = "dense torch"


@dataclass(frozen=True, kw_only=True, eq=False)
class Loaded:
    """A version that can be drawn with.

    Attributes
    ----------
    version
        Which one.
    runtime
        What computes its forward pass.
    scheduler
        Of its folder; it holds state while it runs, so that every run needs a copy.
    tokens, modulations
        A coded weight of each kind: of layers that work on tokens, and of those that make
        modulations. Empty in full precision.
    tokens_an_image
        Rows that an image is to the former.
    """

    version: Version
    runtime: DiTRuntime
    scheduler: Any
    tokens: tuple[CodedWeight, ...]
    modulations: tuple[CodedWeight, ...]
    tokens_an_image: int

    def backend(self, images: int) -> str:
        """Name who computes a batch of ``images``, branches of guidance counted: the rules' choice.

        Examples: ``"dense torch"``, ``"numba"``, ``"CUDA + Triton"``.
        """
        from dpqlab.kernels.dispatch import VARIABLE
        from dpqlab.kernels.linears import Problem, decoder_for, rule_for

        if self.version.kind == "full":
            return DENSE
        runtime, wanted = self.runtime, os.environ.get(VARIABLE) or None
        names = {decoder_for(weight, runtime.dtype) for weight in self.modulations}
        if runtime.settings.linear_on(runtime.device.type) == "kernel":
            for weight in self.tokens:
                x = torch.empty(
                    images * self.tokens_an_image,
                    weight.shape[1],
                    dtype=runtime.dtype,
                    device="meta",
                )
                problem = replace(Problem.of(x, weight), device=runtime.device.type)
                names.add(rule_for(problem, wanted).backend)
        else:
            names |= {decoder_for(weight, runtime.dtype) for weight in self.tokens}
        # a packed layer of another kind decodes itself with torch
        return " + ".join(sorted(_BACKENDS[name] for name in names)) or "torch"

    def forget_request(self) -> None:
        """Free the table of modulations, which the next request makes anew."""
        self.runtime.expect((), ())


class Shelf:
    """Loaded versions by model and key, on one device.

    Parameters
    ----------
    device
        Where.
    dtype
        In which they compute.
    most_models
        How many models it holds, each with any number of its versions; None: what suits the
        device's memory.
    """

    def __init__(
        self, device: torch.device, dtype: torch.dtype, *, most_models: int | None = None
    ) -> None:
        self.device, self.dtype = device, dtype
        small = memory_of(device) < SMALL_DEVICE
        self.most_models = most_models or (1 if small else KEPT_MODELS)
        self._models: dict[str, dict[str, Loaded]] = {}

    def get(self, model: Model, version: Version) -> Loaded:
        """Return a version, loading it if need be: the model unused for longest goes first."""
        versions = self._models.pop(model.key, None)
        if versions is None:
            while len(self._models) >= self.most_models:
                del self._models[next(iter(self._models))]
                self._collect()
            versions = {}
        self._models[model.key] = versions
        if version.key not in versions:
            versions[version.key] = load(version, self.device, self.dtype)
        return versions[version.key]

    def clear(self) -> None:
        """Let go of everything."""
        self._models.clear()
        self._collect()

    @property
    def held(self) -> tuple[tuple[str, str], ...]:
        """Model and version of everything that is here."""
        return tuple((model, key) for model, some in self._models.items() for key in some)

    def _collect(self) -> None:
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def load(version: Version, device: torch.device, dtype: torch.dtype) -> Loaded:
    """Load a version and make it ready to draw."""
    from dpqlab.diffusion import load_pipeline, prepare_runtime
    from dpqlab.nn.linear import CompressedLinear

    pipeline = load_pipeline(version.path, dtype=dtype, device=device)
    transformer: Any = pipeline.transformer
    kinds: tuple[dict[Any, CodedWeight], dict[Any, CodedWeight]] = ({}, {})
    for name, module in transformer.named_modules():
        if isinstance(module, CompressedLinear):
            weight = module.coded()
            key = (weight.shape, weight.d, weight.code_bits, weight.pool.nbytes)
            kinds["norm1" in name or "proj_out_1" in name].setdefault(key, weight)
    config = transformer.config
    return Loaded(
        version=version,
        runtime=prepare_runtime(transformer),
        scheduler=pipeline.scheduler,
        tokens=tuple(kinds[0].values()),
        modulations=tuple(kinds[1].values()),
        tokens_an_image=(config.sample_size // config.patch_size) ** 2,
    )
