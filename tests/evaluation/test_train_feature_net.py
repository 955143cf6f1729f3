from __future__ import annotations

import hashlib
import json

import numpy as np
import torch

from dpqlab.evaluation.datasets import dataset_of
from dpqlab.evaluation.features import FeatureNet, extract, load_feature_net
from dpqlab.evaluation.reference import Reference
from recipes.train_feature_net import SETTINGS, Settings, augment, main, padded_images, train
from tests.avatars import write_data


def test_the_recipe_writes_what_the_evaluator_reads(data_folder, tmp_path, capsys):
    folders = ["--data", str(data_folder), "--out", str(tmp_path)]
    main([*folders, "--device", "cpu", "--epochs", "1", "--width", "4", "--limit", "64"])
    net = load_feature_net(tmp_path / "feature_net.safetensors")
    card = json.loads((tmp_path / "feature_net.json").read_text())
    content = (tmp_path / "feature_net.safetensors").read_bytes()
    assert card["sha256"] == hashlib.sha256(content).hexdigest() == net.sha256
    images, labels = dataset_of("fashion-dit").read(data_folder, "test")
    seen = extract(net, images)
    assert card["test_accuracy"] == (seen.predictions == labels).mean()
    assert card["settings"]["limit"] == 64
    reference = Reference.load(tmp_path / "reference.npz")
    assert (reference.train.count, reference.test.count) == (80, 40)
    assert reference.train.feature_net == net.sha256
    np.testing.assert_allclose(reference.test.mean, seen.features.mean(axis=0), atol=1e-5)
    assert capsys.readouterr().out.startswith("epoch 1/1")


def test_the_recipe_for_a_second_model(tmp_path, capsys):
    data = write_data(tmp_path / "data", count=45)
    arguments = ["--model", "avatars-dit", "--data", str(data), "--out", str(tmp_path)]
    main([*arguments, "--device", "cpu", "--epochs", "1", "--width", "4"])
    net = load_feature_net(tmp_path / "feature_net.safetensors")
    assert (net.architecture.channels, net.architecture.classes) == (3, 15)
    card = json.loads((tmp_path / "feature_net.json").read_text())
    assert card["settings"]["details"] == SETTINGS["avatars-dit"].details
    assert "DiceBear" in card["data"]
    reference = Reference.load(tmp_path / "reference.npz")
    assert reference.train.source == "avatars train"
    assert reference.test.count == 45
    assert capsys.readouterr().out.startswith("epoch 1/1")


def test_training_learns_and_ends_with_the_average(data_folder):
    images, labels = (
        torch.from_numpy(part.copy())
        for part in dataset_of("fashion-dit").read(data_folder, "train")
    )
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


def test_colours_are_shifted_together_and_beyond_the_edge_the_edge_goes_on():
    image = torch.randint(1, 255, (1, 3, 12, 12), dtype=torch.uint8)
    padded = padded_images(image, 4, edges=True)
    assert padded.shape == (1, 3, 20, 20)
    assert (padded[0, :, :5, :5] == image[0, :, :1, :1]).all()
    assert (padded[0, :, 10, -4:] == image[0, :, 6, -1:]).all()
    assert (padded_images(image, 4, edges=False)[0, :, 3] == 0).all()
    generator = torch.Generator().manual_seed(0)
    drawn = augment(padded, torch.zeros(60, dtype=torch.int64), generator, pad=4, cutout=2)
    pixels = ((drawn + 1) * 127.5).round()
    windows = [padded[0, :, y : y + 12, x : x + 12].float() for y in range(9) for x in range(9)]
    candidates = torch.stack([*windows, *(window.flip(2) for window in windows)])
    for picture in pixels:
        off = ((candidates != picture) & (picture != 0)).flatten(1).sum(dim=1)
        assert off.min() == 0, "one shift and one flip explain all three colours"


def test_the_second_task_is_trained_and_left_out_of_the_file(tmp_path):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (32, 3, 16, 16), generator=generator, dtype=torch.uint8)
    labels = torch.arange(32) % 15
    losses, nets = {}, {}
    for details in (0.0, 1.0):
        torch.manual_seed(0)
        nets[details] = FeatureNet(channels=3, classes=15, width=12, blocks=(1, 1))
        settings = Settings(epochs=4, batch=16, rate=0.02, details=details, edges=True)
        losses[details] = [e.loss for e in train(nets[details], images, labels, settings)]
    assert losses[1.0][0] > losses[0.0][0] + 1, "nothing, noise, blur, levels: log 4 at first"
    assert losses[1.0][-1] < losses[1.0][0]
    assert nets[1.0].state_dict().keys() == nets[0.0].state_dict().keys()


def test_the_network_of_the_avatars_stays_small():
    chosen = SETTINGS["avatars-dit"]
    net = FeatureNet(channels=3, classes=15, width=chosen.width, blocks=chosen.blocks)
    stored = sum(value.numel() * value.element_size() for value in net.state_dict().values())
    assert stored < 3_000_000
    assert net(torch.zeros(2, 3, 64, 64))[0].shape == (2, 128)
    assert chosen.details > 0
