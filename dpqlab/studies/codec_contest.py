"""VQ against PQ on record: errors and true bits of many codecs, pairs at equal bits, students.

``python -m benchmarks.vq_vs_pq --export FILE`` writes the file from the benchmark's records.
Nothing that it says is believed before it is checked.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpqlab.checkpoint.atomic import replace_file
from dpqlab.checkpoint.documents import Json, closed
from dpqlab.checkpoint.records import FileKind, number, read_json, reading
from dpqlab.diffusion.models import ASSETS
from dpqlab.errors import ConfigError

NEAR = 0.02  # true bits within this share are equal
KIND = FileKind(
    what="a contest of codecs", maker="`python -m benchmarks.vq_vs_pq --export`", limit=150_000
)
BUNDLED = ASSETS / "fashion-dit-runs" / "vq-vs-pq.json"
_COLUMNS = ("subject", "kind", "codec", "true_bits", "error", "rows")
_STUDENT = ("vq", "codec", "moving", "true_bits", "fcd", "low", "high")
_KEYS = {"about": dict, "points": list, "pairs": list, "students": list}
_MOVING = {"codes fixed": False, "latents": True}


@dataclass(frozen=True, kw_only=True)
class CodecPoint:
    """One codec on one layer, before calibration.

    Attributes
    ----------
    subject, kind
        Model and layer.
    codec
        In words, such as ``"PQ/4 d=6 k=17"``.
    true_bits
        A weight.
    error
        ``|W - W'|**2 / |W|**2``.
    rows
        Sub-vectors that share a codebook, over its codewords.
    """

    subject: str
    kind: str
    codec: str
    true_bits: float
    error: float
    rows: float

    @property
    def family(self) -> str:
        """The codec without its numbers, such as ``"PQ/4"`` or ``"VQ/kind"``."""
        return self.codec.partition(" ")[0]

    @property
    def is_vq(self) -> bool:
        """Whether all positions of a layer share one codebook."""
        return self.family.partition("/")[0] == "VQ"


@dataclass(frozen=True, kw_only=True)
class CodecPair:
    """VQ and PQ on the same layer at equal true bits."""

    vq: CodecPoint
    pq: CodecPoint

    @property
    def ratio(self) -> float:
        """The error of VQ over that of PQ: above 1 PQ wins."""
        return self.vq.error / self.pq.error


@dataclass(frozen=True, kw_only=True)
class CalibratedCodec:
    """A codec for all blocks of ``fashion-dit``, after calibration.

    Attributes
    ----------
    vq
        The VQ codec of equal true bits that it is compared with; itself where it is one.
    codec
        In words, such as ``"PQ d=8 k=20"``.
    moving
        Whether codes moved during calibration, or stayed where k-means had put them.
    true_bits
        A weight.
    fcd, low, high
        Distance of its images to the training set, and 95 % interval.
    """

    vq: str
    codec: str
    moving: bool
    true_bits: float
    fcd: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Contest:
    """All points, pairs and students, and where they come from."""

    points: tuple[CodecPoint, ...]
    pairs: tuple[CodecPair, ...]
    students: tuple[CalibratedCodec, ...]
    about: dict[str, Any]

    def points_of(self, subject: str, kind: str) -> tuple[CodecPoint, ...]:
        """Return the points of one layer."""
        return tuple(p for p in self.points if (p.subject, p.kind) == (subject, kind))

    def kinds(self, subject: str) -> tuple[str, ...]:
        """Return the kinds of layers of a subject that were measured, sorted."""
        return tuple(sorted({p.kind for p in self.points if p.subject == subject}))

    def wins(self, subject: str) -> dict[str, tuple[int, int]]:
        """Return for every kind of layer: pairs that PQ wins, and all pairs."""
        mine = [pair for pair in self.pairs if pair.vq.subject == subject]
        every = Counter(pair.vq.kind for pair in mine)
        won = Counter(pair.vq.kind for pair in mine if pair.ratio > 1)
        return {kind: (won[kind], every[kind]) for kind in sorted(every)}

    def student(self, codec: str, *, moving: bool) -> CalibratedCodec:
        """Return a calibrated codec.

        Raises
        ------
        ConfigError
            If it is not on record.
        """
        for one in self.students:
            if (one.codec, one.moving) == (codec, moving):
                return one
        known = ", ".join(sorted({one.codec for one in self.students if one.moving == moving}))
        raise ConfigError(f"no calibrated {codec!r} is on record: expected one of {known}")

    def save(self, path: Path) -> None:
        """Write JSON: points and students as rows of tables, pairs as two numbers of rows."""
        places = {(p.subject, p.kind, p.codec): i for i, p in enumerate(self.points)}
        text = {
            "about": self.about,
            "points": [[getattr(p, name) for name in _COLUMNS] for p in self.points],
            "pairs": [
                [places[p.subject, p.kind, p.codec] for p in (pair.vq, pair.pq)]
                for pair in self.pairs
            ],
            "students": [[getattr(one, name) for name in _STUDENT] for one in self.students],
        }
        replace_file(path, (json.dumps(text, separators=(",", ":")) + "\n").encode())

    @classmethod
    def load(cls, path: Path) -> Contest:
        """Read what :meth:`save` wrote.

        Raises
        ------
        CheckpointError
            If the file is not there, or something else.
        """
        with reading(path, KIND):
            found = closed(read_json(path, KIND), "it", _KEYS)
            points = tuple(_point(row) for row in found["points"])
            if not points:
                raise ValueError("it has no points")
            pairs = tuple(_pair(points, pair) for pair in found["pairs"])
            students = tuple(_student(row) for row in found["students"])
            return cls(points=points, pairs=pairs, students=students, about=found["about"])


def bundled_contest() -> Contest:
    """Load the contest that ships."""
    return Contest.load(BUNDLED)


def contest_of(records: Sequence[Mapping[str, Any]]) -> Contest:
    """Make a contest of the records of the suite ``vq_vs_pq``: single layers, and students.

    Raises
    ------
    ConfigError
        If no record pairs VQ with PQ.
    """
    last = {r["row"]: r for r in records if r["metric"] == "relative_weight_error"}
    details = [r["details"] for r in last.values() if r["details"]["kind"] != "block"]
    points = {(d["subject"], d["kind"], d["codec"]): _recorded(d) for d in details}
    pairs = [
        CodecPair(
            vq=points[d["subject"], d["kind"], d["codec"]],
            pq=points[d["subject"], d["kind"], other["codec"]],
        )
        for d in details
        for other in d["pairs"]
    ]
    if not pairs:
        raise ConfigError("no record pairs VQ with PQ: run python -m benchmarks.vq_vs_pq")
    newest = max(last.values(), key=lambda r: r["date"])
    about = {name: newest[name] for name in ("date", "commit", "device", "versions")}
    students = {r["row"]: r for r in records if r["metric"] == "fcd_10k"}
    return Contest(
        points=tuple(points.values()),
        pairs=tuple(pairs),
        students=tuple(_calibrated(r["details"]) for r in students.values()),
        about=about,
    )


def _recorded(details: Mapping[str, Any]) -> CodecPoint:
    return CodecPoint(
        subject=details["subject"],
        kind=details["kind"],
        codec=details["codec"],
        true_bits=_short(details["true_bits"]),
        error=_short(details["relative_error"]),
        rows=_short(details["rows_per_codeword"]),
    )


def _calibrated(details: Mapping[str, Any]) -> CalibratedCodec:
    return CalibratedCodec(
        vq=details["vq"],
        codec=details["plan"],
        moving=_MOVING[details["change"]],
        true_bits=_short(details["true_bits"]),
        fcd=_short(details["fcd"]["value"]),
        low=_short(details["fcd"]["low"]),
        high=_short(details["fcd"]["high"]),
    )


def _short(value: float) -> float:
    """Round to six digits: what a figure can show, and more."""
    return float(f"{value:.6g}")


def _point(row: Json) -> CodecPoint:
    if not isinstance(row, list) or len(row) != len(_COLUMNS):
        raise ValueError(f"a point is a row of {', '.join(_COLUMNS)}: got {row!r}")
    words, numbers = row[:3], row[3:]
    if not all(isinstance(word, str) and word for word in words):
        raise ValueError(f"{words} are not three names")
    subject, kind, codec = words
    true_bits, error, rows = (_positive(number) for number in numbers)
    return CodecPoint(
        subject=subject, kind=kind, codec=codec, true_bits=true_bits, error=error, rows=rows
    )


def _student(row: Json) -> CalibratedCodec:
    if not isinstance(row, list) or len(row) != len(_STUDENT):
        raise ValueError(f"a student is a row of {', '.join(_STUDENT)}: got {row!r}")
    vq, codec, moving = row[:3]
    if not (isinstance(vq, str) and isinstance(codec, str) and vq and codec):
        raise ValueError(f"{[vq, codec]} are not two names")
    if not isinstance(moving, bool):
        raise ValueError(f"{moving!r} is not true or false")
    true_bits, fcd, high = (_positive(row[place]) for place in (3, 4, 6))
    low = number(row[5], signed=True)
    if not low <= fcd <= high:
        raise ValueError(f"{fcd} does not lie between {low} and {high}")
    return CalibratedCodec(
        vq=vq, codec=codec, moving=moving, true_bits=true_bits, fcd=fcd, low=low, high=high
    )


def _pair(points: Sequence[CodecPoint], places: Json) -> CodecPair:
    if not (isinstance(places, list) and len(places) == 2 and all(type(i) is int for i in places)):
        raise ValueError(f"a pair is two numbers of points: got {places!r}")
    if not all(0 <= i < len(points) for i in places):
        raise ValueError(f"{places} point beyond the {len(points)} points")
    vq, pq = (points[i] for i in places)
    same = (vq.subject, vq.kind) == (pq.subject, pq.kind) and vq.is_vq and not pq.is_vq
    if not same or abs(pq.true_bits / vq.true_bits - 1) > NEAR + 1e-4:
        raise ValueError(f"{vq.codec} and {pq.codec} are not VQ and PQ at equal true bits")
    return CodecPair(vq=vq, pq=pq)


def _positive(value: Json) -> float:
    if (found := number(value, signed=True)) <= 0:
        raise ValueError(f"{value!r} is not a positive number")
    return found
