"""Training the teacher, on a tiny geometry."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from dpqlab.checkpoint.lock import exclusive
from dpqlab.diffusion.models import load_pipeline
from dpqlab.diffusion.pipeline import PixelDiTPipeline
from dpqlab.diffusion.schedules import make_scheduler
from dpqlab.distributed import Team
from dpqlab.errors import CheckpointError
from dpqlab.evaluation.datasets import dataset_of
from dpqlab.nn.embedder import tied_groups
from recipes.training import (
    Recipe,
    TrainRecord,
    command,
    export,
    learning_rate,
    main,
    shared_out,
    train,
)
from recipes.training_files import read_log, write_log
from recipes.training_optimizers import OPTIMIZERS, StackedMuon
from recipes.training_state import TrainConfig, Training
from tests.little_memory import room
from tests.recipes.conftest import GEOMETRY
from tests.teams import alone, in_team

ALONE = alone()
RECIPE = Recipe(model="fashion-dit", geometry=GEOMETRY, config=TrainConfig())
CONFIG = TrainConfig(steps=12, batch=8, warmup=4, learning_rate=2e-3)


@pytest.fixture
def arrays(data_folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = dataset_of("fashion-dit").read(data_folder, "train")
    return torch.tensor(images), torch.tensor(labels)


def everything(state: Training) -> dict[str, torch.Tensor]:
    found = {f"model.{name}": p for name, p in state.model.named_parameters()}
    found |= {f"ema.{name}": p for name, p in state.ema.named_parameters()}
    moments = state.moments()
    for of, parameter in state.model.named_parameters():
        found |= {f"{of}.{name}": value for name, value in moments.get(parameter, {}).items()}
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
    state = Training(TrainConfig(steps=3, batch=4), GEOMETRY, ALONE)
    assert [record.step for record in train(state, images, labels, every=1)] == [1, 2, 3]
    state = Training(TrainConfig(steps=10_000, seconds=1e-6, batch=4), GEOMETRY, ALONE)
    (record,) = train(state, images, labels, every=1)
    assert record.step == 1
    assert record.seconds > 1e-6
    assert record.remaining == 0


def test_the_loss_falls_from_one(arrays):
    """adaLN-Zero predicts nothing at first, and the noise has unit variance."""
    images, labels = arrays
    state = Training(TrainConfig(steps=60, batch=16, warmup=5, learning_rate=5e-3), GEOMETRY, ALONE)
    records = list(train(state, images, labels, every=1))
    assert records[0].loss == pytest.approx(1.0, abs=0.1)
    assert sum(record.loss for record in records[-10:]) / 10 < 0.7
    assert records[-1].learning_rate < records[10].learning_rate
    assert records[10].remaining > records[-1].remaining == 0


def test_the_velocity_tells_the_image_where_there_is_much_noise(arrays):
    """At the start the model says 0: the loss is the mean square of what it should say."""
    images, labels = arrays
    scheduler: Any = make_scheduler("ddim")
    alphas = scheduler.alphas_cumprod.double()
    image = (images.double() / 127.5 - 1).square().mean()
    for prediction, expected in (
        ("epsilon", 1.0),
        ("v_prediction", (alphas + (1 - alphas) * image).mean().item()),
    ):
        config = TrainConfig(steps=1, batch=400, prediction=prediction)
        (record,) = train(Training(config, GEOMETRY, ALONE), images, labels, every=1)
        assert record.loss == pytest.approx(expected, rel=0.02)


def test_a_run_that_diverges_goes_back_and_on_with_less_haste(arrays):
    images, labels = arrays
    config = TrainConfig(steps=12, batch=16, warmup=1, learning_rate=1e-3)
    state = Training(config, GEOMETRY, ALONE)
    records, sound = [], state.snapshot()
    for record in train(state, images, labels, every=2):
        records.append(record)
        if record.step == 2:
            sound = state.snapshot()
        if record.step == 4:
            with torch.no_grad():
                state.model.proj_out_2.bias += 100.0
        if record.step == 6:
            assert record.loss > 1000
            assert state.caution == 0.5
            assert all(torch.equal(a, b) for a, b in zip(state.snapshot(), sound, strict=True))
    assert [record.step for record in records] == [2, 4, 6, 8, 10, 12]
    assert records[-1].loss < 2
    assert state.caution == 0.5
    haste = learning_rate(config, 7, 7 / 12)
    assert records[3].learning_rate == pytest.approx(haste / 2)


def test_a_run_that_only_diverges_gives_up(arrays):
    images, labels = arrays
    config = TrainConfig(steps=1000, batch=4, learning_rate=1e30)
    with pytest.raises(FloatingPointError, match="does not come down again"):
        list(train(Training(config, GEOMETRY, ALONE), images, labels, every=1))


def test_the_running_mean_follows_the_model(arrays):
    images, labels = arrays
    state = Training(CONFIG, GEOMETRY, ALONE)
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


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_going_on_equals_never_having_stopped(arrays, tmp_path, optimizer):
    images, labels = arrays
    config = replace(CONFIG, optimizer=optimizer)
    whole = Training(config, GEOMETRY, ALONE)
    expected = list(train(whole, images, labels, every=2))

    stopped = Training(config, GEOMETRY, ALONE)
    records = []
    for record in train(stopped, images, labels, every=2):
        records.append(record)
        if record.step == 6:
            break
    stopped.save(tmp_path / "training.safetensors")
    # whatever happens to the global generator meanwhile
    torch.manual_seed(123)
    resumed = Training(config, GEOMETRY, ALONE)
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
    fresh = dict(Training(config, GEOMETRY, ALONE).model.named_parameters())[
        table.removeprefix("model.")
    ]
    assert not torch.equal(ours[table][10], fresh[10])


def member(team: Team, data: Path, out: Path) -> None:
    """Train as one of two processes, and save what came out."""
    pair = [torch.full((2, 2), float(team.rank)), torch.full((3,), 4.0 * team.rank)]
    team.average_(pair)
    images, labels = (torch.tensor(a) for a in dataset_of("fashion-dit").read(data, "train"))
    state = Training(CONFIG, GEOMETRY, team)
    records = list(train(state, images, labels, every=4))
    values = {"pair": torch.cat([p.flatten() for p in pair])}
    values["seconds"] = torch.tensor([r.seconds for r in records], dtype=torch.float64)
    values |= {name: t.contiguous() for name, t in everything(state).items()}
    save_file(values, out / f"{team.rank}.safetensors")


def test_two_processes_train_one_model_on_two_shares(arrays, data_folder, tmp_path):
    in_team(member, data_folder, tmp_path)
    first, second = (load_file(tmp_path / f"{rank}.safetensors") for rank in (0, 1))
    assert first["pair"].tolist() == [0.5] * 4 + [2.0] * 3
    assert all(torch.equal(first[name], second[name]) for name in first)
    # half of each batch is the lone process's, the other half is not
    lone = Training(CONFIG, GEOMETRY, ALONE)
    list(train(lone, *arrays, every=4))
    assert any(not torch.equal(first[name], t) for name, t in everything(lone).items())


def test_a_batch_must_divide_among_the_processes():
    with pytest.raises(ValueError, match="batch of 8 does not divide among 3 processes"):
        Training(CONFIG, GEOMETRY, Team(rank=0, world=3, device=torch.device("cpu")))


def test_a_seed_decides_everything(arrays):
    images, labels = arrays

    def losses(seed: int) -> list[float]:
        state = Training(TrainConfig(steps=4, batch=4, seed=seed), GEOMETRY, ALONE)
        return [record.loss for record in train(state, images, labels, every=1)]

    assert losses(1) == losses(1) != losses(2)


def test_where_memory_runs_out_pieces_of_a_batch_teach_the_same(arrays):
    images, labels = arrays
    courses: list[list[float]] = []
    for most in (8, 3):
        state = Training(CONFIG, GEOMETRY, ALONE)
        with room([state.model], lambda size, most=most: size <= most) as passed:
            courses.append([record.loss for record in train(state, images, labels, every=1)])
        assert max(passed) == (8 if most == 8 else 2)
    assert courses[1] == pytest.approx(courses[0], rel=1e-4)


def test_memory_that_is_back_at_once_changes_nothing(arrays):
    images, labels = arrays
    whole, state = (Training(CONFIG, GEOMETRY, ALONE) for _ in range(2))
    list(train(whole, images, labels, every=4))
    fates = iter([True, False] * 20)
    with room([state.model], lambda size: next(fates)):
        list(train(state, images, labels, every=4))
    expected, found = everything(whole), everything(state)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_run_can_begin_from_a_model_that_was_exported(arrays, tmp_path):
    images, labels = arrays
    state = Training(CONFIG, GEOMETRY, ALONE)
    list(train(state, images, labels, every=4))
    export(state, tmp_path / "model")
    other = Training(replace(CONFIG, seed=1), GEOMETRY, ALONE)
    other.begin_from(tmp_path / "model")
    expected = {name: p.bfloat16().float() for name, p in state.ema.named_parameters()}
    for model in (other.model, other.ema):
        for name, parameter in model.named_parameters():
            assert torch.equal(parameter, expected[name])
    smaller = Training(CONFIG, GEOMETRY | {"num_layers": 1}, ALONE)
    with pytest.raises(CheckpointError, match="of another geometry"):
        smaller.begin_from(tmp_path / "model")


def test_muon_takes_the_matrices_that_work_on_tokens():
    state = Training(replace(CONFIG, optimizer="muon"), GEOMETRY, ALONE)
    names = {id(p): name for name, p in state.model.named_parameters()}
    adamw, muon = (
        {names[id(p)] for group in optimizer.param_groups for p in group["params"]}
        for optimizer in state.optimizers
    )
    assert adamw | muon == set(names.values())
    assert not adamw & muon
    assert {name.split(".", 2)[2] for name in muon} == {
        f"{layer}.weight"
        for layer in (
            "attn1.to_q",
            "attn1.to_k",
            "attn1.to_v",
            "attn1.to_out.0",
            "ff.net.0.proj",
            "ff.net.2",
        )
    }
    with pytest.raises(ValueError, match="'sgd', not one of adamw, muon"):
        Training(replace(CONFIG, optimizer="sgd"), GEOMETRY, ALONE)


def test_muon_steps_as_pytorchs_own_does():
    shapes = [(6, 6), (24, 6), (6, 6), (6, 24), (24, 6)]
    torch.manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    settings: dict[str, Any] = {"lr": 0.05, "weight_decay": 0.1, "adjust_lr_fn": "match_rms_adamw"}
    steppers = StackedMuon(ours, **settings), torch.optim.Muon(theirs, **settings)
    for _ in range(4):
        for mine, reference in zip(ours, theirs, strict=True):
            mine.grad = torch.randn(mine.shape)
            reference.grad = mine.grad.clone()
        for stepper in steppers:
            stepper.step()
    for mine, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, reference, rtol=0.02, atol=0.002)  # in bfloat16
        kept = [
            s.state[p]["momentum_buffer"] for s, p in zip(steppers, (mine, reference), strict=True)
        ]
        torch.testing.assert_close(*kept)


def test_shares_say_how_often_a_class_is_drawn():
    targets = np.repeat(np.arange(3), 4)
    images = np.arange(12)
    drawn, labels = shared_out(images, targets, (1, 3, 0))
    assert drawn.tolist() == [0, 1, 2, 3, *np.repeat([4, 5, 6, 7], 3)]
    assert labels.tolist() == [0] * 4 + [1] * 12
    assert shared_out(images, targets, ())[0] is images
    with pytest.raises(ValueError, match="2 shares for 3 classes"):
        shared_out(images, targets, (1, 3))


def test_saving_before_the_first_step(tmp_path):
    state = Training(CONFIG, GEOMETRY, ALONE)
    state.save(tmp_path / "training.safetensors")
    other = Training(CONFIG, GEOMETRY, ALONE)
    with torch.no_grad():
        for parameter in other.model.parameters():
            parameter.zero_()
    other.load(tmp_path / "training.safetensors")
    assert all(
        torch.equal(a, b)
        for a, b in zip(state.model.parameters(), other.model.parameters(), strict=True)
    )


def test_a_run_that_had_to_go_back_is_resumed_as_it_was(arrays, tmp_path):
    """With its caution, its lowest loss, and the age of the moments, which began anew."""
    images, labels = arrays
    config = TrainConfig(steps=12, batch=8, warmup=1, learning_rate=1e-3)

    def disturbed(state: Training, steps: Iterator[TrainRecord]) -> Iterator[TrainRecord]:
        for record in steps:
            yield record
            if record.step == 4:
                with torch.no_grad():
                    state.model.proj_out_2.bias += 100.0

    whole = Training(config, GEOMETRY, ALONE)
    expected = list(disturbed(whole, train(whole, images, labels, every=2)))
    stopped = Training(config, GEOMETRY, ALONE)
    for record in disturbed(stopped, train(stopped, images, labels, every=2)):
        if record.step == 8:
            break
    stopped.save(tmp_path / "training.safetensors")
    resumed = Training(config, GEOMETRY, ALONE)
    resumed.load(tmp_path / "training.safetensors")
    assert resumed.caution == 0.5
    assert resumed.lowest == min(record.loss for record in expected[:4])
    records = list(train(resumed, images, labels, every=2))
    assert without_time(records) == without_time(expected[4:])
    ours, theirs = everything(resumed), everything(whole)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_state_of_another_run_and_a_damaged_one_are_refused(tmp_path):
    file = tmp_path / "training.safetensors"
    Training(CONFIG, GEOMETRY, ALONE).save(file)
    other = Training(replace(CONFIG, seed=1), GEOMETRY, ALONE)
    with pytest.raises(CheckpointError, match="of another run"):
        other.load(file)
    Training(replace(CONFIG, steps=100), GEOMETRY, ALONE).load(file)  # only longer
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(CheckpointError, match="is damaged"):
        Training(CONFIG, GEOMETRY, ALONE).load(file)
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="cannot be read"):
        Training(CONFIG, GEOMETRY, ALONE).load(file)


def test_the_log_of_a_killed_run_loses_what_is_done_again(tmp_path):
    write_log(tmp_path / "log", [{"step": step} for step in (2, 4, 6)])
    assert read_log(tmp_path / "log", 4) == [{"step": 2}, {"step": 4}]
    (tmp_path / "log").write_text('{"step": 2}\n{"st')
    assert read_log(tmp_path / "log", 4) == []


def test_a_second_run_into_one_folder_is_refused(data_folder, tmp_path):
    arguments = ["--data", str(data_folder), "--out", str(tmp_path / "new" / "run")]
    (tmp_path / "new").mkdir()
    with (
        exclusive(tmp_path / "new" / "run"),
        pytest.raises(CheckpointError, match="held by another process"),
    ):
        main(RECIPE, arguments)
    assert list((tmp_path / "new" / "run").iterdir()) == []


def test_an_export_that_lost_a_file_is_refused(arrays, tmp_path, monkeypatch):
    written = PixelDiTPipeline.save_pretrained

    def lossy(self, folder, **settings):
        written(self, folder, **settings)
        next(Path(folder).rglob("*.safetensors")).unlink()

    monkeypatch.setattr(PixelDiTPipeline, "save_pretrained", lossy)
    with pytest.raises(CheckpointError):
        export(Training(CONFIG, GEOMETRY, ALONE), tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_errors_are_sentences(data_folder, tmp_path, capsys):
    (tmp_path / "file").write_bytes(b"")
    arguments = ["--data", str(data_folder), "--out", str(tmp_path / "file" / "run")]
    assert command(RECIPE, arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("train: could not write ")
    assert said.count("\n") == 1


def test_a_run_that_gives_up_leaves_the_model_as_it_was_before(data_folder, tmp_path, capsys):
    settings = ["--data", str(data_folder), "--every", "1", "--batch", "8", "--steps", "60"]
    main(RECIPE, [*settings, "--steps", "2", "--out", str(tmp_path / "first")])
    settings += ["--start", str(tmp_path / "first/fashion-dit"), "--rate", "1e30"]
    assert command(RECIPE, [*settings, "--out", str(tmp_path / "second")]) == 2
    assert "does not come down again" in (said := capsys.readouterr().err)
    assert said.endswith("--start, a lower --rate and another --out\n")
    first, second = (
        load_file(tmp_path / run / "fashion-dit/transformer/diffusion_pytorch_model.safetensors")
        for run in ("first", "second")
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    notes = json.loads((tmp_path / "second/training.json").read_text())
    assert notes["began_from"] == "fashion-dit"


def test_a_model_is_written_with_every_sheet(data_folder, tmp_path, monkeypatch):
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("recipes.training.finish", killed)
    settings = ["--data", str(data_folder), "--out", str(tmp_path), "--batch", "8"]
    with pytest.raises(KeyboardInterrupt):
        main(RECIPE, [*settings, "--steps", "4", "--every", "2", "--sheet-every", "2"])
    model: Any = load_pipeline(tmp_path / "fashion-dit").transformer
    state = load_file(tmp_path / "training.safetensors")
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, state[f"ema.{name}"].bfloat16().float()), name


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
