from __future__ import annotations

import hashlib
import json

import numpy as np
import torch

from dpqlab.evaluation.fashion_mnist import read_split
from dpqlab.evaluation.features import FeatureNet, extract, load_feature_net
from dpqlab.evaluation.reference import Reference
from recipes.train_feature_net import Settings, augment, main, train


def test_the_recipe_writes_what_the_evaluator_reads(data_folder, tmp_path, capsys):
    folders = ["--data", str(data_folder), "--out", str(tmp_path)]
    main([*folders, "--device", "cpu", "--epochs", "1", "--width", "4", "--limit", "64"])
    net = load_feature_net(tmp_path / "feature_net.safetensors")
    card = json.loads((tmp_path / "feature_net.json").read_text())
    content = (tmp_path / "feature_net.safetensors").read_bytes()
    assert card["sha256"] == hashlib.sha256(content).hexdigest() == net.sha256
    images, labels = read_split(data_folder, "test")
    seen = extract(net, images)
    assert card["test_accuracy"] == (seen.predictions == labels).mean()
    assert card["settings"]["limit"] == 64
    reference = Reference.load(tmp_path / "reference.npz")
    assert (reference.train.count, reference.test.count) == (80, 40)
    assert reference.train.feature_net == net.sha256
    np.testing.assert_allclose(reference.test.mean, seen.features.mean(axis=0), atol=1e-5)
    assert capsys.readouterr().out.startswith("epoch 1/1")


def test_training_learns_and_ends_with_the_average(data_folder):
    images, labels = (torch.from_numpy(part.copy()) for part in read_split(data_folder, "train"))
    torch.manual_seed(0)
    net = FeatureNet(width=4, blocks=(1, 1))
    losses = [
        epoch.loss for epoch in train(net, images, labels, Settings(epochs=5, batch=16, rate=0.05))
    ]
    assert len(losses) == 5
    assert losses[-1] < losses[0]
    assert not any(value.isnan().any() for value in net.state_dict().values())


def test_augmentation_shifts_flips_and_erases_only():
    image = torch.arange(28 * 28, dtype=torch.float32).reshape(1, 1, 28, 28) % 251 + 4
    padded = torch.nn.functional.pad(image.to(torch.uint8), (2, 2, 2, 2))
    generator = torch.Generator().manual_seed(0)
    drawn = augment(padded, torch.zeros(200, dtype=torch.int64), generator)
    assert drawn.shape == (200, 1, 28, 28)
    pixels = ((drawn + 1) * 127.5).round()[:, 0]
    windows = [padded[0, 0, y : y + 28, x : x + 28].float() for y in range(5) for x in range(5)]
    candidates = torch.stack([*windows, *(window.flip(1) for window in windows)])
    for picture in pixels:
        differs = (candidates != picture) & (candidates != 0)
        best = differs.sum(dim=(1, 2)).argmin()
        hole = differs[best].nonzero()
        assert (picture[differs[best]] == 0).all()
        if len(hole):
            assert (hole.amax(dim=0) - hole.amin(dim=0) < 8).all()
    assert len({tuple(picture.flatten().tolist()) for picture in pixels}) > 100
