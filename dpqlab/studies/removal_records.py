"""Removals on record: what pools of a model lose when codewords go, by every measure.

``recipes/importance_fashion.py`` makes them with :func:`dpqlab.studies.removals.race_steps`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dpqlab.checkpoint.atomic import replace_file
from dpqlab.checkpoint.records import FileKind, read_json, reading, record_of
from dpqlab.diffusion.models import ASSETS
from dpqlab.studies.removals import Removal

KIND = FileKind(what="removals", maker="recipes/importance_fashion.py", limit=2_000_000)


@dataclass(frozen=True, kw_only=True)
class PoolRemovals:
    """Removals from the pool of one kind of layer.

    Attributes
    ----------
    kind
        Of the layers.
    codewords
        That k-means made.
    output_error
        Relative error of the layers' outputs, held out, with all codewords.
    removals
        In the order in which they were made.
    """

    kind: str
    codewords: int
    output_error: float
    removals: tuple[Removal, ...]


@dataclass(frozen=True, kw_only=True)
class RemovalRecords:
    """Removals from the pools of a model; ``about`` says how they were made, JSON values."""

    preset: str
    pools: tuple[PoolRemovals, ...]
    about: dict[str, Any]

    def of(self, kind: str) -> PoolRemovals | None:
        """Return the pool of a kind of layer, if it was recorded."""
        return next((pool for pool in self.pools if pool.kind == kind), None)

    def save(self, path: Path) -> None:
        """Write JSON."""
        text = json.dumps(asdict(self), indent=1, allow_nan=False) + "\n"
        replace_file(path, text.encode())

    @classmethod
    def load(cls, path: Path) -> RemovalRecords:
        """Read what :meth:`save` wrote.

        Raises
        ------
        CheckpointError
            If the file is not there, or something else.
        """
        with reading(path, KIND):
            return record_of(cls, read_json(path, KIND), signed=("felt",))


def bundled_removals(preset: str) -> RemovalRecords | None:
    """Load the removals of a preset's codec that ship, None if there are none."""
    path = ASSETS / f"fashion-dit-runs/importance-{preset}.json"
    return RemovalRecords.load(path) if path.is_file() else None
