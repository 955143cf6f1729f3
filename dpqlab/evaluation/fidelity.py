"""How close a student stays to its teacher on the same seeds; whether images show their class."""

from __future__ import annotations

import numpy as np

from dpqlab.errors import ShapeError

MOST_DB = 100.0  # reported for equal images; the smallest error of a 28x28 uint8 image is 77 dB


def psnr(images: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return the peak signal-to-noise ratio of each image in dB, float64 (N,).

    Images (N, C, H, W) are uint8, or floats in [0, 1]; the peak is 1. Equal images get
    :data:`MOST_DB`, not infinity, so that a mean over images stays finite.
    """
    if images.shape != targets.shape or images.ndim != 4:
        raise ShapeError(
            f"images {images.shape} and targets {targets.shape} must both be (N, C, H, W)."
        )
    errors = ((_unit(images) - _unit(targets)) ** 2).mean(axis=(1, 2, 3))
    return -10.0 * np.log10(np.maximum(errors, 10.0 ** (-MOST_DB / 10.0)))


def feature_cosine(features: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return the cosine between each pair of rows (N, F), float64 (N,).

    Two zero rows count as equal (1), a zero row beside another as unrelated (0).
    """
    if features.shape != targets.shape or features.ndim != 2:
        raise ShapeError(
            f"features {features.shape} and targets {targets.shape} must both be (N, F)."
        )
    a, b = features.astype(np.float64), targets.astype(np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    both_zero = ~(a.any(axis=1) | b.any(axis=1))
    cosine = (a * b).sum(axis=1) / np.where(lengths > 0.0, lengths, 1.0)
    return np.where(both_zero, 1.0, np.clip(cosine, -1.0, 1.0))


def agreement(predicted: np.ndarray, expected: np.ndarray) -> float:
    """Return the share of equal entries of two label arrays (N,).

    Against the requested labels this says whether images show their class; against the teacher's
    predictions on the same seeds, whether the student kept them.
    """
    if predicted.shape != expected.shape or predicted.ndim != 1 or not predicted.size:
        raise ShapeError(
            f"labels {predicted.shape} and {expected.shape} must both be (N,), N at least 1."
        )
    return float((predicted == expected).mean())


def _unit(images: np.ndarray) -> np.ndarray:
    values = images.astype(np.float64)
    return values / 255.0 if images.dtype == np.uint8 else values
