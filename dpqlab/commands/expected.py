"""The bundled models that every complete installation has."""

from __future__ import annotations

SOURCE = "fashion-dit"
CALIBRATED = (
    "fashion-dit-vq-2bit",
    "fashion-dit-pq-2bit",
    "fashion-dit-best-2bit",
    "fashion-dit-vq-1bit",
    "fashion-dit-pq-1bit",
    "fashion-dit-best-1bit",
)
