"""Codes that move with latents: quantization-aware training of the assignment."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch

from dpqlab.calibration import LatentConfig, calibrate
from dpqlab.calibration.distiller import Distiller
from dpqlab.checkpoint import load_compressed, save_compressed
from dpqlab.core import CodebookCodec, split
from dpqlab.diffusion.schedules import make_scheduler
from dpqlab.nn.linear import CompressedLinear
from tests.calibration.conftest import PQ, VQ_KIND
from tests.calibration.states import codes_of, layers_of, same, state_of, untouched

UNEVEN = CodebookCodec(d=3, k=8, scope="group", group=4, row_scale=True, iterations=2)


def distiller_of(student: Any, teacher: Any, config: Any, data: Any) -> Distiller:
    for layer in layers_of(student):
        layer.cache_codes_()
    generator = torch.Generator().manual_seed(1)
    batch = data.draw(16, null_class=10, label_drop=0.1, generator=generator)
    return Distiller(student, teacher, config, batch, data.alphas)


@pytest.fixture
def latent_config(config):
    return replace(config, latent=LatentConfig(learning_rate=0.05))


@pytest.mark.parametrize("codec", [PQ, VQ_KIND, UNEVEN], ids=lambda codec: codec.describe())
def test_a_latents_gradient_is_that_of_the_weight_times_the_scale(
    compressed, teacher, latent_config, data, monkeypatch, codec
):
    student = compressed(codec)
    distiller = distiller_of(student, teacher, latent_config, data)
    weights: dict[CompressedLinear, torch.Tensor] = {}
    decode = CompressedLinear.decode

    def decode_and_keep(layer: CompressedLinear, dtype: torch.dtype = torch.float32) -> Any:
        weight = decode(layer, dtype)
        if weight.requires_grad:
            weight.retain_grad()
            weights[layer] = weight
        return weight

    monkeypatch.setattr(CompressedLinear, "decode", decode_and_keep)
    distiller._loss(distiller.batch, distiller._ask()).backward()
    assert len(weights) == len(layers_of(student))
    for name, search in distiller.searches.items():
        latent, grad = distiller.masters[f"{name}.latent"], weights[search.layer].grad
        assert latent.grad is not None
        assert grad is not None
        if search.layer.scale is not None:
            grad = grad * search.layer.scale.float()[:, None]
        torch.testing.assert_close(latent.grad, split(grad, codec.d), rtol=1e-5, atol=1e-12)
        assert latent.grad.any()


def test_the_first_state_is_the_student_itself(compressed, teacher, config, latent_config, data):
    plain = distiller_of(compressed(), teacher, config, data)
    latent = distiller_of(compressed(), teacher, latent_config, data)
    assert latent.judge(latent.batch).total == plain.judge(plain.batch).total
    for name, search in latent.searches.items():
        assert torch.equal(search.codes, plain.searches[name].codes)
    latent.choose_codes()
    assert latent.judge(latent.batch).total == plain.judge(plain.batch).total


def test_codes_are_chosen_every_few_steps(compressed, teacher, latent_config, data):
    settings = replace(latent_config, latent=LatentConfig(learning_rate=0.1, every=3))
    distiller = distiller_of(compressed(), teacher, settings, data)
    changed, before = [], {n: search.codes.clone() for n, search in distiller.searches.items()}
    for _ in range(7):
        distiller.step(distiller.batch, 1.0)
        changed.append(any(bool((distiller.searches[n].codes != before[n]).any()) for n in before))
        before = {n: search.codes.clone() for n, search in distiller.searches.items()}
    assert changed == [False, False, True, False, False, True, False]


def test_latents_have_a_rate_of_their_own(student, teacher, latent_config, data):
    settings = replace(latent_config, latent=LatentConfig(learning_rate=0.2), learning_rate=1e-9)
    distiller = distiller_of(student, teacher, settings, data)
    before = {name: master.detach().clone() for name, master in distiller.masters.items()}
    distiller.step(distiller.batch, 0.5)
    latents = [name for name in before if name.endswith(".latent")]
    size = torch.stack([before[n].square().mean() for n in latents]).mean().sqrt().item()
    moved = max((distiller.masters[n] - before[n]).abs().max().item() for n in latents)
    assert moved == pytest.approx(0.5 * 0.2 * size, rel=1e-2)
    assert all(
        torch.allclose(distiller.masters[n], before[n], rtol=1e-6, atol=1e-8)
        for n in before
        if n not in latents
    )


def test_codes_move_and_that_pays(compressed, teacher, config, latent_config, data):
    """Where few codewords can be trained; in the tiny PQ student there are enough without."""
    fixed, moving = compressed(VQ_KIND), compressed(VQ_KIND)
    config, latent_config = (replace(c, steps=20) for c in (config, latent_config))
    before = codes_of(moving)
    plain = list(calibrate(fixed, teacher, data, config))
    records = list(calibrate(moving, teacher, data, latent_config))
    assert torch.equal(codes_of(fixed), before)
    assert all(record.changed == 0 for record in plain)
    assert records[0].total == plain[0].total
    assert records[0].changed == 0
    assert all(0 < record.changed < 1 for record in records[1:])
    assert 0.05 < (codes_of(moving) != before).float().mean() < 0.9
    assert min(r.total for r in records) < 0.85 * min(r.total for r in plain)
    assert untouched(moving)


def test_looking_at_a_student_does_not_change_the_course(compressed, teacher, latent_config, data):
    """Between records it has its own codes again, not those of the best state that it showed."""
    settings = replace(latent_config, latent=LatentConfig(learning_rate=1.0, every=2), steps=6)
    often = list(calibrate(compressed(), teacher, data, replace(settings, every=1)))
    once = list(calibrate(compressed(), teacher, data, replace(settings, every=6)))
    assert not all(record.best for record in often[:-1])
    assert often[-1].total == once[-1].total


def test_what_is_stored_is_an_ordinary_student(student, teacher, latent_config, data, tmp_path):
    names = set(student.state_dict())
    records = list(calibrate(student, teacher, data, replace(latent_config, steps=10)))
    assert records[-1].best
    assert untouched(student)
    assert set(student.state_dict()) == names
    scheduler: Any = make_scheduler()
    save_compressed(
        student,
        tmp_path / "student",
        scheduler_config=json.loads(scheduler.to_json_string()),
        provenance={},
        card="# Student\n",
    )
    loaded = load_compressed(tmp_path / "student")
    assert same(state_of(loaded), state_of(student))
    assert torch.equal(codes_of(loaded), codes_of(student))


def test_a_student_can_be_used_while_codes_move(compressed, teacher, latent_config, data):
    """At a record it is the best state, codes included: to sample from, or to save."""
    student = compressed()
    settings = replace(latent_config, latent=LatentConfig(learning_rate=2.0), steps=8, every=1)
    generator = torch.Generator().manual_seed(1)
    batch = data.draw(4, null_class=10, label_drop=0.1, generator=generator)
    given = {"timestep": batch.timesteps, "class_labels": batch.labels}
    best = []
    for record in calibrate(student, teacher, data, settings):
        best.append(record.best)
        assert all(layer.latent is None for layer in layers_of(student))
        used = student(batch.noisy, **given).sample
        fresh = compressed()
        fresh.load_state_dict(student.state_dict())
        # decoded by another kernel, which may sum in another order
        torch.testing.assert_close(fresh(batch.noisy, **given).sample, used)
    assert not all(best)
