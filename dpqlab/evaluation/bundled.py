"""The feature network and the recorded references that ship with dpqlab."""

from __future__ import annotations

from pathlib import Path

from dpqlab.diffusion.models import ASSETS
from dpqlab.errors import CheckpointError, ConfigError
from dpqlab.evaluation.config import EvaluationConfig
from dpqlab.evaluation.features import FeatureNet, load_feature_net
from dpqlab.evaluation.reference import Reference
from dpqlab.evaluation.teacher import TeacherSamples

DEFAULT_MODEL = "fashion-dit"


def bundled_feature_net(model: str = DEFAULT_MODEL, *, device: str = "cpu") -> FeatureNet:
    """Load the feature network that FCD of ``model`` is measured with."""
    return load_feature_net(asset(model, "feature_net.safetensors"), device=device)


def bundled_reference(model: str = DEFAULT_MODEL) -> Reference:
    """Load what real images look like to that network."""
    return Reference.load(asset(model, "reference.npz"))


def quick_reference(model: str = DEFAULT_MODEL) -> TeacherSamples:
    """Load the teacher's samples of the quick protocol, recorded once for everybody."""
    samples = TeacherSamples.load(path := asset(model, "quick_reference.npz"))
    if samples.protocol != (expected := EvaluationConfig.quick().protocol()):
        raise CheckpointError(
            f"{path} was drawn with {samples.protocol}; expected {expected}. Make it again."
        )
    return samples


def has_quick_reference(model: str = DEFAULT_MODEL) -> bool:
    """Whether the teacher's samples are on record; a young model has none yet."""
    return (ASSETS / model / "quick_reference.npz").is_file()


def asset(model: str, name: str) -> Path:
    """Return the path of a bundled file; ConfigError names the models that have it."""
    path = ASSETS / model / name
    if not path.is_file():
        known = sorted(found.parent.name for found in ASSETS.glob(f"*/{name}"))
        raise ConfigError(
            f"the model {model!r} has no bundled {name}; models that do: {known or 'none'}."
        )
    return path
