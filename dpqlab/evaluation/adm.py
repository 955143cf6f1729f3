"""Sample files as the field's evaluator takes them (``guided-diffusion/evaluations``, "ADM").

An npz of ``arr_0``, uint8 images (N, H, W, 3), and ``arr_1``, int64 labels (N,). They may be larger
than memory: written and read in parts, stored without compression.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from dpqlab.checkpoint.atomic import sync_folder
from dpqlab.errors import CheckpointError, ShapeError

IMAGES, LABELS = "arr_0", "arr_1"
_LONG_AGO = (1980, 1, 1, 0, 0, 0)  # so that equal arrays make equal files


def as_rgb(images: Tensor) -> np.ndarray:
    """Return uint8 images (N, C, H, W) as (N, H, W, 3); grey ones three times the same."""
    if images.ndim != 4 or images.shape[1] not in (1, 3) or images.dtype != torch.uint8:
        raise ShapeError(
            f"images are {images.dtype} {tuple(images.shape)}: expected uint8 (N, C, H, W), C 1 or "
            "3; latents of a VAE must be decoded first"
        )
    return images.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).contiguous().cpu().numpy()


def write_samples(path: Path, parts: Iterable[np.ndarray], labels: np.ndarray) -> None:
    """Write a sample file; the target appears whole or not at all.

    Parameters
    ----------
    parts
        Images uint8 (n, H, W, 3), together as many as there are labels.
    labels
        int64 (N,).

    Raises
    ------
    CheckpointError
        If it cannot be written; what was there is unchanged.
    ShapeError
        If the parts are not of one shape, or too many or too few.
    """
    staging = path.with_name(f".{path.name}.part")
    try:
        with staging.open("wb") as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
                with archive.open(_member(IMAGES), "w", force_zip64=True) as stream:
                    _write_parts(stream, parts, len(labels))
                with archive.open(_member(LABELS), "w", force_zip64=True) as stream:
                    np.lib.format.write_array(stream, labels.astype(np.int64), allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        staging.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise CheckpointError(
            f"could not write {path}: {error.strerror or error}; what was there is unchanged"
        ) from error
    finally:
        staging.unlink(missing_ok=True)


def read_samples(path: Path, batch: int) -> Iterator[np.ndarray]:
    """Yield the images of a sample file, uint8 (n, H, W, 3), ``batch`` at a time.

    Raises
    ------
    CheckpointError
        If it is none.
    """
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{IMAGES}.npy") as stream:
            count, side = _read_header(stream)
            size = int(np.prod(side))
            for start in range(0, count, batch):
                wanted = min(batch, count - start)
                data = stream.read(wanted * size)
                yield np.frombuffer(data, np.uint8).reshape(wanted, *side)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise CheckpointError(
            f"{path}: no sample file ({error}); expected an npz with {IMAGES}, uint8 (N, H, W, 3)"
        ) from error


def read_statistics(path: Path) -> tuple[np.ndarray, np.ndarray] | None:
    """Return mean (F,) and covariance (F, F) that a reference file holds; None if it has none.

    The reference batches of ADM come with ``mu`` and ``sigma``, those of the whole data set.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if "mu" not in arrays or "sigma" not in arrays:
                return None
            return arrays["mu"].astype(np.float64), arrays["sigma"].astype(np.float64)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path} cannot be read: {error}; expected an npz") from error


def _member(name: str) -> zipfile.ZipInfo:
    return zipfile.ZipInfo(f"{name}.npy", _LONG_AGO)


def _write_parts(stream: IO[bytes], parts: Iterable[np.ndarray], count: int) -> None:
    left, shape = count, None
    for part in parts:
        if shape is None:
            shape = part.shape[1:]
            header: Any = {"descr": "|u1", "fortran_order": False, "shape": (count, *shape)}
            np.lib.format.write_array_header_1_0(stream, header)
        if part.shape[1:] != shape or part.dtype != np.uint8 or len(part) > left:
            raise ShapeError(
                f"a part is {part.dtype} {part.shape}: expected uint8 (n, {shape}), n up to {left}"
            )
        stream.write(np.ascontiguousarray(part).data)
        left -= len(part)
    if left:
        raise ShapeError(f"{count - left} images for {count} labels: expected as many")


def _read_header(stream: IO[bytes]) -> tuple[int, tuple[int, ...]]:
    version = np.lib.format.read_magic(stream)
    if version != (1, 0):
        raise ValueError(f"array format {version}, expected (1, 0)")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    if dtype != np.uint8 or fortran or len(shape) != 4 or shape[3] != 3:
        raise ValueError(f"{IMAGES} is {dtype} {shape}")
    return shape[0], shape[1:]
