"""The feature network: a small image classifier whose last hidden layer FCD is measured in.

A Frechet distance belongs to one network: the file's SHA-256 travels with every statistic, and
distances across files are refused (see :mod:`dpqlab.evaluation.frechet`). The usual Inception
features are out of domain for 28x28 grey images; a classifier trained on the data itself is the
customary alternative ("Frechet LeNet distance", and the LeNet of the KID paper, arXiv 1801.01401).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from dpqlab.core.precision import exact_float32
from dpqlab.errors import CheckpointError, ConfigError, ShapeError

_METADATA_KEY = "dpqlab.feature_net"
_MOST_BYTES = 64 << 20


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """The shape of a :class:`FeatureNet`; written into the header of its file."""

    channels: int = 1
    classes: int = 10
    width: int = 40
    blocks: tuple[int, ...] = (2, 2, 1)
    features: int = 128

    def __post_init__(self) -> None:
        """Refuse sizes that cannot be meant."""
        sizes = {
            "channels": self.channels,
            "classes": self.classes,
            "width": self.width,
            "features": self.features,
        }
        for name, size in sizes.items():
            if type(size) is not int or not 1 <= size <= 4096:
                raise ConfigError(
                    f"{name} of a FeatureNet is {size!r}; expected an integer from 1 to 4096."
                )
        if not 1 <= len(self.blocks) <= 5 or any(
            type(n) is not int or not 1 <= n <= 8 for n in self.blocks
        ):
            raise ConfigError(
                f"blocks of a FeatureNet are {self.blocks!r}; expected 1 to 5 counts from 1 to 8."
            )


class _Residual(nn.Module):
    """conv-BN-GELU-conv-BN beside a shortcut, then GELU (He et al., arXiv 1512.03385)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        inner = F.gelu(self.norm1(self.conv1(x)))
        return F.gelu(self.norm2(self.conv2(inner)) + self.shortcut(x))


