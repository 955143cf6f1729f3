"""Codes chosen again, and codewords revived, between the steps of a calibration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from dpqlab.calibration import (
    Batch,
    EStepSchedule,
    LatentConfig,
    RevivalConfig,
    RevivalSchedule,
    assign_codes,
    calibrate,
)
from dpqlab.calibration.distiller import Distiller
from dpqlab.calibration.moves import reassign_, revive_
from dpqlab.core import CodebookCodec, Encoded, Pool, encode
from tests.calibration.conftest import PQ, QUICK, VQ_KIND
from tests.calibration.states import codes_of, layers_of, untouched

VQ_MODEL = CodebookCodec(d=4, k=32, scope="layer", across="model", iterations=2)
PQ_KIND = CodebookCodec(d=4, k=8, across="kind", row_scale=True, iterations=2)
UNEVEN = CodebookCodec(d=3, k=8, scope="group", group=4, iterations=2)
ALL = (PQ, VQ_KIND, VQ_MODEL, PQ_KIND, UNEVEN)


def ruin_(student: Any, teacher: Any) -> None:
    """Put every fourth codeword where nobody wants it, and let what is left serve everything."""
    for name, layer in student.named_modules():
        if layer in layers_of(student):
            with torch.no_grad():
                layer.pool[3::4] = 50
            weight = teacher.get_parameter(f"{name}.weight")
            layer.set_codes_(encode(weight, layer.codec, layer.codebooks()).codes)


def distiller_of(student: Any, teacher: Any, config: Any, data: Any) -> Distiller:
    for layer in layers_of(student):
        layer.cache_codes_()
    return Distiller(student, teacher, config, batches_of(data)[0], data.alphas)


def batches_of(data: Any) -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    return [data.draw(32, null_class=10, label_drop=0.1, generator=generator) for _ in range(2)]


def weight_error(distiller: Distiller) -> float:
    """Squared error of all weights, as the present masters and codes make them."""
    total = 0.0
    for name, search in distiller.searches.items():
        pool, scale = distiller.masters[distiller.pools[name]], f"{name}.scale"
        weight = search.layer.decode_with(pool, distiller.masters.get(scale))
        wanted = distiller.teacher.get_parameter(f"{name}.weight")
        total += (weight - wanted).square().sum().item()
    return total


def in_use(distiller: Distiller) -> dict[str, set[int]]:
    """The entries that serve something, pool by pool."""
    used: dict[str, set[int]] = {}
    for name, search in distiller.searches.items():
        used.setdefault(distiller.pools[name], set()).update(search.cache.flatten().tolist())
    return used


def test_codes_are_reassigned_for_the_present_codewords(compressed, teacher, config, data):
    """As the E-step does for a student that stores what the masters round to."""
    student, twin = compressed(), compressed()
    distiller = distiller_of(student, teacher, config, data)
    with torch.no_grad():
        for master in distiller.masters.values():
            master += 0.1 * master.std() * torch.randn_like(master)
    masters = {name: master.detach().clone() for name, master in distiller.masters.items()}
    for name, master in masters.items():
        twin.get_parameter(name).data.copy_(master)
    before = codes_of(student)
    for _ in assign_codes(twin, teacher, batches_of(data), QUICK):
        pass
    reassign_(distiller, batches_of(data), QUICK)
    assert all(torch.equal(masters[name], m) for name, m in distiller.masters.items())
    assert torch.equal(codes_of(student), codes_of(twin))
    assert not torch.equal(codes_of(student), before)
    for search in distiller.searches.values():
        assert search.layer.codes_cache is search.cache
        assert torch.equal(search.codes, search.layer.codes())


@pytest.mark.parametrize(
    ("codec", "latent"),
    [*((codec, None) for codec in ALL), (PQ, LatentConfig()), (VQ_KIND, LatentConfig())],
    ids=lambda value: value.describe() if isinstance(value, CodebookCodec) else None,
)
def test_dead_codewords_start_again(compressed, teacher, config, data, generator, codec, latent):
    student = compressed(codec)
    ruin_(student, teacher)
    distiller = distiller_of(student, teacher, replace(config, latent=latent), data)
    distiller.step(batches_of(data)[0], 1e-3)
    masters = {name: master.detach().clone() for name, master in distiller.masters.items()}
    momentum = {
        n: distiller.optimizer.state[m]["exp_avg"].clone() for n, m in distiller.masters.items()
    }
    error, used = weight_error(distiller), in_use(distiller)
    stored = codes_of(student)
    count = revive_(distiller, RevivalConfig(), generator)
    assert weight_error(distiller) < 0.97 * error
    assert torch.equal(codes_of(student), stored)  # nothing is stored by it
    revived = 0
    for name, master in distiller.masters.items():
        if name not in used:
            assert torch.equal(master, masters[name]), name
            continue
        moved = (master != masters[name]).any(1)
        revived += int(moved.sum())
        assert len(in_use(distiller)[name]) > len(used[name])
        state = distiller.optimizer.state[master]
        assert not state["exp_avg"][moved].any()
        assert not state["exp_avg_sq"][moved].any()
        assert torch.equal(state["exp_avg"][~moved], momentum[name][~moved])
        assert state["exp_avg"][~moved].any()
        assert state["step"] == 1
    assert revived == count > len(used)
    distiller.step(batches_of(data)[0], 1.0)
    assert distiller.judge(batches_of(data)[0]).total.isfinite()


def test_latents_are_what_the_revived_serve(student, teacher, config, data, generator):
    """Where latents have left the weights, weights no longer count."""
    ruin_(student, teacher)
    distiller = distiller_of(student, teacher, replace(config, latent=LatentConfig()), data)
    with torch.no_grad():
        for name, master in distiller.masters.items():
            if name.endswith(".latent"):
                master.copy_(torch.full_like(master, 3.0) + 0.1 * torch.randn_like(master))
    before = {name: m.detach().clone() for name, m in distiller.masters.items()}
    assert revive_(distiller, RevivalConfig(), generator) > 0
    moved = [
        master[(master != before[name]).any(1)]
        for name, master in distiller.masters.items()
        if name.endswith(".pool")
    ]
    assert (torch.cat(moved) - 3).abs().max() < 0.6


def test_nothing_is_revived_where_all_are_alive(student, teacher, config, data, generator):
    distiller = distiller_of(student, teacher, config, data)
    before = {name: value.clone() for name, value in distiller.state().items()}
    assert revive_(distiller, RevivalConfig(count=0), generator) == 0
    assert all(torch.equal(before[name], value) for name, value in distiller.state().items())


def test_a_pool_shared_by_tables_is_left_alone(compressed, teacher, config, data, generator):
    student = compressed(VQ_KIND)
    ruin_(student, teacher)
    pair = [block.ff.net[2] for block in student.transformer_blocks]
    for index, layer in enumerate(pair):
        table = torch.arange(16).roll(index)
        old: Encoded = layer.encoded()
        pool = Pool(entries=old.pool.entries, base=old.pool.base, table=table)
        layer.set_pool_(replace(old, pool=pool), pool_parameter=pair[0].pool)
    distiller = distiller_of(student, teacher, config, data)
    before = {name: m.detach().clone() for name, m in distiller.masters.items()}
    assert revive_(distiller, RevivalConfig(), generator) > 0
    same = [torch.equal(before[n], m) for n, m in distiller.masters.items() if n.endswith("pool")]
    assert same.count(True) == 1
    name = distiller.pools["transformer_blocks.1.ff.net.2"]
    assert torch.equal(before[name], distiller.masters[name])


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[tuple[int, int]]]:
    """``seen(move)``: when a move was made (steps taken), and how many batches it was given."""

    def watch(move: str) -> list[tuple[int, int]]:
        made: list[tuple[int, int]] = []
        done = {"reassign_": reassign_, "revive_": revive_}[move]

        def watched(distiller: Distiller, batches: Any, *rest: Any) -> Any:
            made.append((distiller.taken, len(batches) if move == "reassign_" else 0))
            return done(distiller, batches, *rest)

        monkeypatch.setattr(f"dpqlab.calibration.loop.{move}", watched)
        return made

    return watch


def test_e_steps_come_when_they_are_due(compressed, teacher, config, data, seen):
    student = compressed(VQ_KIND)
    schedule = EStepSchedule(every=2, until=0.8, batches=2, settings=QUICK)
    settings = replace(config, steps=6, every=1, e_step=schedule)
    made, before = seen("reassign_"), codes_of(student)
    records = list(calibrate(student, teacher, data, settings))
    assert made == [(0, 2), (2, 2), (4, 2)]
    changed = [record.step for record in records if record.changed]
    assert 1 in changed
    assert set(changed) <= {1, 3, 5}
    assert 0 < (codes_of(student) != before).float().mean() < 0.8
    assert untouched(student)


@pytest.mark.parametrize("latent", [None, LatentConfig()], ids=["fixed", "latent"])
def test_revivals_come_when_they_are_due(compressed, teacher, config, data, seen, latent):
    student = compressed(VQ_KIND)
    ruin_(student, teacher)
    schedule = RevivalSchedule(every=2, until=0.5)
    settings = replace(config, steps=8, every=2, revival=schedule, latent=latent)
    made = seen("revive_")
    records = list(calibrate(student, teacher, data, settings))
    assert [steps for steps, _ in made] == [2, 4]
    assert [record.revived > 0 for record in records[:3]] == [False, False, True]
    assert [record.revived for record in records[4:]] == [0]
    assert records[2].changed > 0
    assert untouched(student)


def test_what_is_revived_is_assigned_by_the_e_step_of_the_same_moment(
    compressed, teacher, config, data, monkeypatch
):
    order: list[tuple[int, str]] = []

    def watched(move: str, done: Callable[..., Any]) -> Callable[..., Any]:
        def run(distiller: Distiller, *rest: Any) -> Any:
            order.append((distiller.taken, move))
            return done(distiller, *rest)

        return run

    for move, done in {"reassign_": reassign_, "revive_": revive_}.items():
        monkeypatch.setattr(f"dpqlab.calibration.loop.{move}", watched(move, done))
    e_step = EStepSchedule(every=2, until=0.5, batches=1, settings=QUICK)
    revival = RevivalSchedule(every=2, until=0.5)
    settings = replace(config, steps=4, every=2, e_step=e_step, revival=revival)
    list(calibrate(compressed(VQ_KIND), teacher, data, settings))
    assert order == [(0, "reassign_"), (2, "revive_"), (2, "reassign_")]
