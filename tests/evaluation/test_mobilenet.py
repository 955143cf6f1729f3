from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from dpqlab.errors import CheckpointError, ConfigError, ShapeError
from dpqlab.evaluation.mobilenet import (
    MobileNetFeatures,
    load_mobilenet,
    mobilenet_features,
    to_imagenet_range,
)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of random weights, with running statistics that say something."""
    torch.manual_seed(0)
    net = MobileNetFeatures()
    net.train()(torch.randn(8, 3, 32, 32))
    path = tmp_path_factory.mktemp("mobilenet") / "random.safetensors"
    save_file(net.state_dict(), path)
    return path


@pytest.fixture(scope="session")
def net(weights) -> MobileNetFeatures:
    return load_mobilenet(weights)


def pictures(count: int, channels: int = 1) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, channels, 28, 28), dtype=np.uint8)


def test_the_shapes_are_those_of_the_paper():
    net = MobileNetFeatures()
    # torchvision's mobilenet_v2: 3,504,872 parameters, 1,281,000 of them in the classifier
    assert sum(value.numel() for value in net.parameters()) == 2_223_872
    assert len(net.state_dict()) == 314 - 2
    assert net.state_dict()["features.17.conv.1.0.weight"].shape == (960, 1, 3, 3)
    sides = []
    x = torch.zeros(1, 3, 64, 64)
    for layer in net.eval().features:
        x = layer(x)
        sides.append(x.shape[-1])
    assert x.shape == (1, 1280, 2, 2)
    assert sides == [32, 32, *[16] * 2, *[8] * 3, *[4] * 7, *[2] * 5]


def test_agrees_with_torchvision(net, weights):
    # compared once by hand with torchvision 0.28.0 and the published weights: no difference at all
    try:
        from torchvision.models import mobilenet_v2
    except (ImportError, RuntimeError):  # not installed, or built for another torch
        pytest.skip("torchvision is not installed")
    theirs = mobilenet_v2()
    theirs.load_state_dict(load_file(weights), strict=False)
    images = torch.randn(4, 3, 64, 64)
    with torch.no_grad():
        expected = theirs.eval().features(images).mean(dim=(2, 3))
        torch.testing.assert_close(net(images), expected)


def test_images_are_enlarged_and_normalised_as_for_imagenet():
    black, white = (torch.full((1, 1, 28, 28), level, dtype=torch.uint8) for level in (0, 255))
    for flat, value in ((black, 0.0), (white, 1.0)):
        seen = to_imagenet_range(flat)
        assert seen.shape == (1, 3, 64, 64)
        mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
        np.testing.assert_allclose(seen[0, :, 5, 5], (value - mean) / std, rtol=1e-5)
    # bilinear with pixel centres: position (i + 0.5) * 28 / 64 - 0.5 of the original
    ramp = torch.arange(28, dtype=torch.uint8).expand(1, 1, 28, 28)
    column = np.clip((np.arange(64) + 0.5) * 28 / 64 - 0.5, 0, 27) / 255
    np.testing.assert_allclose(
        to_imagenet_range(ramp)[0, 0, 30] * 0.229 + 0.485, column, rtol=1e-5, atol=1e-6
    )
    colours = torch.from_numpy(pictures(2, channels=3))
    assert to_imagenet_range(colours).shape == (2, 3, 64, 64)


def test_features_do_not_depend_on_batches(net, weights):
    images = pictures(5)
    images.flags.writeable = False
    whole, parts = mobilenet_features(net, images), mobilenet_features(net, images, batch=2)
    assert whole.dtype == np.float64
    assert whole.shape == (5, 1280)
    np.testing.assert_allclose(whole, parts, atol=1e-5)
    grey = mobilenet_features(net, np.repeat(images, 3, axis=1))
    np.testing.assert_allclose(grey, whole, atol=1e-5)
    assert mobilenet_features(net, images[:0]).shape == (0, 1280)
    assert net.sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert not net.training
    assert not any(parameter.requires_grad for parameter in net.parameters())


def test_other_images_are_refused(net):
    for bad in (pictures(2).astype(np.float32), pictures(2)[:, 0], pictures(2, channels=2)):
        with pytest.raises(ShapeError, match="expected uint8"):
            mobilenet_features(net, bad)
    with pytest.raises(ConfigError, match="batch is 0"):
        mobilenet_features(net, pictures(1), batch=0)


def test_other_files_are_refused(weights, tmp_path):
    path = tmp_path / "x.safetensors"
    with pytest.raises(CheckpointError, match="does not exist"):
        load_mobilenet(path)
    path.write_bytes(weights.read_bytes()[:-9])
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        load_mobilenet(path)
    state = load_file(weights)
    save_file({**state, "classifier.1.bias": torch.zeros(1000)}, path)
    with pytest.raises(CheckpointError, match=r"classifier\.1\.bias"):
        load_mobilenet(path)
    name = "features.0.0.weight"
    save_file({**state, name: state[name].half()}, path)
    with pytest.raises(CheckpointError, match=r"features\.0\.0\.weight .* is F16"):
        load_mobilenet(path)
    with path.open("wb") as file:
        file.truncate(17 << 20)
    with pytest.raises(CheckpointError, match="fewer than"):
        load_mobilenet(path)


@pytest.mark.gpu
def test_the_gpu_agrees(net):
    here = mobilenet_features(net, pictures(4))
    there = mobilenet_features(net, pictures(4), device="cuda")
    net.cpu()
    np.testing.assert_allclose(there, here, atol=1e-4)
