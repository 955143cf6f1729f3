"""Fashion-MNIST from its four idx files: 60,000 + 10,000 grey images of 28x28, ten classes.

The data set is by Xiao, Rasul and Vollgraf (arXiv 1708.07747, MIT licence). Nothing is downloaded:
on Debian and Ubuntu the package ``dataset-fashion-mnist`` puts the files into
:data:`DEFAULT_FOLDER`.
"""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from dpqlab.calibration.data import CalibrationData
from dpqlab.diffusion.schedules import make_scheduler
from dpqlab.errors import CheckpointError, ConfigError

Split = Literal["train", "test"]

DEFAULT_FOLDER = Path("/usr/share/datasets/fashion-mnist")
CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
SIDE = 28

_PREFIX = {"train": "train", "test": "t10k"}
_MOST_ITEMS = 1_000_000
_UINT8 = 0x08  # the idx type code of unsigned bytes


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
    if split not in _PREFIX:
        raise ConfigError(f"split is {split!r}; expected one of {sorted(_PREFIX)}.")
    root = DEFAULT_FOLDER if folder is None else Path(folder)
    images = read_idx(root / f"{_PREFIX[split]}-images-idx3-ubyte.gz", dimensions=3)
    labels = read_idx(root / f"{_PREFIX[split]}-labels-idx1-ubyte.gz", dimensions=1)
    if images.shape[1:] != (SIDE, SIDE):
        raise CheckpointError(
            f"The {split} images in {root} are {images.shape[1:]}; expected ({SIDE}, {SIDE})."
        )
    if len(images) != len(labels):
        raise CheckpointError(
            f"{root} holds {len(images)} {split} images but {len(labels)} labels."
        )
    if labels.size and labels.max() >= len(CLASSES):
        raise CheckpointError(
            f"The {split} labels in {root} reach {labels.max()}; expected 0..{len(CLASSES) - 1}."
        )
    return images[:, None], labels.astype(np.int64)


def calibration_images(
    folder: str | os.PathLike[str] | None,
    device: torch.device | str = "cpu",
    count: int | None = None,
) -> CalibrationData:
    """Read the training images as what the bundled models are calibrated on.

    Parameters
    ----------
    folder
        As in :func:`read_split`.
    device
        Where they are wanted.
    count
        The first so many only; default all.
    """
    images, labels = read_split(folder, "train")
    scheduler: Any = make_scheduler("ddim")
    return CalibrationData(
        images=torch.tensor(images[:count], device=device),
        labels=torch.tensor(labels[:count], device=device),
        alphas=scheduler.alphas_cumprod.to(device),
    )


def read_idx(path: str | os.PathLike[str], *, dimensions: int) -> np.ndarray:
    """Read a gzipped idx file of unsigned bytes with the given number of dimensions.

    The header is two zero bytes, a type code, the number of dimensions, then each size as a
    big-endian uint32; the items follow, and nothing after them.
    """
    source = Path(path)
    try:
        with gzip.open(source, "rb") as file:
            header = file.read(4 + 4 * dimensions)
            if len(header) < 4 + 4 * dimensions or header[:4] != bytes((0, 0, _UINT8, dimensions)):
                raise CheckpointError(
                    f"{source} starts with {header[:4].hex(' ')}; expected "
                    f"00 00 08 {dimensions:02x}, an idx file of unsigned bytes with {dimensions} "
                    "dimension(s)."
                )
            shape = struct.unpack(f">{dimensions}I", header[4:])
            if shape[0] > _MOST_ITEMS or any(side > 4 * SIDE for side in shape[1:]):
                raise CheckpointError(
                    f"{source} announces shape {shape}; no Fashion-MNIST file has it."
                )
            count = int(np.prod(shape))
            body = file.read(count + 1)
    except FileNotFoundError:
        raise ConfigError(
            f"{source} does not exist. Install the Debian or Ubuntu package dataset-fashion-mnist, "
            f"which puts the files in {DEFAULT_FOLDER}, or name the folder that holds the four "
            "*-ubyte.gz files."
        ) from None
    except (OSError, EOFError, zlib.error) as error:
        raise CheckpointError(
            f"{source} is not a readable gzip file: {error}. Get it again."
        ) from error
    if len(body) != count:
        held = "more" if len(body) > count else str(len(body))
        raise CheckpointError(
            f"{source} announces {count} bytes of items but holds {held}. Get it again."
        )
    return np.frombuffer(body, dtype=np.uint8).reshape(shape)
