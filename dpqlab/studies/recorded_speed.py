"""How fast compressed weights are on a GPU: what was measured once, as it ships with the package.

``python -m benchmarks.speed_export FILE`` writes the file from the benchmark records, so that
notebooks and the app can show it where there are neither records nor a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dpqlab.checkpoint.records import FileKind, read_json, reading, record_of
from dpqlab.diffusion.models import ASSETS

BUNDLED = ASSETS / "fashion-dit-runs" / "speed.json"
DENSE = "dense"
_KIND = FileKind(
    what="recorded speeds", maker="`python -m benchmarks.speed_export FILE`", limit=1_000_000
)


@dataclass(frozen=True, kw_only=True)
class LayerSpeed:
    """One way to compute the same Linears of all blocks of a DiT-XL/2.

    Attributes
    ----------
    work
        Which Linears: ``"28 modulation layers"`` or ``"token layers"``.
    way
        ``"dense"``, a preset, or a rival.
    rows
        M, the rows of x.
    microseconds
        A pass over all blocks, the median.
    speed
        How many times as fast as dense weights in the same run.
    goal, least
        What was aimed at, and the worst acceptable speed; None where none was set.
    floor_microseconds
        What the bytes and the operations would take at the device's own best.
    bytes, flops
        Of weights that are read, and of the product.
    copy, product
        The device's own best in the same run: bytes/s of a copy, FLOP/s of a large product.
    device, date
        Where and when (ISO) it was measured.
    """

    work: str
    way: str
    rows: int
    microseconds: float
    speed: float
    goal: float | None
    least: float | None
    floor_microseconds: float
    bytes: int
    flops: float
    copy: float
    product: float
    device: str
    date: str


@dataclass(frozen=True, kw_only=True)
class StepSpeed:
    """One way to compute a guided step of a DiT-XL/2.

    Attributes
    ----------
    images
        Drawn at once; the model sees twice as many.
    way
        How; ends in ``"modulation ahead"`` or ``"modulation per step"`` for our runtime.
    microseconds
        A step, the median.
    against_diffusers
        How many times as fast as diffusers with ``torch.compile`` in the same run.
    against_own
        The same against our runtime with dense weights and modulations made alike, or None.
    weight_bytes, modulation_bytes
        Held on the device: the model, and modulations made ahead.
    error
        Relative distance of the prediction from the plain model's; None for that one.
    device, date
        Where and when (ISO) it was measured.
    """

    images: int
    way: str
    microseconds: float
    against_diffusers: float
    against_own: float | None
    weight_bytes: int
    modulation_bytes: int
    error: float | None
    device: str
    date: str


@dataclass(frozen=True, kw_only=True)
class RecordedSpeed:
    """The latest record of every row, layers and whole steps."""

    layers: tuple[LayerSpeed, ...]
    steps: tuple[StepSpeed, ...]

    def layer(self, work: str, rows: int, way: str) -> LayerSpeed:
        """Return one row; KeyError if it was not measured."""
        for found in self.layers:
            if (found.work, found.rows, found.way) == (work, rows, way):
                return found
        raise KeyError(f"{work}, M={rows}: {way}")

    def layer_records(self) -> list[dict[str, Any]]:
        """Return the layers in the form of benchmark records, as far as a roofline needs it."""
        return [
            {
                "row": f"{one.work}, M={one.rows}: {one.way}",
                "metric": "speed",
                "value": one.speed,
                "device": one.device,
                "details": {
                    "median_us": one.microseconds,
                    "bytes": one.bytes,
                    "flops": one.flops,
                    "copy_GB_per_s": one.copy / 1e9,
                    "product_TFLOP_per_s": one.product / 1e12,
                },
            }
            for one in self.layers
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {"layers": [*map(asdict, self.layers)], "steps": [*map(asdict, self.steps)]}


def read_speed(path: Path) -> RecordedSpeed:
    """Read exported speeds.

    Raises
    ------
    CheckpointError
        If the file is missing, or something else.
    """
    with reading(path, _KIND):
        return record_of(RecordedSpeed, read_json(path, _KIND))


def bundled_speed() -> RecordedSpeed:
    """Read the speeds that ship with the package."""
    return read_speed(BUNDLED)


def layer_table(layers: Sequence[LayerSpeed]) -> str:
    """Return rows of layers as a table in Markdown."""
    head = "| layers | M | weights | time | against dense | limit | bytes read |"
    lines = [head, "|---|--:|---|--:|--:|--:|--:|"]
    for one in layers:
        limit = one.microseconds * one.speed / one.floor_microseconds
        lines.append(
            f"| {one.work} | {one.rows} | {one.way} | {one.microseconds:,.0f} µs "
            f"| {_times(one.speed)} | {_times(limit)} | {one.bytes / 1e6:,.0f} MB |"
        )
    return "\n".join(lines)


def step_table(steps: Sequence[StepSpeed]) -> str:
    """Return rows of whole steps as a table in Markdown."""
    lines = [
        "| images | model | time of a step | against diffusers + compile | our dense | held |",
        "|--:|---|--:|--:|--:|--:|",
    ]
    for one in steps:
        own = "" if one.against_own is None else _times(one.against_own)
        lines.append(
            f"| {one.images} | {one.way} | {one.microseconds / 1e3:.2f} ms "
            f"| {_times(one.against_diffusers)} | {own} | {one.weight_bytes / 1e6:,.0f} MB |"
        )
    return "\n".join(lines)


def _times(ratio: float) -> str:
    return f"{ratio:.{2 if ratio >= 0.095 else 4}f}×"
