"""Settings of a calibration."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dpqlab.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class CalibrationConfig:
    """Settings of a calibration.

    Parameters
    ----------
    steps
        Optimiser steps; VQ and PQ that are to be compared get as many.
    batch
        Images a step.
    learning_rate
        Of Adam, relative to the size of what is trained: codewords, row scales and biases each move
        at this rate times their own root mean square. Short warm-up, then a cosine to zero.
    warmup
        Steps of the warm-up.
    feature_weight
        Weight of the block features beside the output error.
    label_drop
        Share of the batch without a class, for the unguided branch.
    holdout
        Images of the fixed batch that the student is judged on.
    every
        Steps between judgements.
    seed
        Of the batches.
    cuda_graph
        Replay a step as one CUDA graph; on a CPU it means nothing.
    """

    steps: int = 2500
    batch: int = 256
    learning_rate: float = 0.04
    warmup: int = 100
    feature_weight: float = 0.1
    label_drop: float = 0.15
    holdout: int = 1024
    every: int = 250
    seed: int = 0
    cuda_graph: bool = True

    def __post_init__(self) -> None:
        """Refuse settings that cannot run."""
        for name in ("steps", "batch", "holdout", "every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}: expected at least 1")
        for name in ("warmup", "seed"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}: expected 0 or more")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise ConfigError(f"learning_rate is {self.learning_rate}: expected a positive number")
        if not (math.isfinite(self.feature_weight) and self.feature_weight >= 0):
            raise ConfigError(f"feature_weight is {self.feature_weight}: expected 0 or more")
        if not 0 <= self.label_drop <= 1:
            raise ConfigError(f"label_drop is {self.label_drop}: expected a share from 0 to 1")
