from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from dpqlab.core.precision import exact_float32
from dpqlab.errors import CheckpointError, ConfigError, ShapeError
from dpqlab.evaluation.features import (
    Architecture,
    FeatureNet,
    Features,
    extract,
    load_feature_net,
    save_feature_net,
    to_network_range,
)

KEY = "dpqlab.feature_net"


@pytest.fixture
def images(draw_images) -> np.ndarray:
    return draw_images(tuple(range(10)), 5)


def test_the_standard_network_is_small_and_maps_as_promised():
    net = FeatureNet()
    assert sum(value.numel() for value in net.state_dict().values()) * 4 < 2_700_000
    features, logits = net(torch.zeros(2, 1, 28, 28))
    assert features.shape == (2, 128)
    assert logits.shape == (2, 10)
    assert (features >= 0).all()


def test_other_images_fit_too():
    net = FeatureNet(channels=3, classes=14, width=4, features=6, blocks=(1, 1, 1, 1))
    features, logits = net(torch.zeros(2, 3, 64, 64))
    assert (features.shape, logits.shape) == ((2, 6), (2, 14))


def test_the_network_range():
    pixels = torch.tensor([0, 255], dtype=torch.uint8)
    assert to_network_range(pixels).tolist() == [-1.0, 1.0]


def test_extraction_does_not_depend_on_batches(net, images):
    whole, parts = extract(net, images), extract(net, images, batch=3)
    assert whole.features.dtype == np.float64
    assert whole.features.shape == (10, 8)
    assert len(whole) == 10
    np.testing.assert_allclose(whole.features, parts.features, atol=1e-6)
    np.testing.assert_array_equal(whole.predictions, whole.logits.argmax(axis=1))
    assert whole.feature_net == net.sha256
    joined = Features.concatenate([extract(net, images[:4]), extract(net, images[4:])])
    np.testing.assert_allclose(joined.logits, whole.logits, atol=1e-6)


def test_extraction_is_the_network_in_evaluation_mode(net, images):
    found = extract(net.train(), torch.from_numpy(images))
    assert not net.training
    with torch.no_grad():
        expected, _ = net(torch.from_numpy(images) / 127.5 - 1.0)
    np.testing.assert_array_equal(found.features, expected.double().numpy())


def test_read_only_and_no_images(net, images):
    images.flags.writeable = False
    assert len(extract(net, images)) == 10
    assert extract(net, images[:0]).features.shape == (0, 8)


@pytest.mark.parametrize("shape", [(2, 3, 28, 28), (2, 28, 28)])
def test_other_images_are_refused(net, shape):
    with pytest.raises(ShapeError, match=r"expected uint8 \(N, 1, H, W\)"):
        extract(net, np.zeros(shape, dtype=np.uint8))
    with pytest.raises(ShapeError, match="float64"):
        extract(net, np.zeros((2, 1, 28, 28)))
    with pytest.raises(ConfigError, match="batch is 0"):
        extract(net, np.zeros((2, 1, 28, 28), dtype=np.uint8), batch=0)


def test_tf32_is_off_inside_and_restored_after():
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        with torch.autocast("cpu", torch.bfloat16), exact_float32():
            assert torch.get_float32_matmul_precision() == "highest"
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)


def test_round_trip(tmp_path, images):
    net = FeatureNet(channels=1, classes=7, width=3, features=5, blocks=(2, 1))
    net(torch.randn(8, 1, 28, 28))  # moves the running means
    path = tmp_path / "new" / "x.safetensors"
    digest = save_feature_net(net, path)
    found = load_feature_net(path)
    assert digest == found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert found.architecture == net.architecture
    assert not found.training
    state = net.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in found.state_dict().items())
    np.testing.assert_array_equal(extract(found, images).logits, extract(net, images).logits)
    assert [p.name for p in path.parent.iterdir()] == ["x.safetensors"]


ARCHITECTURE = {"channels": 1, "classes": 10, "width": 4, "blocks": [1, 1], "features": 8}


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (None, "lacks"),
        ({KEY: "{"}, "not a usable"),
        ({KEY: "[]"}, "not a usable"),
        ({KEY: json.dumps(ARCHITECTURE | {"depth": 1})}, "depth"),
        ({KEY: json.dumps(ARCHITECTURE | {"width": 10**9})}, "width"),
        ({KEY: json.dumps(ARCHITECTURE | {"blocks": [1, "1"]})}, "blocks"),
        ({KEY: json.dumps(ARCHITECTURE | {"blocks": [1, 2]})}, "disagree"),
        ({KEY: json.dumps(ARCHITECTURE | {"features": 9})}, r"expected F32 \[9, 8\]"),
    ],
)
def test_other_headers_are_refused(net_path, tmp_path, metadata, message):
    path = tmp_path / "x.safetensors"
    save_file(load_file(net_path), path, metadata=metadata)
    with pytest.raises(CheckpointError, match=message):
        load_feature_net(path)


def test_other_dtypes_are_refused(net_path, tmp_path):
    state = load_file(net_path)
    state["stem.weight"] = state["stem.weight"].half()
    save_file(state, tmp_path / "x", metadata={KEY: json.dumps(ARCHITECTURE)})
    with pytest.raises(CheckpointError, match=r"stem.weight .* is F16"):
        load_feature_net(tmp_path / "x")


def test_damaged_and_missing_files_are_refused(net_path, tmp_path):
    path = tmp_path / "x.safetensors"
    with pytest.raises(CheckpointError, match="does not exist"):
        load_feature_net(path)
    path.write_bytes(net_path.read_bytes()[:-5])
    with pytest.raises(CheckpointError, match="not a usable"):
        load_feature_net(path)
    with path.open("wb") as file:
        file.truncate(65 << 20)
    with pytest.raises(CheckpointError, match="no feature network has more"):
        load_feature_net(path)


@pytest.mark.parametrize("change", [{"channels": 0}, {"width": 1.5}, {"blocks": ()}])
def test_impossible_architectures_are_refused(change):
    with pytest.raises(ConfigError, match="FeatureNet"):
        Architecture(**change)


@pytest.mark.gpu
def test_the_gpu_agrees(net, images):
    before = extract(net, images).features
    np.testing.assert_allclose(extract(net, images, device="cuda").features, before, atol=1e-5)
