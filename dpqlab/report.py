"""What the demo measured, as records; :func:`dpqlab.viz.page.render` makes the page of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from torch import Tensor

from dpqlab.core.ledger import ModelLedger
from dpqlab.errors import ConfigError
from dpqlab.evaluation.ablation import Ablation
from dpqlab.evaluation.projection import Projection
from dpqlab.evaluation.rate_distortion import RateDistortionPoint
from dpqlab.evaluation.sizes import ledger_parts, size_figures

Group = Literal["full", "uncalibrated", "calibrated"]


@dataclass(frozen=True, kw_only=True)
class ModelRow:
    """One model of the report.

    Parameters
    ----------
    name
        Bundled name or folder.
    family
        "Full precision", "RTN", "VQ", "PQ", "DPQ" or "Best".
    group
        Full precision, compressed without calibration, or calibrated.
    nominal_bits
        The rate it is compared at, possibly a fraction; None for full precision.
    codec
        The codec in words.
    ledger
        What it stores.
    bytes_on_disk
        Of the weight files, headers included.
    images
        uint8 (N, C, H, W), one a class.
    psnr, feature_cosine, agreement
        Against the full-precision model's images of the same seeds: mean dB, mean cosine of the
        classifier's features, share of images with the same class; None for full precision.
    seconds
        It took to compress or load, and to sample.
    """

    name: str
    family: str
    group: Group
    nominal_bits: float | None
    codec: str
    ledger: ModelLedger = field(repr=False)
    bytes_on_disk: int
    images: Tensor = field(repr=False)
    psnr: float | None = None
    feature_cosine: float | None = None
    agreement: float | None = None
    seconds: float = 0.0

    @property
    def title(self) -> str:
        """Name the model without its group: "PQ, 1 bit"."""
        if self.nominal_bits is None:
            return self.family
        return f"{self.family}, {self.nominal_bits:g} bit"

    @property
    def full_title(self) -> str:
        """Name the model so that no two rows are called the same: "PQ, 1 bit, calibrated"."""
        return self.title + (", calibrated" if self.group == "calibrated" else "")

    def kept_classes(self) -> int | None:
        """Count the images in which the classifier sees what it sees in the teacher's."""
        return None if self.agreement is None else round(self.agreement * len(self.images))

    @property
    def bits(self) -> float:
        """True bits per weight."""
        return self.ledger.true_bits_per_weight

    @property
    def ratio_fp32(self) -> float:
        """Bytes of the model in fp32, parameters counted once, over the bytes on disk."""
        return size_figures(self.ledger, self.bytes_on_disk)["ratio_fp32"]

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the images as JSON values."""
        plain = (
            "name",
            "family",
            "group",
            "nominal_bits",
            "codec",
            "bytes_on_disk",
            "psnr",
            "feature_cosine",
            "agreement",
            "seconds",
        )
        return {key: getattr(self, key) for key in plain} | {
            "true_bits_per_weight": self.bits,
            "compressed_weights": self.ledger.compressed_weights,
            "tensor_bytes": self.ledger.stored_bytes,
            "ratio_fp32": self.ratio_fp32,
            "ratio_bf16": size_figures(self.ledger, self.bytes_on_disk)["ratio_bf16"],
            "bits_by_part": ledger_parts(self.ledger),
        }


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """How a run was made: versions, settings, machine, time, the command that repeats it."""

    when: str
    versions: dict[str, str]
    machine: str
    seed: int
    steps: int
    guidance: float
    scheduler: str
    seconds: float
    command: str


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """One codec on this model and on a larger one: the arithmetic of the ratio.

    ``same_bits`` is the ratio to fp32 of the larger model at the true bits of ``row``; ``there`` is
    its size under the same codec.
    """

    row: ModelRow
    larger: str
    there: Projection
    same_bits: float


@dataclass(frozen=True, kw_only=True)
class Report:
    """All that the page shows; the first row is the full-precision model.

    ``ablation`` is not of this run: it ships with the model, and is None where it does not.
    """

    rows: tuple[ModelRow, ...]
    classes: tuple[str, ...]
    points: tuple[RateDistortionPoint, ...]
    group_size: int
    scalings: tuple[Scaling, ...]
    facts: RunFacts
    ablation: Ablation | None = None

    def __post_init__(self) -> None:
        """Refuse a report without the row that all others are compared with."""
        if not self.rows or self.rows[0].group != "full":
            raise ConfigError("the first row of a report has to be the full-precision model")
        for row in self.rows:
            if len(row.images) != len(self.classes):
                raise ConfigError(
                    f"{row.name} has {len(row.images)} images: expected one for each of the "
                    f"{len(self.classes)} classes"
                )

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the images as JSON values."""
        return {
            "headline": headline(self),
            "facts": asdict(self.facts),
            "classes": list(self.classes),
            "models": [row.to_dict() for row in self.rows],
            "scaling": [
                {
                    "model": scaling.row.name,
                    "larger": scaling.larger,
                    "ratio_fp32_here": scaling.row.ratio_fp32,
                    "ratio_fp32_there_same_true_bits": scaling.same_bits,
                    "ratio_fp32_there_same_codec": scaling.there.ratio_fp32,
                    "true_bits_there_same_codec": scaling.there.true_bits,
                }
                for scaling in self.scalings
            ],
            "rate_distortion": [point.to_dict() for point in self.points],
            "ablation": None if self.ablation is None else self.ablation.to_dict(),
        }


def clock(seconds: float) -> str:
    """Write a duration as people say it.

    Examples
    --------
    >>> clock(8.4), clock(75)
    ('8 s', '1 min 15 s')
    """
    whole = round(seconds)
    return f"{whole} s" if whole < 60 else f"{whole // 60} min {whole % 60:02d} s"


def best_of(report: Report, group: Group, bits: float) -> ModelRow | None:
    """Return the row of a group and rate that repeats the teacher's images best."""
    found = [r for r in report.rows if (r.group, r.nominal_bits) == (group, bits)]
    return max(found, key=lambda r: r.psnr or 0.0, default=None)


def headline(report: Report) -> str:
    """Say in one sentence what this run has measured."""
    full, count = report.rows[0], len(report.classes)
    best, raw = best_of(report, "calibrated", 1), best_of(report, "uncalibrated", 1)
    size = f"{full.ledger.fp32_bytes / 1e6:.1f} MB"
    if best is None:
        return f"A diffusion transformer of {size}, compressed by vector and product quantization."
    text = (
        f"At {best.bits:.2f} bits per weight a diffusion transformer of {size} fits in "
        f"{best.bytes_on_disk / 1e6:.2f} MB, {best.ratio_fp32:.1f}× smaller, and still draws the "
        f"same thing in {best.kept_classes()} of {count} classes"
    )
    if raw is None:
        return text + "."
    return f"{text}; without calibration the best model near 1 bit keeps {raw.kept_classes()}."
