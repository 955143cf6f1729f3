"""Fashion-MNIST from its four idx files: 60,000 + 10,000 grey images of 28x28, ten classes.

The data set is by Xiao, Rasul and Vollgraf (arXiv 1708.07747, MIT licence). Nothing is downloaded:
on Debian and Ubuntu the package ``dataset-fashion-mnist`` puts the files into
:data:`DEFAULT_FOLDER`.
"""

from __future__ import annotations

from pathlib import Path

from dpqlab.diffusion.classes import FASHION
from dpqlab.evaluation.idx import IdxLayout

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
