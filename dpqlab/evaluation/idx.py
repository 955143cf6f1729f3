"""Labelled images from gzipped idx files of unsigned bytes, the format of MNIST and its kin.

The header is two zero bytes, a type code, the number of dimensions, then each size as a big-endian
uint32; the items follow, and nothing after them.
"""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from dpqlab.errors import CheckpointError, ConfigError

Split = Literal["train", "test"]

MOST_LABELS = 1_000_000
_UINT8 = 0x08  # the idx type code of unsigned bytes


@dataclass(frozen=True, kw_only=True)
class IdxLayout:
    """The files of a data set: ``PREFIX-images-idxN-ubyte.gz``, ``PREFIX-labels-idx1-ubyte.gz``.

    Parameters
    ----------
    title
        What the data set is called in messages.
    item
        The shape of an image in the file: (H, W), or (H, W, C).
    classes
        The number of classes.
    most_images
        More are refused before memory is taken.
    remedy
        A sentence: where missing files come from.
    prefixes
        The first word of the files, by split.
    """

    title: str
    item: tuple[int, ...]
    classes: int
    most_images: int
    remedy: str
    prefixes: Mapping[str, str] = field(default_factory=lambda: {"train": "train", "test": "test"})

    def images_file(self, split: Split) -> str:
        """Return the name of a split's file of images."""
        return f"{self.prefixes[split]}-images-idx{1 + len(self.item)}-ubyte.gz"

    def labels_file(self, split: Split) -> str:
        """Return the name of a split's file of labels."""
        return f"{self.prefixes[split]}-labels-idx1-ubyte.gz"


def read_labelled(
    layout: IdxLayout, folder: str | os.PathLike[str], split: Split
) -> tuple[np.ndarray, np.ndarray]:
    """Read one split.

    Returns
    -------
    images : uint8 array (N, C, H, W)
        The files keep channels last, or have none; they come first here.
    labels : int64 array (N,)

    Raises
    ------
    ConfigError
        A file is missing, or the split is unknown.
    CheckpointError
        A file is damaged, or is not what its name says.
    """
    if split not in layout.prefixes:
        raise ConfigError(f"split is {split!r}; expected one of {sorted(layout.prefixes)}.")
    root = Path(folder)
    # more than an image has: a wrong shape is told beside the right one, below
    limits = (layout.most_images, *(4 * size for size in layout.item))
    images = read_idx(root / layout.images_file(split), limits=limits, layout=layout)
    labels = read_idx(root / layout.labels_file(split), limits=(MOST_LABELS,), layout=layout)
    if images.shape[1:] != layout.item:
        raise CheckpointError(
            f"The {split} images in {root} are {images.shape[1:]}; expected {layout.item}."
        )
    if len(images) != len(labels):
        raise CheckpointError(
            f"{root} holds {len(images)} {split} images but {len(labels)} labels."
        )
    if labels.size and labels.max() >= layout.classes:
        raise CheckpointError(
            f"The {split} labels in {root} reach {labels.max()}; expected 0..{layout.classes - 1}."
        )
    grey = len(layout.item) == 2
    images = images[:, None] if grey else np.ascontiguousarray(np.moveaxis(images, -1, 1))
    return images, labels.astype(np.int64)


def read_idx(
    path: str | os.PathLike[str], *, limits: tuple[int, ...], layout: IdxLayout
) -> np.ndarray:
    """Read a gzipped idx file of unsigned bytes.

    Parameters
    ----------
    path
        The file.
    limits
        The most items along each dimension; the file must have as many dimensions.
    layout
        Whose words the messages use.

    Raises
    ------
    ConfigError
        The file is missing.
    CheckpointError
        The file is damaged, or announces more than it may hold.
    """
    source, dimensions = Path(path), len(limits)
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
            if any(size > most for size, most in zip(shape, limits, strict=True)):
                raise CheckpointError(
                    f"{source} announces shape {shape}; no {layout.title} file has it."
                )
            count = int(np.prod(shape))
            body = file.read(count + 1)
    except FileNotFoundError:
        raise ConfigError(f"{source} does not exist. {layout.remedy}") from None
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
