"""Pruning paths of a whole model with a progress meter: see :mod:`dpqlab.nn.pool_paths`."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from dpqlab.checkpoint.journal import Journal
from dpqlab.commands.path_journal import journaled, kept_paths
from dpqlab.commands.terminal import Meter
from dpqlab.core import LazyWeight, PoolConfig
from dpqlab.nn.pool_paths import Budget, PoolPath, at_budget, path_steps, prune_to_

__all__ = ["Budget", "PoolPath", "at_budget", "pool_paths", "prune_to_"]


def pool_paths(
    model: nn.Module,
    weights: Mapping[str, Tensor | LazyWeight],
    inputs: Mapping[str, Tensor],
    config: PoolConfig,
    meter: Meter,
    *,
    seed: int,
    journal: Journal | None = None,
) -> list[PoolPath]:
    """Walk the paths as :func:`dpqlab.nn.pool_paths.path_steps` does; the meter is of 1 in all.

    With a journal, each path goes there as it is complete, and those that it has are not walked.
    """
    kept = {} if journal is None else kept_paths(journal, list(weights))
    steps = path_steps(model, weights, inputs, config, seed=seed, kept=kept)
    paths: list[PoolPath] = []
    done = 0.0
    for step in steps if journal is None else journaled(steps, journal, kept):
        meter.advance(step.done - done, f"{step.name}, {step.codewords:,} codewords")
        done = step.done
        if step.path is not None:
            paths.append(step.path)
    return paths
