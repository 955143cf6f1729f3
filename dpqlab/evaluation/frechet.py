"""Frechet distance between Gaussians fitted to features, in float64, with its bootstrap interval.

With means m and covariances C the distance is
``|m1 - m2|^2 + tr C1 + tr C2 - 2 tr sqrt(C1 C2)`` (Dowson and Landau 1982; as FID in Heusel et
al., arXiv 1706.08500, eq. 6). ``C1 C2`` is not symmetric, but has the eigenvalues of the symmetric
``sqrt(C1) C2 sqrt(C1)``: two symmetric eigenproblems, real by construction, where the usual square
root of a product turns complex for nearly singular matrices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from dpqlab.errors import ConfigError, ShapeError
from dpqlab.evaluation.statistics import FeatureStatistics

_NORMAL_95 = 1.959963984540054


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A measured value with its 95 % interval.

    Parameters
    ----------
    value
        The plain estimate from all samples.
    low, high
        Ends of the interval for the value *expected at this number of samples*.
    standard_error
        Spread of the estimate from one set of samples to the next.
    bias
        How far the estimate lies above the value for infinitely many samples, as the bootstrap
        sees it; ``value - bias`` is the corrected estimate.
    """

    value: float
    low: float
    high: float
    standard_error: float
    bias: float = 0.0

    def to_dict(self) -> dict[str, float]:
        """Return the fields as a dict for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        """Return "value [low, high]" with four significant digits."""
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


def frechet_distance(a: FeatureStatistics, b: FeatureStatistics) -> float:
    """Return the Frechet distance of two statistics; 0 up to rounding when they are equal.

    Raises
    ------
    ShapeError
        The feature widths differ.
    ConfigError
        The statistics come from two different feature networks.
    """
    if a.mean.shape != b.mean.shape:
        raise ShapeError(
            f"statistics have {a.mean.shape[0]} and {b.mean.shape[0]} features; they must agree."
        )
    a.require_network(b.feature_net)
    root = symmetric_root(a.covariance)
    return float(_distances(root, a, b.mean[None], b.covariance[None])[0])


def frechet_interval(
    features: np.ndarray,
    reference: FeatureStatistics,
    *,
    resamples: int = 200,
    generator: np.random.Generator,
) -> Interval:
    """Return the distance of features (N, F) to ``reference`` with a bootstrap interval.

    The generated samples are resampled with replacement; the reference stays fixed. A resample
    holds only about 63 % of the distinct samples, so its distance is too large, by about the bias
    that the estimate itself already has. Percentiles of the resamples would therefore lie above the
    estimate; instead the interval is ``value`` plus and minus 1.96 standard deviations of the
    resamples, and their mean excess over the value is reported as ``bias``. Close to the noise
    floor, where the first-order term of the distance vanishes, this spread is too wide by up to a
    factor sqrt(3): a cautious interval.
    """
    values, replicas = _bootstrap([features], reference, resamples, generator)
    return _interval(values[0], replicas[:, 0], lowest=0.0)


def frechet_difference(
    first: np.ndarray,
    second: np.ndarray,
    reference: FeatureStatistics,
    *,
    resamples: int = 200,
    generator: np.random.Generator,
) -> Interval:
    """Return ``FCD(first, reference) - FCD(second, reference)`` with a paired bootstrap interval.

    Row i of ``first`` and of ``second`` (N, F) must belong together (same seed and label): they are
    resampled together, so that what both share cancels. With student samples first and teacher
    samples second, against other samples of the teacher, this is the excess FCD. It may be
    negative.
    """
    values, replicas = _bootstrap([first, second], reference, resamples, generator)
    return _interval(values[0] - values[1], replicas[:, 0] - replicas[:, 1], lowest=-np.inf)


def symmetric_root(matrix: np.ndarray) -> np.ndarray:
    """Return the positive semi-definite square root of a symmetric matrix (F, F)."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.clip(values, 0.0, None))) @ vectors.T


def _distances(
    root: np.ndarray, reference: FeatureStatistics, means: np.ndarray, covariances: np.ndarray
) -> np.ndarray:
    """Distances (S,) of means (S, F), covariances (S, F, F); ``root`` is the reference's."""
    inner = root @ covariances @ root
    spectrum = np.linalg.eigvalsh((inner + inner.swapaxes(-1, -2)) / 2)
    cross = np.sqrt(np.clip(spectrum, 0.0, None)).sum(axis=-1)
    traces = np.trace(reference.covariance) + np.trace(covariances, axis1=-2, axis2=-1)
    shifts = ((means - reference.mean) ** 2).sum(axis=-1)
    return np.maximum(shifts + traces - 2.0 * cross, 0.0)


def _bootstrap(
    sets: Sequence[np.ndarray],
    reference: FeatureStatistics,
    resamples: int,
    generator: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Distances (S,) of S paired sets of features, and those (R, S) of R common resamples."""
    if resamples < 2:
        raise ConfigError(f"resamples is {resamples}; an interval needs at least 2 (200 is usual).")
    width, count = reference.mean.shape[0], len(sets[0])
    for features in sets:
        if features.shape != (count, width) or count < 2:
            raise ShapeError(
                f"features have shape {features.shape}; expected ({count}, {width}): at least 2 "
                "rows, as many in each set, as wide as the reference."
            )
    root = symmetric_root(reference.covariance)
    values = np.stack([np.asarray(features, dtype=np.float64) for features in sets])
    offsets = values.mean(axis=1)
    centred = values - offsets[:, None]  # keeps the subtraction in _moments accurate

    def distances(weights: np.ndarray) -> np.ndarray:
        moments = [_moments(rows, weights) for rows in centred]
        means = np.stack([mean for mean, _ in moments]) + offsets
        return _distances(root, reference, means, np.stack([spread for _, spread in moments]))

    draws = (generator.integers(count, size=count) for _ in range(resamples))
    replicas = [distances(np.bincount(draw, minlength=count)) for draw in draws]
    return distances(np.ones(count)), np.stack(replicas)


def _moments(rows: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean (F,) and covariance (F, F) of rows (N, F) taken ``weights`` (N,) times, N in all."""
    count = len(rows)
    mean = weights @ rows / count
    second = (rows * weights[:, None]).T @ rows
    return mean, (second - count * np.outer(mean, mean)) / (count - 1)


def _interval(value: float, replicas: np.ndarray, *, lowest: float) -> Interval:
    error = float(replicas.std(ddof=1))
    return Interval(
        value=float(value),
        low=max(float(value) - _NORMAL_95 * error, lowest),
        high=float(value) + _NORMAL_95 * error,
        standard_error=error,
        bias=float(replicas.mean() - value),
    )
