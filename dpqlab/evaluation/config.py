"""What an evaluation draws, and the shape of the thing that draws it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from dpqlab.errors import ConfigError

QUICK_IMAGES = 2_000
QUICK_STEPS = 20


class Sampler(Protocol):
    """Draws an image for each label; image ``j`` depends on (seed, first_index + j, label) only."""

    def __call__(
        self, labels: tuple[int, ...], *, seed: int, first_index: int, steps: int, guidance: float
    ) -> np.ndarray | Tensor:
        """Return uint8 images (len(labels), C, H, W)."""
        ...


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """What to draw and how to judge it.

    Parameters
    ----------
    images
        Number of samples; FCD, precision and recall depend on it, so compare at equal numbers only.
    steps, guidance, seed
        Passed to the sampler. The teacher's samples "at other seeds" use ``seed + 1``.
    batch
        Images drawn at once.
    resamples
        Bootstrap resamples behind every interval.
    neighbours
        k of precision and recall.
    """

    images: int = 10_000
    steps: int = 50
    guidance: float = 1.5
    seed: int = 0
    batch: int = 500
    resamples: int = 200
    neighbours: int = 3

    def __post_init__(self) -> None:
        """Refuse numbers that cannot work."""
        lowest = {
            "images": self.neighbours + 1,
            "steps": 1,
            "seed": 0,
            "batch": 1,
            "resamples": 2,
            "neighbours": 1,
        }
        for name, least in lowest.items():
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise ConfigError(f"{name} is {value!r}; expected an integer of at least {least}.")
        if not math.isfinite(self.guidance) or self.guidance < 0:
            raise ConfigError(
                f"guidance is {self.guidance}; expected a finite number of at least 0."
            )

    @classmethod
    def quick(cls, **changes: Any) -> EvaluationConfig:
        """Return the short protocol: 2,000 images of 20 steps.

        It takes about twenty minutes on two CPU cores. Its numbers are comparable with each
        other, not with those of the full protocol.
        """
        return cls(**{"images": QUICK_IMAGES, "steps": QUICK_STEPS} | changes)

    @property
    def other_seed(self) -> int:
        """The seed of the teacher samples that excess FCD is measured against."""
        return self.seed + 1

    def protocol(self) -> dict[str, float]:
        """Return what decides which images are drawn; samples are comparable where it is equal."""
        return {
            "images": self.images,
            "steps": self.steps,
            "guidance": self.guidance,
            "seed": self.seed,
        }


def requested_labels(count: int, classes: int) -> np.ndarray:
    """Return the labels of images 0..count-1, every class in turn, int64 (count,)."""
    return np.arange(count, dtype=np.int64) % classes
