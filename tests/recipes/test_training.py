"""Training the teacher, on a tiny geometry."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from dpqlab.diffusion.models import load_pipeline
from dpqlab.diffusion.schedules import make_scheduler
from dpqlab.evaluation.datasets import dataset_of
from dpqlab.nn.embedder import tied_groups
from recipes.training import (
    MOST_WEIGHT,
    Recipe,
    TrainConfig,
    Training,
    TrainRecord,
    learning_rate,
    main,
    train,
)
from tests.recipes.conftest import GEOMETRY

CPU = torch.device("cpu")
RECIPE = Recipe(model="fashion-dit", geometry=GEOMETRY, config=TrainConfig())
CONFIG = TrainConfig(steps=12, batch=8, warmup=4, learning_rate=2e-3)


@pytest.fixture
def arrays(data_folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = dataset_of("fashion-dit").read(data_folder, "train")
    return torch.tensor(images), torch.tensor(labels)


def everything(state: Training) -> dict[str, torch.Tensor]:
    found = {f"model.{name}": p for name, p in state.model.named_parameters()}
    found |= {f"ema.{name}": p for name, p in state.ema.named_parameters()}
    for i, moments in enumerate(state.optimizer.state.values()):
        found |= {f"{i}.{name}": value for name, value in moments.items()}
    return {name: tensor.detach().clone() for name, tensor in found.items()}


def without_time(records: list[TrainRecord]) -> list[tuple[int, float, float]]:
    return [(r.step, r.loss, r.learning_rate) for r in records]


def test_the_learning_rate_follows_steps_or_time():
    config = TrainConfig(steps=100, warmup=10, learning_rate=1.0)
    assert learning_rate(config, 0, 0.0) == pytest.approx(0.1)
    assert learning_rate(config, 50, 0.5) == pytest.approx(0.5)
    assert learning_rate(config, 50, 0.9) == pytest.approx(0.5 * (1 + math.cos(0.9 * math.pi)))
    assert learning_rate(config, 50, 1.2) == pytest.approx(0.0, abs=1e-12)


def test_training_ends_by_steps_or_by_time(arrays):
    images, labels = arrays
    state = Training(TrainConfig(steps=3, batch=4), GEOMETRY, CPU)
    assert [record.step for record in train(state, images, labels, every=1)] == [1, 2, 3]
    state = Training(TrainConfig(steps=10_000, seconds=1e-6, batch=4), GEOMETRY, CPU)
    (record,) = train(state, images, labels, every=1)
    assert record.step == 1
    assert record.seconds > 1e-6
    assert record.remaining == 0


def test_the_loss_falls_from_one(arrays):
    """adaLN-Zero predicts nothing at first, and the noise has unit variance."""
    images, labels = arrays
    state = Training(TrainConfig(steps=60, batch=16, warmup=5, learning_rate=5e-3), GEOMETRY, CPU)
    records = list(train(state, images, labels, every=1))
    assert records[0].loss == pytest.approx(1.0, abs=0.1)
    assert sum(record.loss for record in records[-10:]) / 10 < 0.7
    assert records[-1].learning_rate < records[10].learning_rate
    assert records[10].remaining > records[-1].remaining == 0


def test_much_noise_weighs_more_where_it_is_asked_for(arrays):
    """The first loss is the mean weight: the model predicts nothing of noise of variance 1."""
    images, labels = arrays
    scheduler: Any = make_scheduler("ddim")
    alphas = scheduler.alphas_cumprod.double()
    config = TrainConfig(steps=1, batch=200, noise_power=0.5)
    (record,) = train(Training(config, GEOMETRY, CPU), images, labels, every=1)
    expected = (alphas**-0.5).clamp(max=MOST_WEIGHT).mean().item()
    assert record.loss == pytest.approx(expected, rel=0.02)


def test_the_running_mean_follows_the_model(arrays):
    images, labels = arrays
    state = Training(CONFIG, GEOMETRY, CPU)
    means = [p.detach().clone().double() for p in state.ema.parameters()]
    for record in train(state, images, labels, every=1):
        decay = min(CONFIG.ema, record.step / (record.step + 9))
        means = [
            decay * mean + (1 - decay) * p.detach().double()
            for mean, p in zip(means, state.model.parameters(), strict=True)
        ]
    for mean, ours in zip(means, state.ema.parameters(), strict=True):
        torch.testing.assert_close(ours.double(), mean, rtol=1e-5, atol=1e-7)
        assert not ours.requires_grad


def test_going_on_equals_never_having_stopped(arrays, tmp_path):
    images, labels = arrays
    whole = Training(CONFIG, GEOMETRY, CPU)
    expected = list(train(whole, images, labels, every=2))

    stopped = Training(CONFIG, GEOMETRY, CPU)
    records = []
    for record in train(stopped, images, labels, every=2):
        records.append(record)
        if record.step == 6:
            break
    stopped.save(tmp_path / "training.safetensors")
    # whatever happens to the global generator meanwhile
    torch.manual_seed(123)
    resumed = Training(CONFIG, GEOMETRY, CPU)
    torch.manual_seed(456)
    resumed.load(tmp_path / "training.safetensors")
    assert (resumed.step, resumed.elapsed) == (6, records[-1].seconds)
    records += train(resumed, images, labels, every=2)

    assert without_time(records) == without_time(expected)
    assert all(a.seconds < b.seconds for a, b in pairwise(records))
    ours, theirs = everything(resumed), everything(whole)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    # the null class is trained: some labels were dropped
    table = "model.transformer_blocks.0.norm1.emb.class_embedder.embedding_table.weight"
    fresh = dict(Training(CONFIG, GEOMETRY, CPU).model.named_parameters())[
        table.removeprefix("model.")
    ]
    assert not torch.equal(ours[table][10], fresh[10])


def test_a_seed_decides_everything(arrays):
    images, labels = arrays

    def losses(seed: int) -> list[float]:
        state = Training(TrainConfig(steps=4, batch=4, seed=seed), GEOMETRY, CPU)
        return [record.loss for record in train(state, images, labels, every=1)]

    assert losses(1) == losses(1) != losses(2)


def test_a_run_can_start_from_averaged_weights_alone(arrays, tmp_path):
    images, labels = arrays
    state = Training(CONFIG, GEOMETRY, CPU)
    list(train(state, images, labels, every=4))
    state.save(tmp_path / "all.safetensors")
    tensors = load_file(tmp_path / "all.safetensors")
    kept = {
        name: tensor
        for name, tensor in tensors.items()
        if name.startswith("ema.") or name in ("state.step", "state.elapsed")
    }
    save_file(kept, tmp_path / "ema.safetensors")
    other = Training(CONFIG, GEOMETRY, CPU)
    other.load(tmp_path / "ema.safetensors")
    for model in (other.model, other.ema):
        for name, parameter in model.named_parameters():
            assert torch.equal(parameter, kept[f"ema.{name}"])


def test_saving_before_the_first_step(tmp_path):
    state = Training(CONFIG, GEOMETRY, CPU)
    state.save(tmp_path / "training.safetensors")
    other = Training(TrainConfig(seed=1), GEOMETRY, CPU)
    other.load(tmp_path / "training.safetensors")
    assert all(
        torch.equal(a, b)
        for a, b in zip(state.model.parameters(), other.model.parameters(), strict=True)
    )


def test_the_recipe_from_end_to_end(data_folder, tmp_path, capsys):
    settings = ["--data", str(data_folder), "--out", str(tmp_path / "run"), "--batch", "8"]
    settings += ["--every", "2", "--sheet-every", "4"]
    main(RECIPE, [*settings, "--steps", "4"])
    main(RECIPE, [*settings, "--steps", "6", "--resume"])
    run = tmp_path / "run"
    log = [json.loads(line) for line in (run / "training.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in log] == [2, 4, 6]
    assert len(capsys.readouterr().out.splitlines()) == 3
    done = json.loads((run / "training.json").read_text())
    assert (done["steps_done"], done["batch"]) == (6, 8)
    assert {path.name for path in run.glob("*.png")} == {"step-000004.png", "samples.png"}

    tensors = load_file(run / "training.safetensors")
    model: Any = load_pipeline(run / "fashion-dit").transformer
    assert [len(group) for group in tied_groups(model)] == [2]
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, tensors[f"ema.{name}"].bfloat16().float()), name
    stored = load_file(run / "fashion-dit/transformer/diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}
