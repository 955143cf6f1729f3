"""Masters, their gradients, and one step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from dpqlab.calibration import Batch, LatentConfig, Objective, distillation, judging, paired
from dpqlab.calibration.distiller import Distiller
from dpqlab.calibration.forward import predict
from dpqlab.calibration.masters import masters_of, rounded, store_masters_
from dpqlab.calibration.objectives import timestep_weights, training_loss
from dpqlab.core import CodebookCodec
from dpqlab.errors import CheckpointError, ConfigError
from tests.calibration.conftest import VQ_KIND
from tests.calibration.states import layers_of
from tests.tiny import forwards_of, tiny_dit


@pytest.fixture
def batch(data) -> Batch:
    generator = torch.Generator().manual_seed(1)
    return data.draw(8, null_class=10, label_drop=0.2, generator=generator)


def distiller_of(student: Any, teacher: Any, config: Any, batch: Batch, data: Any) -> Distiller:
    for layer in layers_of(student):
        layer.cache_codes_()
    return Distiller(student, teacher, config, batch, data.alphas)


def test_masters_are_all_that_is_trained(student):
    masters = masters_of(student)
    block = "transformer_blocks.1"
    layers = [
        f"{block}.{kind}"
        for kind in (
            *("norm1.linear", "attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0"),
            *("ff.net.0.proj", "ff.net.2"),
        )
    ]
    expected = {f"{layer}.{part}" for layer in layers for part in ("pool", "scale", "bias")}
    assert {name for name in masters if name.startswith(block)} == expected
    assert len(masters) == 2 * len(expected)
    for name, master in masters.items():
        parameter = student.get_parameter(name)
        assert master.dtype == torch.float32
        assert master.requires_grad
        assert master.data_ptr() != parameter.data_ptr()
        assert torch.equal(master, parameter.float())


def test_a_shared_pool_is_one_master(compressed):
    names = [name for name in masters_of(compressed(VQ_KIND)) if name.endswith("pool")]
    assert len(names) == 7
    assert all(name.startswith("transformer_blocks.0.") for name in names)


def test_a_dense_model_has_none(teacher):
    with pytest.raises(ConfigError, match="no compressed layers: run compress_"):
        masters_of(teacher)


@torch.no_grad()
def test_predicting_with_masters_is_predicting_with_the_model(student, batch):
    masters = masters_of(student)
    out, blocks = predict(student, batch, {})
    with_masters, blocks_with = predict(student, batch, masters)
    given = {"timestep": batch.timesteps, "class_labels": batch.labels}
    assert torch.equal(out, student(batch.noisy, **given).sample)
    assert torch.equal(out, with_masters)
    assert len(blocks) == len(blocks_with) == 2
    assert all(torch.equal(a, b) for a, b in zip(blocks, blocks_with, strict=True))
    for name in ("attn1.to_q.pool", "ff.net.2.scale", "norm1.linear.bias"):
        changed = masters | {
            f"transformer_blocks.0.{name}": masters[f"transformer_blocks.0.{name}"] * 1.5
        }
        assert not torch.equal(predict(student, batch, changed)[0], out)
    assert torch.equal(predict(student, batch, {})[0], out)


@pytest.mark.parametrize("part", ["pool", "scale", "bias"])
def test_gradients_are_finite_differences(student, teacher, batch, part):
    """In float64; the loss itself is float32, so the entries that matter most are tried."""
    student.double()
    exact = replace(batch, noisy=batch.noisy.double())
    wanted = predict(tiny_dit().double(), exact, {})
    masters = {
        name: master.detach().double().requires_grad_()
        for name, master in masters_of(student).items()
    }

    def loss() -> torch.Tensor:
        return distillation(predict(student, exact, masters), wanted, feature_weight=1.0).total

    loss().backward()
    for layer in ("transformer_blocks.0.norm1.linear", "transformer_blocks.1.ff.net.2"):
        master = masters[f"{layer}.{part}"]
        assert master.grad is not None
        index = int(master.grad.abs().argmax())
        entry, step = master.detach().view(-1)[index], 1e-2
        with torch.no_grad():
            entry += step
            above = loss().item()
            entry -= 2 * step
            below = loss().item()
            entry += step
        expected = (above - below) / (2 * step)
        assert master.grad.view(-1)[index].item() == pytest.approx(expected, rel=1e-2)
    reached = [name for name, m in masters.items() if m.grad is not None and m.grad.any()]
    # a bias of the keys shifts all scores of a row alike: softmax does not see it
    assert {name for name in masters if name not in reached} <= {
        name for name in masters if name.endswith("to_k.bias")
    }


def test_a_shared_pools_gradient_is_the_sum_over_its_layers(compressed, teacher, batch):
    student = compressed(VQ_KIND)
    masters = masters_of(student)
    wanted = predict(teacher, batch, {})
    name = "transformer_blocks.{}.ff.net.2.pool"
    mine = predict(student, batch, masters)
    distillation(mine, wanted, feature_weight=0.1).total.backward()
    together = masters[name.format(0)].grad
    apart = []
    for index in range(2):
        layer = student.transformer_blocks[index].ff.net[2]
        other = student.transformer_blocks[1 - index].ff.net[2]
        shared, other.pool = other.pool, torch.nn.Parameter(other.pool.clone(), requires_grad=False)
        own = {name.format(index): layer.pool.float().clone().requires_grad_()}
        mine = predict(student, batch, own)
        distillation(mine, wanted, feature_weight=0.1).total.backward()
        apart.append(own[name.format(index)].grad)
        other.pool = shared
    torch.testing.assert_close(together, apart[0] + apart[1], rtol=1e-4, atol=1e-7)
    assert all(part.any() for part in apart)


def test_rounding_is_what_storing_does(student):
    masters = masters_of(student)
    with torch.no_grad():
        for master in masters.values():
            master += 1e-3 * torch.randn_like(master)
    expected = rounded(student, masters)
    assert any(not torch.equal(expected[name], masters[name]) for name in masters)
    store_masters_(student, masters)
    for name, value in expected.items():
        parameter = student.get_parameter(name)
        assert parameter.dtype == torch.float16
        assert not parameter.requires_grad
        assert torch.equal(parameter.float(), value)


def test_rounded_masters_are_judged_and_exact_ones_stay(student, teacher, batch, config, data):
    distiller = distiller_of(student, teacher, config, batch, data)
    with torch.no_grad():
        for master in distiller.masters.values():
            master += 0.1 * master.std() * torch.randn_like(master)
    before = {name: master.clone() for name, master in distiller.masters.items()}
    judged = distiller.judge(batch)
    assert judged.total != training_loss(
        predict(student, batch, distiller.masters),
        predict(teacher, batch, {}),
        config.objective,
        target=None,
        weights=torch.ones(len(batch)),
    )
    assert all(torch.equal(before[name], m) for name, m in distiller.masters.items())
    assert not judged.total.requires_grad
    store_masters_(student, distiller.masters)
    wanted = predict(teacher, batch, {})
    stored = distillation(predict(student, batch, {}), wanted)
    assert judged.total == stored.total
    assert judged.features == stored.features


def test_a_step_moves_masters_by_the_rate_times_their_size(student, teacher, batch, config, data):
    settings = replace(config, learning_rate=0.04)
    distiller = distiller_of(student, teacher, settings, batch, data)
    before = {name: master.detach().clone() for name, master in distiller.masters.items()}
    distiller.step(batch, 0.25)
    for part in ("pool", "scale", "bias"):
        names = [name for name in before if name.endswith(f".{part}")]
        size = torch.stack([before[name].square().mean() for name in names]).mean().sqrt()
        moved = [(distiller.masters[name] - before[name]).abs().max() for name in names]
        # Adam's first step is the rate, whatever the gradient
        assert torch.stack(moved).max().item() == pytest.approx(0.01 * size.item(), rel=1e-2)


def test_only_masters_get_gradients(student, teacher, batch, config, data):
    kept = [p for p in student.parameters() if p.requires_grad]
    assert kept
    distiller = distiller_of(student, teacher, config, batch, data)
    distiller.step(batch, 0.01)
    assert all(p.grad is None for p in (*student.parameters(), *teacher.parameters()))
    assert all(p.requires_grad for p in kept)


def test_a_large_held_out_batch_is_judged_in_pieces(
    student, teacher, batch, config, data, monkeypatch
):
    whole = distiller_of(student, teacher, config, batch, data).judge(batch)
    monkeypatch.setattr(judging, "AT_ONCE", 3)
    with forwards_of(student) as sizes:
        apart = distiller_of(student, teacher, config, batch, data).judge(batch)
    assert sizes == [3, 3, 2]
    assert apart.output.item() == pytest.approx(whole.output.item(), rel=1e-5)
    # the relative error of a block is that of a piece: alike, not equal
    torch.testing.assert_close(apart.blocks, whole.blocks, rtol=0.2, atol=0)
    assert apart.features.item() == pytest.approx(apart.blocks.mean().item())


def test_what_a_step_asks_of_the_teacher(student, teacher, batch, config, data):
    """Without distillation nothing; with guidance both branches."""
    alone = replace(config, objective=Objective(output=0, features=0, ddpm=1))
    for settings, expected in ((alone, []), (config, [8])):
        subject = distiller_of(student, teacher, settings, batch, data)
        before = subject.judge(batch).total
        with forwards_of(teacher) as sizes:
            subject.step(batch, 1.0)
        assert sizes == expected
        assert subject.judge(batch).total != before
    guided = replace(config, objective=Objective(guidance=2.0))
    subject = distiller_of(student, teacher, guided, paired(batch, 10), data)
    with forwards_of(teacher) as sizes:
        subject.step(paired(batch, 10), 1.0)
    assert sizes == [16]


def test_a_step_descends_the_objective(student, teacher, batch, config, data):
    """What moves is minus the sign of the objective's gradient, by the timesteps' weights."""
    objective = Objective(output=0.5, features=0.2, ddpm=0.3, timestep_power=-1)
    subject = distiller_of(student, teacher, replace(config, objective=objective), batch, data)
    masters = masters_of(student)
    loss = training_loss(
        predict(student, batch, masters),
        predict(teacher, batch, {}),
        objective,
        target=batch.target,
        weights=timestep_weights(data.alphas, -1)[batch.timesteps],
    )
    loss.backward()
    subject.step(batch, 1.0)
    for name, master in masters.items():
        assert master.grad is not None
        clear = master.grad.abs() > 1e-6
        moved = (subject.masters[name] - master)[clear]
        assert torch.equal(moved.sign(), -master.grad[clear].sign()), name


def test_the_student_decodes_the_present_codes_and_stores_the_last(
    student, teacher, batch, config, data
):
    """And always from the same tensor, which is where a CUDA graph reads."""
    subject = distiller_of(student, teacher, config, batch, data)
    caches = [layer.codes_cache for layer in layers_of(student)]
    stored = [layer.codes() for layer in layers_of(student)]
    before = subject.judge(batch).total
    for search in subject.searches.values():
        search.codes.zero_()
    subject.show_codes_()
    changed = subject.judge(batch).total
    assert changed > before
    assert all(torch.equal(s, x.codes()) for s, x in zip(stored, layers_of(student), strict=True))
    subject.store_()
    assert all(a is b.codes_cache for a, b in zip(caches, layers_of(student), strict=True))
    assert not any(layer.codes().any() for layer in layers_of(student))
    assert subject.judge(batch).total == changed
    for layer, codes in zip(layers_of(student), stored, strict=True):
        layer.set_codes_(codes)
    subject.reread_codes_()
    assert subject.judge(batch).total == before
    assert all(a is b.codes_cache for a, b in zip(caches, layers_of(student), strict=True))


@pytest.mark.parametrize("latent", [None, LatentConfig(every=2)])
def test_a_state_is_all_that_the_next_step_depends_on(
    compressed, teacher, batch, config, data, latent
):
    settings = replace(config, latent=latent)
    first, second = (distiller_of(compressed(), teacher, settings, batch, data) for _ in range(2))
    for subject in (first, second):  # from before the first step, too
        subject.load_state_({k: v.clone() for k, v in subject.state().items()})
    for _ in range(3):
        first.step(batch, 1.0)
    assert len(first.state()) > len(second.state())
    second.load_state_({k: v.clone() for k, v in first.state().items()})
    for subject in (first, second):
        subject.step(batch, 0.5)
    mine, theirs = first.state(), second.state()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert first.judge(batch).total == second.judge(batch).total


def test_the_state_of_another_run_is_refused(compressed, teacher, batch, config, data):
    subject = distiller_of(compressed(), teacher, config, batch, data)
    before = {name: value.clone() for name, value in subject.state().items()}
    latent = distiller_of(
        compressed(), teacher, replace(config, latent=LatentConfig()), batch, data
    )
    shared = distiller_of(compressed(VQ_KIND), teacher, config, batch, data)
    larger = CodebookCodec(d=4, k=16, row_scale=True, iterations=2)
    wide = distiller_of(compressed(larger), teacher, config, batch, data)
    for other in (latent, shared, wide):
        with pytest.raises(CheckpointError, match=r"another model or to other settings"):
            subject.load_state_(other.state())
    assert all(torch.equal(before[name], value) for name, value in subject.state().items())
