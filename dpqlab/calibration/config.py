"""Settings of a calibration."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from dpqlab.calibration.estep import EStepConfig
from dpqlab.calibration.revival import RevivalConfig
from dpqlab.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What the M-step minimises: a weighted sum of losses.

    Attributes
    ----------
    output
        Weight of the squared error to the teacher's predicted noise.
    features
        Weight of the relative squared error to the outputs of the teacher's blocks.
    ddpm
        Weight of the squared error to the noise in the image (the paper's loss, Ho et al., arXiv
        2006.11239); needs real images. Without ``output`` and ``features`` the teacher is used for
        judging only.
    guidance
        If given, every image is seen with and without its label, and ``output`` compares the noise
        after classifier-free guidance at this scale: what sampling will use.
    timestep_power
        ``output`` weighs a timestep by ``clamp(sigma, 0.05, 10) ** power``, with sigma the ratio
        of noise to signal, normalised to mean 1; 0 for all alike, below 0 for the late steps.
    """

    output: float = 1.0
    features: float = 0.1
    ddpm: float = 0.0
    guidance: float | None = None
    timestep_power: float = 0.0

    def __post_init__(self) -> None:
        """Refuse an objective that asks for nothing."""
        for name in ("output", "features", "ddpm"):
            _check_number(f"objective: {name}", getattr(self, name), low=0.0)
        if self.output + self.features + self.ddpm == 0:
            raise ConfigError("objective: output, features and ddpm are all 0: expected a loss")
        _check_number("objective: timestep_power", self.timestep_power)
        if self.guidance is not None:
            _check_number("objective: guidance", self.guidance, low=0.0)

    @property
    def distils(self) -> bool:
        """Whether the teacher's predictions are part of the loss."""
        return self.output + self.features > 0


@dataclass(frozen=True, kw_only=True)
class LatentConfig:
    """Codes moved together with codewords: quantization-aware training of the assignment.

    Every sub-vector keeps an unquantized *latent* beside it, which takes the gradient of the
    weight as if there were no quantization (straight-through estimator, Bengio et al., arXiv
    1308.3432); its code is the nearest codeword to the latent, chosen anew every few steps.
    Latents are thrown away at the end: nothing of them is stored.

    Attributes
    ----------
    learning_rate
        Of the latents, relative to their root mean square.
    every
        Steps between choices of codes; large codebooks take long to search.
    """

    learning_rate: float = 0.03
    every: int = 1

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
        _check_number("latent: learning_rate", self.learning_rate, low=0.0, strict=True)
        _check_whole("latent: every", self.every, low=1)


@dataclass(frozen=True, kw_only=True)
class EStepSchedule:
    """When codes are chosen again by output reconstruction, the paper's E-step.

    Attributes
    ----------
    every
        Steps between E-steps; the first comes before the first step.
    until
        Share of the run after which codes stay.
    batches
        Batches of the run's size behind the statistics.
    settings
        How codes are chosen.
    """

    every: int = 1000
    until: float = 0.8
    batches: int = 8
    settings: EStepConfig = field(default_factory=EStepConfig)

    def __post_init__(self) -> None:
        """Refuse a schedule that cannot run."""
        for name in ("every", "batches"):
            _check_whole(f"e_step: {name}", getattr(self, name), low=1)
        if not 0 <= self.until <= 1:
            raise ConfigError(f"e_step: until is {self.until}: expected a share from 0 to 1")


@dataclass(frozen=True, kw_only=True)
class RevivalSchedule:
    """When dead codewords start again.

    Attributes
    ----------
    every
        Steps between revivals.
    until
        Share of the run after which the dead stay dead.
    settings
        Which codewords are dead, and where they may start.
    """

    every: int = 500
    until: float = 0.8
    settings: RevivalConfig = field(default_factory=RevivalConfig)

    def __post_init__(self) -> None:
        """Refuse a schedule that cannot run."""
        _check_whole("revival: every", self.every, low=1)
        if not 0 <= self.until <= 1:
            raise ConfigError(f"revival: until is {self.until}: expected a share from 0 to 1")


@dataclass(frozen=True, kw_only=True)
class CalibrationConfig:
    """Settings of a calibration.

    Attributes
    ----------
    steps
        Optimiser steps; what is to be compared gets as many.
    batch
        Images a step; with ``objective.guidance`` half as many, each seen twice.
    learning_rate
        Of Adam, relative to the size of what is trained: codewords, row scales and biases each move
        at this rate times their own root mean square. Short warm-up, then a cosine to zero.
    warmup
        Steps of the warm-up.
    objective
        What is minimised.
    latent, e_step
        Two ways to move the codes; at most one of them. Without either, codes stay.
    revival
        When dead codewords start again; None for never.
    label_drop
        Share of the batch without a class, for the unguided branch.
    holdout
        Images of the fixed batch that the student is judged on.
    every
        Steps between judgements.
    seed
        Of the batches and of revivals.
    compile, cuda_graph
        Replay a step as one CUDA graph, of compiled blocks; on a CPU they mean nothing.
    """

    steps: int = 2500
    batch: int = 256
    learning_rate: float = 0.04
    warmup: int = 100
    objective: Objective = field(default_factory=Objective)
    latent: LatentConfig | None = None
    e_step: EStepSchedule | None = None
    revival: RevivalSchedule | None = None
    label_drop: float = 0.15
    holdout: int = 1024
    every: int = 250
    seed: int = 0
    compile: bool = True
    cuda_graph: bool = True

    def __post_init__(self) -> None:
        """Refuse settings that cannot run."""
        for name in ("steps", "batch", "holdout", "every"):
            _check_whole(name, getattr(self, name), low=1)
        for name in ("warmup", "seed"):
            _check_whole(name, getattr(self, name), low=0)
        _check_number("learning_rate", self.learning_rate, low=0.0, strict=True)
        if not 0 <= self.label_drop <= 1:
            raise ConfigError(f"label_drop is {self.label_drop}: expected a share from 0 to 1")
        if self.latent is not None and self.e_step is not None:
            raise ConfigError("latent and e_step both move the codes: give one of them")
        if self.objective.guidance is not None and self.batch % 2:
            raise ConfigError(f"batch is {self.batch}: guidance sees images twice, expected even")

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON values."""
        return asdict(self)


def _check_whole(name: str, value: int, *, low: int) -> None:
    if value < low:
        expected = "0 or more" if low == 0 else f"at least {low}"
        raise ConfigError(f"{name} is {value}: expected {expected}")


def _check_number(name: str, value: float, *, low: float = -math.inf, strict: bool = False) -> None:
    if math.isfinite(value) and (value > low or (value == low and not strict)):
        return
    expected = "a finite number" if low == -math.inf else "0 or more"
    raise ConfigError(f"{name} is {value}: expected {'a positive number' if strict else expected}")
