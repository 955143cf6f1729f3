"""The Inception FID, with random weights: what there is to test without those of the original."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from dpqlab.cli import main
from dpqlab.errors import BackendError, CheckpointError
from dpqlab.evaluation import inception
from dpqlab.evaluation.adm import write_samples


def images(seed: int, count: int = 6) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)


def test_without_torch_fidelity_it_says_what_to_install(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(BackendError, match=r"torch_fidelity.*\[fid\]"):
        inception.load_inception(tmp_path / "x.safetensors", torch.device("cpu"))


class PooledColours(torch.nn.Module):
    """Has Inception's interface, and features that can be computed by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor]:
        assert x.dtype == torch.uint8
        assert x.shape[1] == 3
        return (x.float().mean((2, 3)),)


def test_features_and_statistics_of_a_file(tmp_path: Path) -> None:
    drawn = images(1, 120)
    write_samples(tmp_path / "a.npz", [drawn], np.zeros(120))
    found = inception.samples_statistics(PooledColours(), tmp_path / "a.npz", "net")
    expected = drawn.astype(np.float64).mean((1, 2))
    np.testing.assert_allclose(found.mean, expected.mean(0), rtol=1e-6)
    np.testing.assert_allclose(found.covariance, np.cov(expected.T), rtol=1e-4)
    assert (found.count, found.source, found.feature_net) == (120, "a.npz", "net")


def test_a_reference_with_statistics_is_taken_at_its_word(tmp_path: Path) -> None:
    np.savez(tmp_path / "ref.npz", mu=np.arange(3.0), sigma=np.eye(3))
    found = inception.reference_statistics(PooledColours(), tmp_path / "ref.npz", "net")
    assert found.mean.tolist() == [0, 1, 2]
    assert found.feature_net == ""


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of torch-fidelity's network, as safetensors."""
    module: Any = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    torch.manual_seed(0)
    made = module.FeatureExtractorInceptionV3.__new__(module.FeatureExtractorInceptionV3)
    loaded = module.FeatureExtractorInceptionV3.load_state_dict
    module.FeatureExtractorInceptionV3.load_state_dict = lambda self, state: None
    try:
        buffer = io.BytesIO()
        torch.save({}, buffer)
        buffer.seek(0)
        made.__init__("random", ["2048"], feature_extractor_weights_path=buffer)
    finally:
        module.FeatureExtractorInceptionV3.load_state_dict = loaded
    path = tmp_path_factory.mktemp("inception") / "inception.safetensors"
    state = {name: tensor.contiguous().clone() for name, tensor in made.state_dict().items()}
    save_file(state, path)
    return path


@pytest.mark.slow  # building the network takes half a minute
def test_the_command_agrees_with_torch_fidelity(weights: Path, tmp_path: Path, capsys) -> None:
    module = pytest.importorskip("torch_fidelity.metric_fid")
    for name, seed in {"a": 1, "b": 2}.items():
        write_samples(tmp_path / f"{name}.npz", [images(seed)], np.zeros(6))
    command = ["fid", *(str(tmp_path / f"{name}.npz") for name in "ab")]
    assert main([*command, "--inception", str(weights), "--device", "cpu", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    net = inception.load_inception(weights, torch.device("cpu"))
    moments = []
    for seed in (1, 2):
        features = torch.from_numpy(inception.inception_features(net, [images(seed)]))
        moments.append(module.fid_features_to_statistics(features))
    expected = module.fid_statistics_to_metric(*moments, verbose=False)[module.KEY_METRIC_FID]
    assert said["fid"] == pytest.approx(float(expected), rel=1e-3, abs=1e-6)
    assert said["fid"] > 0
    assert said["images"] == 6


@pytest.mark.slow
def test_other_weights_are_refused(weights: Path, tmp_path: Path) -> None:
    save_file({"x": torch.ones(1)}, tmp_path / "other.safetensors")
    (tmp_path / "pickle.pth").write_bytes(b"\x80\x04N.")
    for name in ("other.safetensors", "pickle.pth"):
        with pytest.raises(CheckpointError, match="no weights of torch-fidelity's InceptionV3"):
            inception.load_inception(tmp_path / name, torch.device("cpu"))


def test_the_command_names_what_is_missing(tmp_path: Path, capsys) -> None:
    assert main(["fid", "a.npz", "b.npz", "--inception", "c"]) == 2
    assert "a.npz is not there" in capsys.readouterr().err
