"""The bundled models that every complete installation has."""

from __future__ import annotations

SOURCE = "fashion-dit"
CALIBRATED = (
    "fashion-dit-vq-2bit",
    "fashion-dit-dpq-2bit",
    "fashion-dit-best-2bit",
    "fashion-dit-best-1.25bit",
    "fashion-dit-vq-1bit",
    "fashion-dit-dpq-1bit",
    "fashion-dit-best-1bit",
)
