"""The Inception FID, with torch-fidelity's network and weights that the user has.

torch-fidelity's network is the one of the original FID (TensorFlow's, of 2015), converted. dpqlab
brings neither the network nor its weights, and downloads nothing. Its numbers belong beside those
of papers; those of the bundled classifiers (FCD) do not.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from dpqlab.errors import BackendError, CheckpointError
from dpqlab.evaluation.adm import read_samples, read_statistics
from dpqlab.evaluation.statistics import FeatureStatistics

LAYER = "2048"
"""The features of a FID, after the last pooling."""
BATCH = 50
_STATED = 50_000
"""Images that we take statistics in a file to be of; their number is nowhere used but in print."""


def load_inception(weights: Path, device: torch.device) -> nn.Module:
    """Load torch-fidelity's InceptionV3.

    Parameters
    ----------
    weights
        Its weights as safetensors: a pickle is not opened (``docs/many-gpus.md`` has the line that
        converts the published file).

    Raises
    ------
    BackendError
        If torch-fidelity is not installed.
    CheckpointError
        If the weights cannot be read, or are another network's.
    """
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import (  # pyright: ignore
            FeatureExtractorInceptionV3,
        )
    except ModuleNotFoundError as error:
        raise BackendError(
            f"an Inception FID needs {error.name}, which is not installed: pip install -e '.[fid]' "
            "in the clone"
        ) from error
    try:
        state = load_file(weights)
        # it reads a pickle of its own from a path or a buffer: here one that we have just made
        buffer = io.BytesIO()
        torch.save(state, buffer)
        buffer.seek(0)
        made: Any = FeatureExtractorInceptionV3
        net = made("inception-v3-compat", [LAYER], feature_extractor_weights_path=buffer)
    except (SafetensorError, OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(
            f"{weights}: no weights of torch-fidelity's InceptionV3 ({reason}); expected them as "
            "safetensors"
        ) from error
    return net.to(device).eval()


@torch.no_grad()
def inception_features(net: nn.Module, parts: Iterable[np.ndarray]) -> np.ndarray:
    """Return the features (N, 2048), float32, of images uint8 (n, H, W, 3)."""
    device = next(net.parameters()).device
    found: list[np.ndarray] = []
    for part in parts:
        images = torch.tensor(part).permute(0, 3, 1, 2).to(device)
        found.append(net(images)[0].cpu().numpy())
    return np.concatenate(found)


def samples_statistics(net: nn.Module, path: Path, digest: str) -> FeatureStatistics:
    """Compute the statistics of a sample file's images.

    ``digest`` names the network: see :func:`digest_of`.
    """
    features = inception_features(net, read_samples(path, BATCH))
    return FeatureStatistics.from_features(features, source=path.name, feature_net=digest)


def reference_statistics(net: nn.Module, path: Path, digest: str) -> FeatureStatistics:
    """Return the statistics that a reference file holds, or those of its images.

    Raises
    ------
    CheckpointError
        If it holds neither.
    """
    stated = read_statistics(path)
    if stated is None:
        return samples_statistics(net, path, digest)
    mean, covariance = stated
    symmetric = (covariance + covariance.T) / 2
    return FeatureStatistics(mean=mean, covariance=symmetric, count=_STATED, source=path.name)


def digest_of(weights: Path) -> str:
    """Return the SHA-256 of a file."""
    with weights.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
