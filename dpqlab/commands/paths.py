"""Pruning paths of a whole model with a progress meter: see :mod:`dpqlab.nn.pool_paths`."""

from __future__ import annotations

from torch import Tensor, nn

from dpqlab.commands.terminal import Meter
from dpqlab.core import PoolConfig
from dpqlab.nn.pool_paths import Budget, PoolPath, at_budget, path_steps, prune_to_

__all__ = ["Budget", "PoolPath", "at_budget", "pool_paths", "prune_to_"]


def pool_paths(
    model: nn.Module,
    weights: dict[str, Tensor],
    inputs: dict[str, Tensor],
    config: PoolConfig,
    meter: Meter,
    *,
    seed: int,
) -> list[PoolPath]:
    """Walk the paths as :func:`dpqlab.nn.pool_paths.path_steps` does; the meter is of 1 in all."""
    paths: list[PoolPath] = []
    done = 0.0
    for step in path_steps(model, weights, inputs, config, seed=seed):
        meter.advance(step.done - done, f"{step.name}, {step.codewords:,} codewords")
        done = step.done
        if step.path is not None:
            paths.append(step.path)
    return paths
