"""What a two-sample test is given, how it is set, and what it yields."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from dpqlab.errors import ConfigError, ShapeError

CHANCE = 0.5


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelledImages:
    """One side of the test.

    Parameters
    ----------
    images
        uint8 array (N, C, H, W).
    labels
        Integer array (N,): the class each image was asked for. The classifier never sees it; it is
        there so that both sides can be held to the same number of images of each class.
    seed
        Seed that the images were drawn from; None for images that were not drawn.
    """

    images: np.ndarray = field(repr=False)
    labels: np.ndarray = field(repr=False)
    seed: int | None = None

    def __post_init__(self) -> None:
        """Refuse what are no labelled images."""
        if self.images.ndim != 4 or self.images.dtype != np.uint8:
            raise ShapeError(
                f"images are {self.images.dtype} {self.images.shape}; expected uint8 (N, C, H, W)."
            )
        if self.labels.shape != self.images.shape[:1] or self.labels.dtype.kind not in "iu":
            raise ShapeError(
                f"labels are {self.labels.dtype} {self.labels.shape}; expected an integer for each "
                f"of {len(self.images)} images."
            )

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)


@dataclass(frozen=True, kw_only=True)
class TwoSampleConfig:
    """How the classifier is trained and judged.

    Parameters
    ----------
    train, held_out
        Images of each side that are learned from, and that the accuracy is measured on; multiples
        of the number of classes.
    stopping
        Share of ``train`` that is not learned from but says which epoch was best.
    epochs, patience
        Most epochs, and how many without a better one end the training.
    seeds
        One training each: initial weights, order of the images, and which of ``train`` stop it.
    batch, rate, weight_decay, average
        AdamW at a constant rate after a warm-up; the judge is the moving average of the weights.
    width
        Channels of the first stage of the network; the bundled feature network has 40.
    bf16
        Multiply in bfloat16 on a GPU. Otherwise as PyTorch is set up: TF32 convolutions there.
    """

    train: int = 8000
    held_out: int = 2000
    stopping: float = 0.1
    epochs: int = 20
    patience: int = 8
    seeds: tuple[int, ...] = (0, 1, 2)
    batch: int = 256
    rate: float = 1e-3
    weight_decay: float = 0.05
    average: float = 0.98
    width: int = 40
    bf16: bool = False

    def __post_init__(self) -> None:
        """Refuse numbers that cannot work."""
        lowest = {"train": 2, "held_out": 1, "epochs": 1, "patience": 1, "batch": 2, "width": 1}
        for name, least in lowest.items():
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise ConfigError(f"{name} is {value!r}; expected an integer of at least {least}.")
        if not 0.0 < self.stopping < 1.0 or not 0.0 <= self.average < 1.0:
            raise ConfigError(
                f"stopping is {self.stopping} and average {self.average}; "
                "expected shares between 0 and 1."
            )
        if not all(math.isfinite(x) for x in (self.rate, self.weight_decay)) or self.rate <= 0:
            raise ConfigError(
                f"rate is {self.rate}, weight_decay {self.weight_decay}; expected a positive rate."
            )
        if not self.seeds or len(set(self.seeds)) != len(self.seeds) or min(self.seeds) < 0:
            raise ConfigError(
                f"seeds are {self.seeds}; expected different integers from 0, at least one."
            )


@dataclass(frozen=True, kw_only=True)
class TwoSampleRecord:
    """Progress: an epoch that ended.

    ``loss`` is the mean over the epoch's batches, nats; ``stop_loss`` and ``stop_accuracy`` belong
    to the moving average of the weights on the images that stop the training; ``seconds`` count
    from the start of the test.
    """

    seed: int
    epoch: int
    epochs: int
    loss: float
    stop_loss: float
    stop_accuracy: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class TwoSampleResult:
    """The verdict.

    Parameters
    ----------
    accuracy
        Share of held-out images of both sides whose side was named rightly, mean over seeds.
    accuracies
        The same of each seed.
    low, high
        95 % interval ``accuracy -+ 1.96 sqrt(p (1 - p) / n + s^2 / S)``, clipped to [0, 1], with p
        the accuracy, n the held-out images of both sides, and s the standard deviation over the S
        seeds (0 for one seed). All seeds judge the same images, so the binomial part does not
        shrink with S. What another set of training images would change is not in it.
    held_out
        n.
    chance
        The accuracy of guessing.
    """

    accuracy: float
    accuracies: tuple[float, ...]
    low: float
    high: float
    held_out: int
    chance: float = CHANCE

    @property
    def told_apart(self) -> bool:
        """Whether the whole interval lies above chance."""
        return self.low > self.chance

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        """Return "accuracy [low, high]" in percent."""
        return f"{self.accuracy:.1%} [{self.low:.1%}, {self.high:.1%}]"
