"""Avatars from four idx files: colour images of 64x64, fifteen art styles as classes.

``recipes/make_avatars.py`` draws them with DiceBear (MIT licence), each from a seed of its own, in
styles of their designers under CC0 1.0 or CC BY 4.0, which the card of ``avatars-dit`` names.
Nothing is downloaded.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from dpqlab.diffusion.classes import AVATARS
from dpqlab.evaluation.idx import IdxLayout, Split, read_labelled

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


def read_split(
    folder: str | os.PathLike[str] | None, split: Split
) -> tuple[np.ndarray, np.ndarray]:
    """Read one split.

    Parameters
    ----------
    folder
        Where the ``*-ubyte.gz`` files are; None is :data:`DEFAULT_FOLDER`.
    split
        ``"train"`` or ``"test"``.

    Returns
    -------
    images : uint8 array (N, 3, 64, 64)
        The files keep the channels last; they come first here.
    labels : int64 array (N,)

    Raises
    ------
    ConfigError
        A file is missing, or the split is unknown.
    CheckpointError
        A file is damaged, or is not what its name says.
    """
    images, labels = read_labelled(LAYOUT, DEFAULT_FOLDER if folder is None else folder, split)
    return np.ascontiguousarray(np.moveaxis(images, -1, 1)), labels
