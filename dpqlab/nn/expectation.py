"""What a compression will come to, said beforehand: sizes, seconds and memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from dpqlab.core import ModelLedger
from dpqlab.nn.forecast import forecast_
from dpqlab.nn.plan import Plan
from dpqlab.nn.targets import targets_of
from dpqlab.nn.timing import seconds_of
from dpqlab.nn.workspace import Workspace, workspace_of


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What a plan would make of a model.

    Attributes
    ----------
    ledger
        Stored bits (:func:`dpqlab.nn.forecast.forecast_`).
    layer_seconds
        Estimated on this machine, by layer (:func:`dpqlab.nn.timing.seconds_of`).
    workspace
        The moment that takes most memory (:mod:`dpqlab.nn.workspace`).
    """

    ledger: ModelLedger
    layer_seconds: Mapping[str, float]
    workspace: Workspace

    @property
    def kept_bytes(self) -> int:
        """Of what is stored as it is."""
        return sum(tensor.bits for tensor in self.ledger.kept) // 8

    @property
    def bytes(self) -> int:
        """Of all that is stored; headers and settings of the files come on top."""
        return self.kept_bytes + sum(layer.total for layer in self.ledger.layers) // 8

    @property
    def seconds(self) -> float:
        """Of all layers."""
        return sum(self.layer_seconds.values())


def expect_(model: nn.Module, plan: Plan, device: torch.device | str = "cpu") -> Expected:
    """Say what compressing a model will come to; a second or two of k-means on noise is timed.

    Parameters
    ----------
    model
        May be on the meta device: only shapes are looked at. It is marked as
        :func:`dpqlab.nn.forecast.forecast_` says.
    plan
        What would be compressed, and how.
    device
        Where.

    Raises
    ------
    ConfigError
        If the plan matches nothing, or a codec does not fit a layer's shape.
    """
    targets = targets_of(model, plan)
    ledger = forecast_(model, plan)
    return Expected(
        ledger=ledger,
        layer_seconds=seconds_of(targets, device),
        workspace=workspace_of(targets, ledger),
    )
