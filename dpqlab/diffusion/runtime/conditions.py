"""Timesteps and labels of a batch: checked on the host, brought to the device without waiting."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dpqlab.errors import ConfigError, ShapeError

KEPT_ORDERS = 64
"""Batches whose labels are remembered on the device."""


def host_conditions(
    timestep: Tensor | float, labels: Tensor, count: int
) -> tuple[list[float], tuple[int, ...]]:
    """Return one timestep and one label for each of ``count`` images.

    Raises
    ------
    ShapeError
        If there is neither one timestep nor one an image, or not one label an image.
    """
    times = torch.as_tensor(timestep).flatten().tolist()
    if len(times) not in (1, count):
        raise ShapeError(
            f"there are {len(times)} timesteps: expected 1, or {count} as there are images"
        )
    if tuple(labels.shape) != (count,):
        raise ShapeError(
            f"class_labels have shape {tuple(labels.shape)}: expected ({count},), one an image"
        )
    repeated = count // len(times)
    return [float(t) for t in times] * repeated, tuple(int(label) for label in labels.tolist())


def check_labels(labels: Sequence[int], count: int) -> None:
    """Refuse labels that are not below ``count``.

    Raises
    ------
    ConfigError
        If there is one.
    """
    if labels and (min(labels) < 0 or max(labels) >= count):
        raise ConfigError(
            f"class labels go from {min(labels)} to {max(labels)}: expected 0 to {count - 1}"
        )


def distinct_pairs(
    times: Sequence[float], labels: Sequence[int]
) -> tuple[tuple[tuple[float, int], ...], list[int]]:
    """Return the distinct (timestep, label) pairs, and which of them each image has."""
    places: dict[tuple[float, int], int] = {}
    index = [places.setdefault(pair, len(places)) for pair in zip(times, labels, strict=True)]
    return tuple(places), index


class StepInputs:
    """The distinct timesteps and labels of a batch on a device, as graphs take them."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._kept: dict[tuple[tuple[int, ...], ...], tuple[Tensor, Tensor]] = {}

    def __call__(
        self, times: Sequence[float], labels: Sequence[int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return float32 timesteps (M,), labels (M,), and the pair that each image has, (N,)."""
        pairs, index = distinct_pairs(times, labels)
        if len(set(times)) > 1:
            there = torch.tensor([time for time, _ in pairs], device=self.device)
        else:
            there = torch.full((len(pairs),), times[0], device=self.device)  # no copy, no wait
        key = (tuple(label for _, label in pairs), tuple(index))
        if key not in self._kept:
            if len(self._kept) >= KEPT_ORDERS:
                self._kept.clear()
            self._kept[key] = (
                torch.tensor(key[0], device=self.device),
                torch.tensor(key[1], device=self.device),
            )
        return there, *self._kept[key]
