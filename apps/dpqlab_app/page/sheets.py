"""What the page shows of a drawing, from the engine or from a recorded example: plain data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from dpqlab_app.drawing.catalogue import Model
from dpqlab_app.drawing.frames import Frame, VersionFacts
from dpqlab_app.drawing.pictures import grid, png_bytes, zoom_for
from dpqlab_app.drawing.settings import DrawSettings

SHEET_IMAGE = 256
"""Most pixels of a side of an image that is downloaded."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Row:
    """The images of one version.

    Attributes
    ----------
    key, title, family
        As in the catalogue.
    images
        uint8 (N, H, W, C).
    true_bits, disk_bytes
        What it costs; None where that is not known.
    facts, ms_per_step
        What drew it and how fast; None in a recorded example.
    """

    key: str
    title: str
    family: str
    images: np.ndarray
    true_bits: float | None
    disk_bytes: int
    facts: VersionFacts | None = None
    ms_per_step: float | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Sheet:
    """All versions, full precision first.

    Attributes
    ----------
    settings, model
        What was drawn.
    rows
        Full precision, then the compressed versions.
    done
        Whether these are the pictures, not what is expected of them halfway.
    recorded
        Whether this is the example that ships with the app.
    notes
        What a visitor should know about how it was drawn.
    """

    settings: DrawSettings
    model: Model
    rows: tuple[Row, ...]
    done: bool = True
    recorded: bool = False
    notes: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Class of each image in words."""
        return tuple(self.model.classes[label] for label in self.settings.labels)

    def picture(self) -> Image.Image:
        """All rows as one picture, enlarged."""
        zoom = zoom_for(self.model.side, SHEET_IMAGE)
        return grid([row.images for row in self.rows], zoom=zoom)

    def png(self) -> bytes:
        """All rows as PNG, with the settings in its metadata."""
        versions = "; ".join(_described(row) for row in self.rows)
        return png_bytes(self.picture(), self.settings, {"versions": versions})

    def image_png(self, row: Row, place: int) -> bytes:
        """One image as PNG, enlarged, with the settings in its metadata."""
        zoom = zoom_for(self.model.side, SHEET_IMAGE)
        extra = {"version": _described(row), "class": self.names[place], "image": str(place)}
        return png_bytes(grid([row.images[place : place + 1]], zoom=zoom), self.settings, extra)

    def file_name(self, *parts: str) -> str:
        """Name a download."""
        words = (self.settings.model, *parts, f"seed{self.settings.seed}")
        return "_".join("".join(c if c.isalnum() or c in "-." else "-" for c in w) for w in words)


def sheet_of(frame: Frame, model: Model) -> Sheet:
    """Turn what the engine handed on into what the page shows."""
    rows = []
    for drawn in frame.versions:
        version = model.version(drawn.key)
        rows.append(
            Row(
                key=drawn.key,
                title=drawn.title,
                family=version.family,
                images=drawn.images,
                true_bits=version.true_bits,
                disk_bytes=drawn.facts.disk_bytes,
                facts=drawn.facts,
                ms_per_step=drawn.ms_per_step,
            )
        )
    return Sheet(
        settings=frame.settings,
        model=model,
        rows=tuple(rows),
        done=frame.done,
        notes=frame.notes,
    )


def _described(row: Row) -> str:
    bits = "" if row.true_bits is None else f" ({row.true_bits:.3f} true bits)"
    return f"{row.key}{bits}"
