"""The teacher's own samples, kept so that many students can be compared with them."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dpqlab.checkpoint.arrays import ArraySpec, read_npz, write_npz
from dpqlab.checkpoint.records import FileKind, reading
from dpqlab.errors import ConfigError, ShapeError
from dpqlab.evaluation.config import EvaluationConfig
from dpqlab.evaluation.statistics import FeatureStatistics

_PROTOCOL = ("images", "steps", "guidance", "seed")
_SPECS = {
    "features": ArraySpec(kind="f", shape=(None, None)),
    "predictions": ArraySpec(kind="i", shape=(None,)),
    "protocol": ArraySpec(kind="f", shape=(len(_PROTOCOL),)),
    "images": ArraySpec(kind="u", shape=(None, None, None, None), optional=True),
    **FeatureStatistics.specs("other_"),
}
_KIND = FileKind(what="samples of a teacher", maker="`TeacherSamples.save`", limit=1 << 32)


@dataclass(frozen=True, kw_only=True, eq=False)
class TeacherSamples:
    """What the teacher drew.

    Parameters
    ----------
    features
        float array (N, F) of its images at the evaluated seeds.
    predictions
        int64 array (N,): their classes in the eyes of the feature network.
    images
        The images themselves, uint8 (N, C, H, W), or None: then there is no PSNR.
    other
        Statistics of N further images of the teacher, at other seeds.
    protocol
        ``EvaluationConfig.protocol()`` of the drawing.
    """

    features: np.ndarray = field(repr=False)
    predictions: np.ndarray = field(repr=False)
    images: np.ndarray | None = field(repr=False, default=None)
    other: FeatureStatistics
    protocol: dict[str, float]

    def __post_init__(self) -> None:
        """Check that the parts belong together."""
        count = len(self.features)
        parts = [len(self.predictions), int(self.protocol["images"])]
        parts += [] if self.images is None else [len(self.images)]
        if any(part != count for part in parts):
            raise ShapeError(
                f"{count} teacher features come with {parts} predictions, images to draw, images."
            )
        if self.features.shape != (count, self.other.mean.shape[0]):
            raise ShapeError(
                f"teacher features are {self.features.shape}, but the statistics at other seeds "
                f"have {self.other.mean.shape[0]} features."
            )

    def require(self, config: EvaluationConfig, feature_net: str) -> None:
        """Raise ConfigError unless these samples were drawn and seen as ``config`` asks."""
        if self.protocol != config.protocol():
            raise ConfigError(
                f"the teacher samples were drawn with {self.protocol}, the evaluation asks for "
                f"{config.protocol()}; draw the teacher again, or use its settings."
            )
        self.other.require_network(feature_net)

    def save(self, path: str | os.PathLike[str], *, images: bool = True) -> Path:
        """Write an npz file, features in float16; ``images=False`` leaves the pictures out."""
        arrays = {
            "features": self.features.astype(np.float16),
            "predictions": self.predictions.astype(np.int16),
            "protocol": np.array([self.protocol[name] for name in _PROTOCOL], dtype=np.float64),
        }
        if images and self.images is not None:
            arrays["images"] = self.images
        other = {f"other_{key}": value for key, value in self.other.arrays().items()}
        return write_npz(path, arrays | other)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> TeacherSamples:
        """Read what :meth:`save` wrote; raises CheckpointError for anything else."""
        with reading(path, _KIND):
            arrays = read_npz(path, _SPECS, kind=_KIND)
            images, steps, guidance, seed = arrays["protocol"].tolist()
            protocol = {
                "images": int(images),
                "steps": int(steps),
                "guidance": guidance,
                "seed": int(seed),
            }
            return cls(
                features=arrays["features"].astype(np.float32),
                predictions=arrays["predictions"].astype(np.int64),
                images=arrays.get("images"),
                other=FeatureStatistics.from_prefixed(arrays, "other_"),
                protocol=protocol,
            )