class FeatureNet(nn.Module):
    """A small residual classifier: images in, features and logits out.

    ``len(blocks)`` stages, each half the resolution and twice the width of the one before; then
    global average pooling, Linear and ReLU (the features), Linear (the logits).
    """

    def __init__(
        self,
        channels: int = 1,
        classes: int = 10,
        width: int = 40,
        features: int = 128,
        blocks: tuple[int, ...] = (2, 2, 1),
    ) -> None:
        super().__init__()
        self.architecture = Architecture(
            channels=channels, classes=classes, width=width, blocks=tuple(blocks), features=features
        )
        self.sha256 = ""  # of the file it was loaded from
        self.stem = nn.Conv2d(channels, width, 3, 1, 1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        stages: list[nn.Module] = []
        inputs = width
        for stage, count in enumerate(blocks):
            outputs = width << stage
            for index in range(count):
                stages.append(_Residual(inputs, outputs, 2 if stage and not index else 1))
                inputs = outputs
        self.stages = nn.Sequential(*stages)
        self.hidden = nn.Linear(inputs, features)
        self.head = nn.Linear(features, classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map float images (N, C, H, W) in [-1, 1] to features (N, F) and logits (N, classes)."""
        x = self.stages(F.gelu(self.norm(self.stem(images))))
        features = F.relu(self.hidden(x.mean(dim=(2, 3))))
        return features, self.head(features)


@dataclass(frozen=True, kw_only=True, eq=False)
class Features:
    """What the network says about N images.

    Parameters
    ----------
    features
        float64 array (N, F).
    logits
        float64 array (N, classes).
    feature_net
        SHA-256 of the network's file, "" for a network that was never saved.
    """

    features: np.ndarray = field(repr=False)
    logits: np.ndarray = field(repr=False)
    feature_net: str = ""

    @property
    def predictions(self) -> np.ndarray:
        """The most likely class of each image, int64 (N,)."""
        return self.logits.argmax(axis=1)

    @classmethod
    def concatenate(cls, parts: Sequence[Features]) -> Features:
        """Join what one network said about several batches."""
        return cls(
            features=np.concatenate([part.features for part in parts]),
            logits=np.concatenate([part.logits for part in parts]),
            feature_net=parts[0].feature_net,
        )

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.features)


def fast_format(device: torch.device) -> torch.memory_format:
    """Return the memory format to train a network in: channels last where there is a GPU.

    On a CPU torch 2.11 writes beyond its buffers in the backward pass of a narrow network (width 4
    or 8) on images of 64x64 in that format.
    """
    return torch.channels_last if device.type == "cuda" else torch.contiguous_format


def to_network_range(images: Tensor) -> Tensor:
    """Map uint8 images to float32 in [-1, 1], the range the network was trained on."""
    return images.to(torch.float32) / 127.5 - 1.0


def extract(
    net: FeatureNet,
    images: np.ndarray | Tensor,
    *,
    batch: int = 500,
    device: torch.device | str | None = None,
) -> Features:
    """Run the network over uint8 images (N, C, H, W), ``batch`` at a time.

    Computed in float32 with TF32 switched off, so that devices agree to about 1e-5. The network is
    put in evaluation mode and moved to ``device`` (None: where it is).

    Raises
    ------
    ShapeError
        The images are not uint8, not four-dimensional, or of another number of channels.
    """
    channels = net.architecture.channels
    if (
        images.ndim != 4
        or images.shape[1] != channels
        or images.dtype not in (np.uint8, torch.uint8)
    ):
        raise ShapeError(
            f"images are {images.dtype} {tuple(images.shape)}; "
            f"expected uint8 (N, {channels}, H, W)."
        )
    if batch < 1:
        raise ConfigError(f"batch is {batch}; expected at least 1.")
    where = next(net.parameters()).device if device is None else torch.device(device)
    net.to(where).eval()
    # a copy of a read-only array costs little; from_numpy would warn about it
    tensor = torch.from_numpy(np.array(images)) if isinstance(images, np.ndarray) else images
    features, logits = [], []
    with torch.inference_mode(), exact_float32():
        for chunk in tensor.split(batch):
            hidden, scores = net(to_network_range(chunk.to(where)))
            features.append(hidden.cpu())
            logits.append(scores.cpu())
    width, classes = net.architecture.features, net.architecture.classes
    return Features(
        features=torch.cat([torch.empty(0, width), *features]).double().numpy(),
        logits=torch.cat([torch.empty(0, classes), *logits]).double().numpy(),
        feature_net=net.sha256,
    )


def save_feature_net(net: FeatureNet, path: str | os.PathLike[str]) -> str:
    """Write the network as safetensors, its architecture in the header; return the SHA-256."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    state = {name: value.detach().cpu().contiguous() for name, value in net.state_dict().items()}
    part = target.with_name(f".{target.name}.part")
    save_file(state, part, metadata={_METADATA_KEY: json.dumps(asdict(net.architecture))})
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    part.chmod(0o644)  # safetensors leaves its files unreadable to others
    part.replace(target)
    return hashlib.sha256(target.read_bytes()).hexdigest()


def load_feature_net(
    path: str | os.PathLike[str], *, device: torch.device | str = "cpu"
) -> FeatureNet:
    """Load what :func:`save_feature_net` wrote, in evaluation mode, with ``.sha256`` set.

    Raises
    ------
    CheckpointError
        The file is missing, damaged, too large, or no feature network.
    """
    source = Path(path)
    if not source.is_file():
        raise CheckpointError(f"{source} does not exist. recipes/train_feature_net.py makes it.")
    if (size := source.stat().st_size) > _MOST_BYTES:
        raise CheckpointError(
            f"{source} has {size} bytes; no feature network has more than {_MOST_BYTES}."
        )
    try:
        with safe_open(source, framework="pt") as file:
            described = (file.metadata() or {}).get(_METADATA_KEY)
            if described is None:
                raise CheckpointError(
                    f"{source} is no feature network: its header lacks {_METADATA_KEY!r}."
                )
            fields = json.loads(described)
            architecture = Architecture(**{**fields, "blocks": tuple(fields["blocks"])})
            _check_header(file, architecture, source)
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, ConfigError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{source} is not a usable feature network: {error}. Make it again."
        ) from error
    net = FeatureNet(**asdict(architecture))
    net.load_state_dict(state)
    net.sha256 = hashlib.sha256(source.read_bytes()).hexdigest()
    return net.to(device).eval()


def _check_header(file: safe_open, architecture: Architecture, source: Path) -> None:
    """Compare names, shapes and dtypes with the architecture, before any tensor is read."""
    with torch.device("meta"):
        expected = FeatureNet(**asdict(architecture)).state_dict()
    if set(file.keys()) != set(expected):
        odd = sorted(set(file.keys()) ^ set(expected))[:5]
        raise CheckpointError(
            f"{source} and its architecture {architecture} disagree on the tensors {odd}."
        )
    for name, value in expected.items():
        part = file.get_slice(name)
        dtype = "F32" if value.is_floating_point() else "I64"
        if tuple(part.get_shape()) != tuple(value.shape) or part.get_dtype() != dtype:
            raise CheckpointError(
                f"{name} of {source} is {part.get_dtype()} {part.get_shape()}; "
                f"expected {dtype} {list(value.shape)}."
            )
