"""Fashion-MNIST from its four idx files: 60,000 + 10,000 grey images of 28x28, ten classes.

The data set is by Xiao, Rasul and Vollgraf (arXiv 1708.07747, MIT licence). Nothing is downloaded:
on Debian and Ubuntu the package ``dataset-fashion-mnist`` puts the files into
:data:`DEFAULT_FOLDER`.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from dpqlab.diffusion.classes import FASHION
from dpqlab.evaluation.idx import IdxLayout, Split, read_labelled

DEFAULT_FOLDER = Path("/usr/share/datasets/fashion-mnist")
CLASSES = FASHION.names
SIDE = FASHION.side
LAYOUT = IdxLayout(
    title="Fashion-MNIST",
    item=(SIDE, SIDE),
    classes=len(CLASSES),
    most_images=1_000_000,
    remedy="Install the Debian or Ubuntu package dataset-fashion-mnist, which puts the files in "
    f"{DEFAULT_FOLDER}, or name the folder that holds the four *-ubyte.gz files.",
    prefixes={"train": "train", "test": "t10k"},
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
    images : uint8 array (N, 1, 28, 28)
    labels : int64 array (N,)

    Raises
    ------
    ConfigError
        A file is missing, or the split is unknown.
    CheckpointError
        A file is damaged, or is not what its name says.
    """
    images, labels = read_labelled(LAYOUT, DEFAULT_FOLDER if folder is None else folder, split)
    return images[:, None], labels
