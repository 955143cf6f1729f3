"""Removals on record: what pools of a model lose when codewords go, by every measure.

``recipes/importance_fashion.py`` makes them with :func:`dpqlab.studies.codewords.race_steps`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_args

from dpqlab.checkpoint.atomic import replace_file
from dpqlab.diffusion.models import ASSETS
from dpqlab.errors import CheckpointError
from dpqlab.studies.codewords import MEASURES, Manner, Removal

MOST_BYTES = 2_000_000


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
        try:
            if path.stat().st_size > MOST_BYTES:
                raise ValueError(f"it has more than {MOST_BYTES} bytes")
            values = json.loads(path.read_text(encoding="utf-8"))
            return cls(
                preset=str(values["preset"]),
                pools=tuple(_pool(pool) for pool in values["pools"]),
                about=dict(values["about"]),
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"{path} cannot be read as removals: {error}; expected a file that "
                "recipes/importance_fashion.py wrote"
            ) from None


def bundled_removals(preset: str) -> RemovalRecords | None:
    """Load the removals of a preset's codec that ship, None if there are none."""
    path = ASSETS / f"fashion-dit-runs/importance-{preset}.json"
    return RemovalRecords.load(path) if path.is_file() else None


def _pool(values: Mapping[str, Any]) -> PoolRemovals:
    return PoolRemovals(
        kind=str(values["kind"]),
        codewords=_count(values["codewords"]),
        output_error=_number(values["output_error"]),
        removals=tuple(_removal(removal) for removal in values["removals"]),
    )


def _removal(values: Mapping[str, Any]) -> Removal:
    if values.keys() != {field.name for field in fields(Removal)}:
        raise ValueError(f"a removal has the keys {sorted(values)}")
    if values["measure"] not in MEASURES or values["manner"] not in get_args(Manner):
        raise ValueError(f"a removal by {values['measure']!r}, {values['manner']!r}")
    predicted = values["predicted"]
    return Removal(
        measure=values["measure"],
        manner=values["manner"],
        removed=_count(values["removed"]),
        share=_number(values["share"]),
        predicted=None if predicted is None else _number(predicted),
        felt=_number(values["felt"], signed=True),
        output_error=_number(values["output_error"]),
    )


def _number(value: Any, *, signed: bool = False) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r} is not a number")
    if not math.isfinite(value) or (value < 0 and not signed):
        raise ValueError(f"{value!r} is not a finite number" + " of 0 or more" * (not signed))
    return float(value)


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{value!r} is not a count")
    return value
