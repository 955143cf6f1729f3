"""Avatars from four idx files: colour images of 64x64, fifteen art styles as classes.

``recipes/make_avatars.py`` draws them with DiceBear (MIT licence), each from a seed of its own, in
styles of their designers under CC0 1.0 or CC BY 4.0, which the card of ``avatars-dit`` names.
Nothing is downloaded.
"""

from __future__ import annotations

from pathlib import Path

from dpqlab.diffusion.classes import AVATARS
from dpqlab.evaluation.idx import IdxLayout

DEFAULT_FOLDER = Path("out/avatars")
CLASSES = AVATARS.names
SIDE = AVATARS.side
CHANNELS = AVATARS.channels
LAYOUT = IdxLayout(
    title="avatars",
    item=(SIDE, SIDE, CHANNELS),
    classes=len(CLASSES),
    most_images=250_000,
    remedy="The avatars are made, not downloaded: `python -m recipes.make_avatars --out FOLDER` in "
    "a checkout of dpqlab draws them; name that folder.",
)
