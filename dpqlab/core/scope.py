"""The sharing scope of a codebook: the one dial between product and vector quantization.

``scope`` says which positions of a row share a codebook, ``across`` which layers do.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch

from dpqlab.errors import ConfigError

Scope = Literal["position", "group", "layer"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
Across = Literal["layer", "kind", "model"]
ACROSS: tuple[Across, ...] = get_args(Across)


def scope_of_positions(scope: Scope, m: int, group: int = 1) -> torch.Tensor:
    """Say which codebook each position of a row uses.

    Parameters
    ----------
    scope
        ``"position"`` (PQ: every position has its own codebook), ``"group"`` (``group``
        neighbouring positions share one) or ``"layer"`` (VQ: one codebook). Inside a layer it
        makes no difference which other layers share them.
    m
        Number of positions in a row.
    group
        Positions to a codebook when ``scope`` is ``"group"``; the last group may be shorter.

    Returns
    -------
    torch.Tensor
        int64 scope ids of shape (m,), non-decreasing from 0.

    Examples
    --------
    >>> scope_of_positions("group", 5, 2).tolist()
    [0, 0, 1, 1, 2]
    """
    if scope not in SCOPES:
        raise ConfigError(f"unknown scope: got {scope!r}, expected one of {', '.join(SCOPES)}")
    if m < 1 or group < 1:
        raise ConfigError(f"m and group must be at least 1: got m={m}, group={group}")
    if scope == "position":
        return torch.arange(m)
    if scope == "group":
        return torch.arange(m) // group
    return torch.zeros(m, dtype=torch.int64)
