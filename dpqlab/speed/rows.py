"""What a measurement comes to: rows of the suites, and results as people compare them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dpqlab.speed.sampler import COMPILED, EAGER, StepRow
from dpqlab.speed.timing import Timing

DENSE = "dense"
"""The way that all others of a workload are compared with."""


@dataclass(frozen=True, kw_only=True)
class SpeedRow:
    """One way to compute one workload.

    Attributes
    ----------
    work
        The workload, such as ``"token layers, M=256"``.
    way
        How it was computed: a preset, or a dense rival.
    timing
        Seconds a pass.
    floor
        Seconds below which this device cannot get, from bytes and FLOPs and measured ceilings.
    bytes
        Bytes of weights that have to be read.
    error
        Relative distance of the result from the dense product with the decoded weights; None for
        the dense one.
    flops
        Of the products; 0 for a row that computes none.
    details
        More to know.
    """

    work: str
    way: str
    timing: Timing
    floor: float
    bytes: int
    error: float | None = None
    flops: float = 0.0
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Result:
    """One way to do one thing, and how it compares.

    Attributes
    ----------
    work, way
        What was done, and how.
    timing
        Seconds a pass.
    ratios
        How many times as fast as each rival, by the rival's name.
    limit
        How many times as fast as the first rival the device allows; None where it is not known.
    bytes
        Of the weights.
    error
        Relative distance from the reference; None for the reference itself.
    details
        More to know, as JSON values.
    """

    work: str
    way: str
    timing: Timing
    ratios: Mapping[str, float] = field(default_factory=dict)
    limit: float | None = None
    bytes: int | None = None
    error: float | None = None
    details: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values; times in microseconds."""
        return {
            "work": self.work,
            "way": self.way,
            **self.timing.to_dict(),
            "ratios": dict(self.ratios),
            "limit": self.limit,
            "bytes": self.bytes,
            "error": self.error,
            **self.details,
        }


def speed_results(rows: Sequence[SpeedRow]) -> list[Result]:
    """Compare rows of one workload with its dense one."""
    dense = next(row for row in rows if row.way == DENSE)
    return [
        Result(
            work=row.work,
            way=row.way,
            timing=row.timing,
            ratios={DENSE: dense.timing.median / row.timing.median},
            limit=dense.timing.median / row.floor,
            bytes=row.bytes,
            error=row.error,
            details=row.details | {"flops": row.flops},
        )
        for row in rows
    ]


def step_results(rows: Sequence[StepRow], title: str) -> list[Result]:
    """Compare steps with diffusers' (compiled where it is), and with our dense runtime's.

    Parameters
    ----------
    rows
        Of one number of images.
    title
        What to call the model.
    """
    by_name = {row.name: row for row in rows}
    plain = by_name.get(COMPILED) or by_name[EAGER]
    results: list[Result] = []
    for row in rows:
        ratios = {plain.name: plain.timing.median / row.timing.median}
        own = by_name.get(f"dense, {row.name.partition(', ')[2]}")
        if own is not None:
            ratios["our runtime, dense"] = own.timing.median / row.timing.median
        count = f"{row.images} image{'s' * (row.images > 1)}"
        results.append(
            Result(
                work=f"guided step of {title}, {count}",
                way=row.name,
                timing=row.timing,
                ratios=ratios,
                bytes=row.weight_bytes,
                error=row.error,
                details={"bytes_by_part": row.bytes, "peak_bytes": row.peak_bytes},
            )
        )
    return results
