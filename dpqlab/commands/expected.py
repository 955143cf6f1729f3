"""The bundled models that every complete installation has."""

from __future__ import annotations

from dpqlab.diffusion.models import bundled
from dpqlab.evaluation.bundled import DEFAULT_MODEL
from dpqlab.evaluation.datasets import MODELS

SOURCE = DEFAULT_MODEL
PRESETS: dict[str, tuple[str, ...]] = {
    "fashion-dit": (
        "vq-2bit",
        "dpq-2bit",
        "best-2bit",
        "best-1.25bit",
        "vq-1bit",
        "dpq-1bit",
        "best-1bit",
    ),
    "avatars-dit": ("vq-1bit", "dpq-1bit", "best-1bit"),
}
"""How each bundled full-precision model was compressed, and calibrated."""


def students_of(source: str) -> tuple[str, ...]:
    """Return the names of a bundled model's calibrated students."""
    return tuple(f"{source}-{preset}" for preset in PRESETS[source])


CALIBRATED = students_of(SOURCE)


def sources() -> tuple[str, ...]:
    """Return the full-precision models that should be there: the default one, and what is."""
    there = {entry.name for entry in bundled()}
    return tuple(model for model in MODELS if model == SOURCE or model in there)
