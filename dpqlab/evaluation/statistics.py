"""Mean and covariance of a set of features: all that a Frechet distance needs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dpqlab.checkpoint.arrays import ArraySpec, read_npz, text, write_npz
from dpqlab.checkpoint.records import FileKind, reading
from dpqlab.errors import CheckpointError, ConfigError, ShapeError

_KIND = FileKind(what="statistics of features", maker="`FeatureStatistics.save`", limit=1 << 31)
_SPECS = {
    "mean": ArraySpec(kind="f", shape=(None,)),
    "covariance": ArraySpec(kind="f", shape=(None, None)),
    "count": ArraySpec(kind="iu"),
    "source": ArraySpec(kind="U"),
    "feature_net": ArraySpec(kind="U"),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureStatistics:
    """Moments of ``count`` feature vectors.

    Parameters
    ----------
    mean
        float64 array (F,).
    covariance
        float64 array (F, F), divided by ``count - 1`` as every FID implementation does.
    count
        Number of images, at least 2.
    source
        What the images are, in words.
    feature_net
        SHA-256 of the classifier's file, or "" where unknown. Distances between statistics of
        different classifiers are refused.
    """

    mean: np.ndarray = field(repr=False)
    covariance: np.ndarray = field(repr=False)
    count: int
    source: str = ""
    feature_net: str = ""

    def __post_init__(self) -> None:
        """Check shapes, and that the covariance is a finite symmetric matrix."""
        width = self.mean.shape[0] if self.mean.ndim == 1 else -1
        if width < 1 or self.covariance.shape != (width, width):
            raise ShapeError(
                f"mean {self.mean.shape} and covariance {self.covariance.shape} do not belong "
                "together; expected (F,) and (F, F)."
            )
        if self.count < 2:
            raise ShapeError(
                f"statistics of {self.count} image(s) have no covariance; give at least 2."
            )
        scale = np.abs(self.covariance).max(initial=0.0)
        if not (np.isfinite(scale) and np.isfinite(self.mean).all()):
            raise ShapeError(
                "the statistics hold a NaN or an infinity; check the features they came from."
            )
        if np.abs(self.covariance - self.covariance.T).max(initial=0.0) > 1e-9 * scale:
            raise ShapeError(
                "the covariance is not symmetric; compute it with FeatureStatistics.from_features."
            )

    @classmethod
    def from_features(
        cls, features: np.ndarray, *, source: str = "", feature_net: str = ""
    ) -> FeatureStatistics:
        """Compute the statistics of features (N, F), in float64 whatever their dtype."""
        if features.ndim != 2 or len(features) < 2:
            raise ShapeError(
                f"features have shape {features.shape}; expected (N, F) with N of at least 2."
            )
        values = np.asarray(features, dtype=np.float64)
        mean = values.mean(axis=0)
        centred = values - mean
        covariance = centred.T @ centred / (len(values) - 1)
        return cls(
            mean=mean,
            covariance=(covariance + covariance.T) / 2,
            count=len(values),
            source=source,
            feature_net=feature_net,
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the fields as arrays, for a file that holds several statistics."""
        return {
            "mean": self.mean,
            "covariance": self.covariance,
            "count": np.asarray(self.count),
            "source": np.asarray(self.source),
            "feature_net": np.asarray(self.feature_net),
        }

    @classmethod
    def from_prefixed(cls, arrays: Mapping[str, np.ndarray], prefix: str = "") -> FeatureStatistics:
        """Rebuild statistics from the arrays of a file that prefixes their names.

        Raises
        ------
        CheckpointError
            If they are none; :func:`~dpqlab.checkpoint.records.reading` adds the file.
        """
        try:
            return cls(
                mean=arrays[f"{prefix}mean"].astype(np.float64),
                covariance=arrays[f"{prefix}covariance"].astype(np.float64),
                count=int(arrays[f"{prefix}count"]),
                source=text(arrays[f"{prefix}source"]),
                feature_net=text(arrays[f"{prefix}feature_net"]),
            )
        except ShapeError as error:
            raise CheckpointError(
                f"{prefix}mean and {prefix}covariance are no usable statistics: {error}"
            ) from error

    def require_network(self, feature_net: str) -> None:
        """Raise ConfigError if a known network other than ``feature_net`` made these statistics.

        A network that was never saved ("") passes: there is nothing to compare.
        """
        if self.feature_net and feature_net and self.feature_net != feature_net:
            raise ConfigError(
                f"features of the network {feature_net[:12]} meet statistics of the network "
                f"{self.feature_net[:12]} ({self.source}); a Frechet distance has a meaning within "
                "one network only. Compute both with the same file."
            )

    @staticmethod
    def specs(prefix: str = "") -> dict[str, ArraySpec]:
        """Describe :meth:`arrays` to :func:`~dpqlab.checkpoint.arrays.read_npz`."""
        return {prefix + key: spec for key, spec in _SPECS.items()}

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write an npz file."""
        return write_npz(path, self.arrays())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> FeatureStatistics:
        """Read what :meth:`save` wrote; raises CheckpointError for anything else."""
        with reading(path, _KIND):
            return cls.from_prefixed(read_npz(path, cls.specs(), kind=_KIND))
