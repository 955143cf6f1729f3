"""The recorded truth about the real images: statistics, a fixed subset, and the noise floors.

A noise floor is the value that two sets of *real* images already show; a model cannot be expected
to do better, and differences far below it mean nothing.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dpqlab.checkpoint.arrays import ArraySpec, read_npz, write_npz
from dpqlab.checkpoint.records import FileKind, reading
from dpqlab.evaluation.frechet import Interval
from dpqlab.evaluation.statistics import FeatureStatistics

_INTERVAL_FIELDS = ("value", "low", "high", "standard_error", "bias")
_KIND = FileKind(
    what="a reference of real images", maker="recipes/train_feature_net.py", limit=1 << 31
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Reference:
    """What generated images are compared with.

    Parameters
    ----------
    train, test
        Statistics of all train and of all test images. FCD is measured to ``train``.
    real_features
        float16 array (R, F): a fixed random subset of the train features, for precision and recall.
    floor
        FCD of the test images to ``train``: the noise floor, with its interval.
    halves
        FCD between two random halves of the train images.
    floor_precision, floor_recall
        Precision and recall of the test images against ``real_features``.
    """

    train: FeatureStatistics
    test: FeatureStatistics
    real_features: np.ndarray = field(repr=False)
    floor: Interval
    halves: float
    floor_precision: float
    floor_recall: float

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write an npz file."""
        arrays: dict[str, object] = {
            "real_features": self.real_features.astype(np.float16),
            "floor": np.array([getattr(self.floor, name) for name in _INTERVAL_FIELDS]),
            "halves": np.asarray(self.halves),
            "floor_precision_recall": np.array([self.floor_precision, self.floor_recall]),
        }
        for prefix, statistics in (("train_", self.train), ("test_", self.test)):
            arrays |= {prefix + key: value for key, value in statistics.arrays().items()}
        return write_npz(path, arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Reference:
        """Read what :meth:`save` wrote; raises CheckpointError for anything else."""
        specs = {
            "real_features": ArraySpec(kind="f", shape=(None, None)),
            "floor": ArraySpec(kind="f", shape=(len(_INTERVAL_FIELDS),)),
            "halves": ArraySpec(kind="f"),
            "floor_precision_recall": ArraySpec(kind="f", shape=(2,)),
        }
        specs |= FeatureStatistics.specs("train_") | FeatureStatistics.specs("test_")
        with reading(path, _KIND):
            arrays = read_npz(path, specs, kind=_KIND)
            train, test = (
                FeatureStatistics.from_prefixed(arrays, prefix) for prefix in ("train_", "test_")
            )
            width = arrays["real_features"].shape[1]
            widths = {train.mean.shape, test.mean.shape, (width,)}
            if len(widths) > 1 or train.feature_net != test.feature_net:
                raise ValueError("it mixes statistics of different feature networks")
        precision, recall = map(float, arrays["floor_precision_recall"])
        floor = dict(zip(_INTERVAL_FIELDS, map(float, arrays["floor"]), strict=True))
        return cls(
            train=train,
            test=test,
            real_features=arrays["real_features"],
            floor=Interval(**floor),
            halves=float(arrays["halves"]),
            floor_precision=precision,
            floor_recall=recall,
        )
