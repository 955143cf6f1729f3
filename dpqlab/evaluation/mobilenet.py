"""ImageNet features: a second extractor, so that the bundled classifier does not decide alone.

MobileNetV2 (Sandler et al., arXiv 1801.04381) up to its global average pool, 1280 features, with
the weights that torchvision publishes as ``mobilenet_v2-b0353104.pth`` (BSD-3-Clause). The weights
are not bundled and nothing is downloaded: name a safetensors file that
``python -m benchmarks.judges --convert`` made of them. Out of domain for small grey pictures, as
every ImageNet network is; of use to compare, not as an absolute number.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn import functional as F

from dpqlab.core.precision import exact_float32
from dpqlab.errors import CheckpointError, ConfigError, ShapeError

FEATURES = 1280
SIDE = 64  # pixels that images are enlarged to
# expansion, channels, blocks, stride of the first block: table 2 of the paper
_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, RGB in [0, 1]
_MOST_BYTES = 16 << 20


def _convolution(
    inputs: int, outputs: int, side: int, stride: int = 1, groups: int = 1
) -> nn.Module:
    """Convolution, batch norm, ReLU6."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, side, stride, side // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU6(),
    )


class _InvertedResidual(nn.Module):
    """Expand, filter each channel, project; a shortcut where shapes allow (section 3.3)."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.shortcut = stride == 1 and inputs == outputs
        self.conv = nn.Sequential(
            *([_convolution(inputs, hidden, 1)] if expansion != 1 else []),
            _convolution(hidden, hidden, 3, stride, groups=hidden),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.shortcut else self.conv(x)


class MobileNetFeatures(nn.Module):
    """MobileNetV2 without its classifier; parameters are named as torchvision names them."""

    def __init__(self) -> None:
        super().__init__()
        self.sha256 = ""  # of the file it was loaded from
        layers: list[nn.Module] = [_convolution(3, 32, 3, 2)]
        inputs = 32
        for expansion, outputs, blocks, stride in _STAGES:
            for index in range(blocks):
                first = stride if index == 0 else 1
                layers.append(_InvertedResidual(inputs, outputs, first, expansion))
                inputs = outputs
        layers.append(_convolution(inputs, FEATURES, 1))
        self.features = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images (N, 3, H, W) to features (N, 1280)."""
        return self.features(images).mean(dim=(2, 3))


def load_mobilenet(
    path: str | os.PathLike[str], *, device: torch.device | str = "cpu"
) -> MobileNetFeatures:
    """Load a converted weights file, in evaluation mode, with ``.sha256`` set.

    Raises
    ------
    CheckpointError
        The file is missing, damaged, too large, or not the features of a MobileNetV2.
    """
    source = Path(path)
    if not source.is_file():
        raise CheckpointError(
            f"{source} does not exist. Get mobilenet_v2-b0353104.pth and convert it: "
            "python -m benchmarks.judges --convert FILE.pth --mobilenet FILE.safetensors"
        )
    if (size := source.stat().st_size) > _MOST_BYTES:
        raise CheckpointError(
            f"{source} has {size} bytes; converted MobileNetV2 weights have fewer than "
            f"{_MOST_BYTES}."
        )
    with torch.device("meta"):
        net = MobileNetFeatures()
    try:
        with safe_open(source, framework="pt") as file:
            _check_header(file, net.state_dict(), source)
            state = {name: file.get_tensor(name) for name in net.state_dict()}
    except SafetensorError as error:
        raise CheckpointError(
            f"{source} is not a safetensors file: {error}. Convert the weights again."
        ) from error
    net.load_state_dict(state, assign=True)
    net.sha256 = hashlib.sha256(source.read_bytes()).hexdigest()
    return net.to(device).eval().requires_grad_(False)


def mobilenet_features(
    net: MobileNetFeatures,
    images: np.ndarray | Tensor,
    *,
    batch: int = 500,
    device: torch.device | str | None = None,
) -> np.ndarray:
    """Return the features float64 (N, 1280) of uint8 images (N, 1 or 3, H, W).

    Images are enlarged bilinearly to 64 x 64, grey becomes three equal channels, and the colours
    are normalised as for ImageNet. Computed in float32 with TF32 switched off, on ``device`` (None:
    where the network is).

    Raises
    ------
    ShapeError
        The images are not uint8, not four-dimensional, or neither grey nor RGB.
    """
    if (
        images.ndim != 4
        or images.shape[1] not in (1, 3)
        or images.dtype not in (np.uint8, torch.uint8)
    ):
        raise ShapeError(
            f"images are {images.dtype} {tuple(images.shape)}; "
            "expected uint8 (N, 1, H, W) or (N, 3, H, W)."
        )
    if batch < 1:
        raise ConfigError(f"batch is {batch}; expected at least 1.")
    where = next(net.parameters()).device if device is None else torch.device(device)
    net.to(where).eval()
    # a copy of a read-only array costs little; from_numpy would warn about it
    tensor = torch.from_numpy(np.array(images)) if isinstance(images, np.ndarray) else images
    with torch.inference_mode(), exact_float32():
        found = [net(to_imagenet_range(part.to(where))).cpu() for part in tensor.split(batch)]
    return torch.cat([torch.empty(0, FEATURES), *found]).double().numpy()


def to_imagenet_range(images: Tensor) -> Tensor:
    """Map uint8 images (N, 1 or 3, H, W) to normalised float32 (N, 3, 64, 64)."""
    scaled = F.interpolate(
        images.to(torch.float32) / 255.0, size=(SIDE, SIDE), mode="bilinear", align_corners=False
    )
    mean, std = (torch.tensor(x, device=images.device).view(3, 1, 1) for x in (_MEAN, _STD))
    return (scaled - mean) / std


def _check_header(file: safe_open, expected: dict[str, Tensor], source: Path) -> None:
    """Compare names, shapes and dtypes with the network, before any tensor is read."""
    if set(file.keys()) != set(expected):
        odd = sorted(set(file.keys()) ^ set(expected))[:5]
        raise CheckpointError(
            f"{source} is not the features of a MobileNetV2: the tensors {odd} are missing or "
            "foreign. Convert the weights again."
        )
    for name, value in expected.items():
        part = file.get_slice(name)
        dtype = "F32" if value.is_floating_point() else "I64"
        if tuple(part.get_shape()) != tuple(value.shape) or part.get_dtype() != dtype:
            raise CheckpointError(
                f"{name} of {source} is {part.get_dtype()} {part.get_shape()}; "
                f"expected {dtype} {list(value.shape)}."
            )
