"""What flows into the layers whose codewords are studied: from images drawn now, or on record.

The images of half of the classes choose what to remove, those of the other half judge it. What
chooses is a number a column and can be recorded, so that nobody waits for it; what judges is a
matrix a layer, and is drawn when an output error is first asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dpqlab.checkpoint.arrays import ArraySpec, read_described, write_described
from dpqlab.checkpoint.records import FileKind, reading
from dpqlab.diffusion.inputs import inputs_of
from dpqlab.diffusion.models import ASSETS
from dpqlab.diffusion.sampling import SampleRequest

GATHER_SEED, JUDGE_SEED = 50_000, 60_000
IMAGES, STEPS, GUIDANCE = 5, 5, 1.5
KIND = FileKind(what="moments of inputs", maker="recipes/importance_fashion.py", limit=2_000_000)
_MOMENTS = ArraySpec(kind="f", dtype="float32", shape=(None,))


@dataclass(frozen=True, kw_only=True, eq=False)
class Activations:
    """Second moments of what flows into layers, by layer name.

    Attributes
    ----------
    choose
        ``E[x_j**2]`` over the images that choose, float32 (in,).
    model
        Returns the model that draws the images that judge; called when it is needed.
    """

    choose: Mapping[str, Tensor] = field(repr=False)
    model: Callable[[], Any] = field(repr=False)
    _grams: dict[str, Tensor] = field(default_factory=dict[str, Tensor], init=False, repr=False)

    def judge(self, names: Iterable[str]) -> Mapping[str, Tensor]:
        """Return ``E[x x^T]`` over the images that judge, float32 (in, in); drawn once a layer."""
        missing = [name for name in names if name not in self._grams]
        if missing:
            model = self.model()
            self._grams.update(inputs_of(model, missing, judging_request(model), grams=True))
        return self._grams


def choosing_request(model: Any) -> SampleRequest:
    """Return the images that choose: of the first half of the classes."""
    return _request(model, 0, GATHER_SEED)


def judging_request(model: Any) -> SampleRequest:
    """Return the images that judge: of the second half of the classes."""
    return _request(model, model.config.num_embeds_ada_norm // 2, JUDGE_SEED)


def _request(model: Any, first: int, seed: int) -> SampleRequest:
    half = model.config.num_embeds_ada_norm // 2
    labels = tuple(first + i % half for i in range(IMAGES))
    return SampleRequest(labels=labels, seed=seed, steps=STEPS, guidance=GUIDANCE)


def activations_of(model: Any, names: Iterable[str]) -> Activations:
    """Let a model draw the images that choose; those that judge follow when they are needed."""
    choose = inputs_of(model, names, choosing_request(model))
    return Activations(choose=choose, model=lambda: model)


@dataclass(frozen=True, kw_only=True, eq=False)
class InputRecord:
    """What chooses, on record; ``about`` says how it was made, JSON values.

    Attributes
    ----------
    moments
        ``E[x_j**2]`` by layer name, float32 (in,).
    """

    moments: dict[str, Tensor] = field(repr=False)
    about: dict[str, Any]

    def activations(self, model: Callable[[], Any]) -> Activations:
        """Return them, with the model that draws what judges; see :class:`Activations`."""
        return Activations(choose=self.moments, model=model)

    def save(self, path: Path) -> None:
        """Write a compressed npz without pickled objects: an array a layer, and ``about``."""
        write_described(path, self.about, {n: value.numpy() for n, value in self.moments.items()})

    @classmethod
    def load(cls, path: Path) -> InputRecord:
        """Read what :meth:`save` wrote.

        Raises
        ------
        CheckpointError
            If the file is not there, or something else.
        """
        with reading(path, KIND):
            about, arrays = read_described(path, {}, kind=KIND, others=_MOMENTS)
            if not arrays:
                raise ValueError("it has no layers")
            moments = {name: _moments(name, value) for name, value in arrays.items()}
            return cls(moments=moments, about=about)


def bundled_inputs(source: str = "fashion-dit") -> InputRecord | None:
    """Load what ships of a model's inputs, None if there is nothing."""
    if Path(source).name != source:  # a folder, not the name of a model
        return None
    path = ASSETS / f"{source}-runs/importance-inputs.npz"
    return InputRecord.load(path) if path.is_file() else None


def _moments(name: str, value: np.ndarray) -> Tensor:
    if not value.size or (value < 0).any():
        raise ValueError(f"{name} has no moments, or one below 0")
    return torch.from_numpy(value)
