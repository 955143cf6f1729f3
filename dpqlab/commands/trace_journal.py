"""Batches of a trace in a journal: a run that was stopped does not draw a finished one again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from dpqlab.checkpoint.journal import Journal, JournalEntry
from dpqlab.tracing import TraceStep

_ARRAYS = (
    "energy",
    "norm",
    "counts",
    "output_energy",
    "output_norm",
    "latent_energy",
    "latent_norm",
    "image_error",
)


def write_batch(journal: Journal, steps: Sequence[TraceStep]) -> None:
    """Write all steps of one batch of images."""
    arrays = {name: np.stack([getattr(step, name) for step in steps]) for name in _ARRAYS}
    pictures = {step.index: step.pictures for step in steps}
    arrays |= {f"pictures.{i}": p for i, p in pictures.items() if p is not None}
    note = {
        "first": steps[0].first,
        "count": steps[0].count,
        "timesteps": [step.timestep for step in steps],
        "blocks": list(steps[0].blocks),
        "branches": list(steps[0].branches),
    }
    tensors = {name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in arrays.items()}
    journal.write(_name(steps[0].first), tensors, note)


def read_batch(journal: Journal, first: int) -> list[TraceStep]:
    """Return the steps of the batch that begins with image ``first``; none if it is not there."""
    entry = journal.read(_name(first))
    return [] if entry is None else [_step(entry, i) for i in range(len(entry.note["timesteps"]))]


def _step(entry: JournalEntry, index: int) -> TraceStep:
    note, arrays = entry.note, {name: t.numpy() for name, t in entry.tensors.items()}
    values: dict[str, Any] = {name: arrays[name][index].copy() for name in _ARRAYS}
    return TraceStep(
        first=note["first"],
        count=note["count"],
        index=index,
        total=len(note["timesteps"]),
        timestep=note["timesteps"][index],
        blocks=tuple(note["blocks"]),
        branches=tuple(note["branches"]),
        **values,
        pictures=arrays.get(f"pictures.{index}"),
        seconds=0.0,
        remaining=0.0,
    )


def _name(first: int) -> str:
    return f"images-{first:08d}"
