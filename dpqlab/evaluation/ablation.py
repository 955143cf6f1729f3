"""What the rows of the ablation came to, as they ship with the package.

``python -m benchmarks.ablation --export FILE`` writes the file from the benchmark records, so that
the report, notebooks and the app can show it where there are no records.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from dpqlab.calibration.ablation import ablation_rows
from dpqlab.checkpoint.records import FileKind, read_json, reading, record_of
from dpqlab.diffusion.models import ASSETS
from dpqlab.evaluation.bundled import DEFAULT_MODEL
from dpqlab.evaluation.frechet import Interval

_KIND = FileKind(
    what="an ablation", maker="`python -m benchmarks.ablation --export FILE`", limit=2_000_000
)
# an unbiased distance may fall below 0, and so may a signal-to-noise ratio
_SIGNED = ("value", "low", "high", "bias", "psnr")


@dataclass(frozen=True, kw_only=True)
class AblationResult:
    """One row, measured.

    Attributes
    ----------
    name, change, base
        As in :class:`dpqlab.calibration.ablation.AblationRow`: what the row changes of ``base``.
    true_bits
        Bits a weight, everything counted.
    fcd
        To the training images; not to be set beside an Inception FID.
    excess_fcd
        To the teacher's samples, less teacher to teacher; None where it was not measured.
    psnr
        Mean dB to the teacher's images of the same seeds, or None.
    calibration_steps, calibration_seconds
        Of calibration; None for a row without.
    device, date
        Where and when (ISO) it was measured.
    """

    name: str
    change: str
    base: str
    true_bits: float
    fcd: Interval
    excess_fcd: Interval | None
    psnr: float | None
    calibration_steps: int | None
    calibration_seconds: float | None
    device: str
    date: str


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """The rows that were measured, and what bounds them.

    Attributes
    ----------
    teacher
        FCD of the full-precision model under the same protocol.
    noise_floor
        FCD of real test images: nothing can be seen below it.
    images, sampling_steps, guidance
        Of the samples that were judged.
    results
        In the order of the planned rows; rows that are no longer planned come last.
    """

    teacher: Interval
    noise_floor: Interval
    images: int
    sampling_steps: int
    guidance: float
    results: tuple[AblationResult, ...]

    def result(self, name: str) -> AblationResult | None:
        """Return the row of that name if it was measured."""
        return next((result for result in self.results if result.name == name), None)

    @property
    def planned(self) -> int:
        """Number of rows of the ablation, measured or not."""
        return len(ablation_rows().keys() | {result.name for result in self.results})

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return asdict(self) | {"results": [asdict(result) for result in self.results]}

    @classmethod
    def from_dict(cls, values: Any) -> Ablation:
        """Build it from what :meth:`to_dict` returned; ValueError for anything else."""
        found = record_of(cls, values, signed=_SIGNED)
        return replace(found, results=in_order(found.results))


def in_order(results: Iterable[AblationResult]) -> tuple[AblationResult, ...]:
    """Sort into the order of :func:`dpqlab.calibration.ablation.ablation_rows`."""
    order = {name: index for index, name in enumerate(ablation_rows())}
    return tuple(sorted(results, key=lambda result: order.get(result.name, len(order))))


def read_ablation(path: Path) -> Ablation:
    """Read an exported ablation.

    Raises
    ------
    CheckpointError
        If the file is missing, or something else.
    """
    with reading(path, _KIND):
        return Ablation.from_dict(read_json(path, _KIND))


def bundled_ablation(model: str = DEFAULT_MODEL) -> Ablation | None:
    """Read the ablation that was made with a bundled model; None where none ships."""
    path = ASSETS / f"{Path(model).name}-runs" / "ablation.json"
    return read_ablation(path) if path.is_file() else None
