from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dpqlab.core import CodebookCodec, Encoded, Pool, assignment, decode, encode, fit_pool
from dpqlab.core.assignment import AssignmentConfig, reassign
from dpqlab.errors import ConfigError, ShapeError

ALL = AssignmentConfig(candidates=0, sweeps=4, beam=0, damping=0.0)


def layer(
    shape: tuple[int, int],
    d: int,
    sizes: list[int],
    *,
    seed: int = 0,
    scaled: bool = False,
    indexed: bool = False,
) -> Encoded:
    """A random layer; positions take the scopes in turn, codes are random too."""
    generator = torch.Generator().manual_seed(seed)
    m = -(-shape[1] // d)
    scope_of = (torch.arange(m) * len(sizes) // m).clamp(max=len(sizes) - 1)
    sizes = sizes[: int(scope_of[-1]) + 1]
    base = torch.tensor([0, *sizes]).cumsum(0)
    entries = torch.randn(int(base[-1]), d, generator=generator).half()
    table = None
    if indexed:
        entries = entries[: max(2, len(entries) // 2)]
        table = torch.randint(len(entries), (int(base[-1]),), generator=generator)
    k = base.diff()[scope_of]
    codes = (torch.rand(shape[0], m, generator=generator) * k).long()
    scale = torch.rand(shape[0], generator=generator).half() + 0.5 if scaled else None
    pool = Pool(entries=entries, base=base, table=table)
    return Encoded(codes=codes, pool=pool, scope_of=scope_of, scale=scale, shape=shape)


def moments(shape: tuple[int, int], seed: int, samples: int = 40) -> tuple[torch.Tensor, ...]:
    """Moments of correlated inputs, and of outputs that no weight could give exactly."""
    generator = torch.Generator().manual_seed(seed + 1)
    mix = torch.randn(shape[1], shape[1], generator=generator).double()
    x = torch.randn(samples, shape[1], generator=generator).double() @ mix
    weight = torch.randn(shape, generator=generator).double()
    y = x @ weight.T + torch.randn(samples, shape[0], generator=generator)
    return x.T @ x / samples, y.T @ x / samples


def objective(encoded: Encoded, gram: torch.Tensor, cross: torch.Tensor) -> torch.Tensor:
    what = decode(encoded, torch.float64)
    return torch.einsum("ri,ij,rj->r", what, gram, what) - 2 * (cross * what).sum(1)


def brute_force(encoded: Encoded, gram: torch.Tensor, cross: torch.Tensor) -> torch.Tensor:
    """The lowest objective of every row over all combinations of codes."""
    choices = [range(encoded.pool.sizes[s]) for s in encoded.scope_of.tolist()]
    values = [
        objective(replace(encoded, codes=torch.tensor(c).expand_as(encoded.codes)), gram, cross)
        for c in product(*choices)
    ]
    return torch.stack(values).amin(0)


shapes = st.tuples(st.integers(1, 6), st.integers(1, 14))
configs = st.builds(
    AssignmentConfig,
    candidates=st.integers(0, 4),
    sweeps=st.integers(0, 3),
    beam=st.integers(0, 3),
    damping=st.sampled_from([0.0, 0.01, 1.0]),
)


@given(
    shape=shapes,
    d=st.integers(1, 5),
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    seed=st.integers(0, 10_000),
    scaled=st.booleans(),
    indexed=st.booleans(),
    samples=st.sampled_from([2, 40]),
    config=configs,
)
@settings(max_examples=60)
def test_no_row_gets_worse_and_codes_stay_in_range(
    shape: tuple[int, int],
    d: int,
    sizes: list[int],
    seed: int,
    scaled: bool,
    indexed: bool,
    samples: int,
    config: AssignmentConfig,
) -> None:
    encoded = layer(shape, d, sizes, seed=seed, scaled=scaled, indexed=indexed)
    gram, cross = moments(shape, seed, samples)
    before = objective(encoded, gram, cross)
    found = reassign(encoded, gram, cross, config)
    k = encoded.pool.base.diff()[encoded.scope_of]
    assert bool(((found.codes >= 0) & (found.codes < k)).all())
    after = objective(replace(encoded, codes=found.codes), gram, cross)
    slack = 1e-9 * (1 + before.abs())
    assert bool((after <= before + slack).all())
    assert bool((found.after <= found.before).all())
    torch.testing.assert_close(found.before, before)
    torch.testing.assert_close(found.after, after)
    assert found.changed == int((found.codes != encoded.codes).sum())


@given(
    m=st.integers(1, 4),
    d=st.integers(1, 3),
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    seed=st.integers(0, 10_000),
    scaled=st.booleans(),
    short=st.booleans(),
)
@example(m=4, d=2, sizes=[3], seed=128, scaled=False, short=True)
@settings(max_examples=25)
def test_a_beam_that_keeps_everything_is_brute_force(
    m: int, d: int, sizes: list[int], seed: int, scaled: bool, short: bool
) -> None:
    shape = (3, max(1, m * d - short))
    encoded = layer(shape, d, sizes, seed=seed, scaled=scaled)
    gram, cross = moments(shape, seed)
    best = brute_force(encoded, gram, cross)
    found = reassign(encoded, gram, cross, replace(ALL, beam=4**4, sweeps=0))
    torch.testing.assert_close(found.after, best)


@given(seed=st.integers(0, 10_000), k=st.integers(1, 9), scaled=st.booleans())
@settings(max_examples=25)
def test_one_position_is_brute_force(seed: int, k: int, scaled: bool) -> None:
    encoded = layer((5, 3), 3, [k], seed=seed, scaled=scaled)
    gram, cross = moments((5, 3), seed)
    found = reassign(encoded, gram, cross, replace(ALL, sweeps=1))
    torch.testing.assert_close(found.after, brute_force(encoded, gram, cross))


def test_when_descent_stops_no_single_code_could_do_better() -> None:
    encoded = layer((7, 40), 2, [5], scaled=True)
    gram, cross = moments((7, 40), 0)
    found = reassign(encoded, gram, cross, replace(ALL, sweeps=100))
    best = replace(encoded, codes=found.codes)
    for position, code in product(range(20), range(5)):
        other = found.codes.clone()
        other[:, position] = code
        value = objective(replace(best, codes=other), gram, cross)
        assert bool((value >= found.after - 1e-9).all())
    again = reassign(best, gram, cross, ALL)
    assert again.changed == 0


@pytest.mark.parametrize("columns", [40, 39])
def test_blocks_change_nothing(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = layer((9, columns), 2, [6, 3], scaled=True)
    gram, cross = moments((9, columns), 3)
    whole = reassign(encoded, gram, cross, ALL)
    monkeypatch.setattr("dpqlab.core.assignment.BLOCK", 6)
    monkeypatch.setattr("dpqlab.core.assignment.CHUNK_BYTES", 1000)
    assert reassign(encoded, gram, cross, ALL).codes.equal(whole.codes)


def test_where_memory_runs_out_fewer_rows_are_worked_on(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = layer((9, 40), 2, [6, 3], scaled=True)
    gram, cross = moments((9, 40), 3)
    whole = reassign(encoded, gram, cross, ALL)
    best, rows = assignment._best_of, []

    def small_machine(task: Any, codes: torch.Tensor, config: AssignmentConfig) -> torch.Tensor:
        rows.append(len(codes))
        if len(codes) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return best(task, codes, config)

    monkeypatch.setattr(assignment, "_best_of", small_machine)
    small = reassign(encoded, gram, cross, ALL)
    assert max(rows) == 9
    assert small.codes.equal(whole.codes)
    assert torch.allclose(small.after, whole.after)


def test_a_beam_and_a_wider_one_help() -> None:
    encoded = layer((32, 32), 2, [8])
    gram, cross = moments((32, 32), 1, samples=200)
    totals = [
        float(reassign(encoded, gram, cross, replace(ALL, beam=b)).after.sum()) for b in (0, 1, 16)
    ]
    assert totals[0] >= totals[1] > totals[2]


def test_independent_inputs_keep_the_nearest_codewords() -> None:
    weight = torch.randn(20, 16)
    codec = CodebookCodec(d=4, k=8, row_scale=True)
    pool = fit_pool([weight], codec, generator=torch.Generator().manual_seed(0))
    encoded = encode(weight, codec, pool)
    gram = torch.eye(16) * 0.3
    found = reassign(encoded, gram, weight @ gram, ALL)
    points, decoded = weight.view(20, 4, 4), pool.entries.double().view(4, -1, 4)
    scale = encoded.scale.double() if encoded.scale is not None else torch.ones(20)
    errors = (points[:, :, None] - scale[:, None, None, None] * decoded).square().sum(-1)
    assert found.codes.equal(errors.argmin(-1))
    few = reassign(encoded, gram, weight @ gram, replace(ALL, candidates=1))
    assert few.codes.equal(found.codes)


def test_correlated_inputs_gain_over_the_nearest_codewords() -> None:
    weight = torch.randn(64, 64)
    codec = CodebookCodec(d=4, k=16)
    pool = fit_pool([weight], codec, generator=torch.Generator().manual_seed(0))
    encoded = encode(weight, codec, pool)
    gram, _ = moments((64, 64), 5, samples=500)
    found = reassign(encoded, gram, weight.double() @ gram)
    power = torch.einsum("ri,ij,rj->", weight.double(), gram, weight.double())
    assert float(found.after.sum() + power) < 0.8 * float(found.before.sum() + power)


def test_rows_without_scale_or_signal_keep_their_codes() -> None:
    encoded = layer((4, 8), 2, [4], scaled=True)
    assert encoded.scale is not None
    encoded.scale[1] = 0
    gram, cross = moments((4, 8), 0)
    found = reassign(encoded, gram, cross)
    assert found.codes[1].equal(encoded.codes[1])
    assert found.before[1] == found.after[1] == 0
    silent = reassign(encoded, torch.zeros(8, 8), torch.zeros(4, 8))
    assert silent.changed == 0


def test_dead_inputs_and_too_few_samples_are_no_obstacle() -> None:
    encoded = layer((4, 12), 2, [4])
    gram, cross = moments((4, 12), 0, samples=3)
    gram[5], gram[:, 5], cross[:, 5] = 0, 0, 0
    for damping in (0.0, 0.01):
        found = reassign(encoded, gram, cross, AssignmentConfig(damping=damping, beam=2))
        assert bool(torch.isfinite(found.after).all())
        assert float(found.after.sum()) < float(found.before.sum())


def test_damping_pulls_to_the_anchor() -> None:
    encoded = layer((6, 8), 2, [6])
    gram, cross = moments((6, 8), 0, samples=3)
    strong = replace(ALL, damping=1e6)
    assert reassign(encoded, gram, cross, strong).changed == 0
    other = replace(encoded, codes=(encoded.codes + 1) % 6)
    found = reassign(other, gram, cross, strong, anchor=decode(encoded))
    better = objective(encoded, gram, cross) < found.before
    assert found.codes[better].equal(encoded.codes[better])
    assert found.codes[~better].equal(other.codes[~better])


def test_what_does_not_fit_is_refused() -> None:
    encoded = layer((4, 8), 2, [4])
    gram, cross = moments((4, 8), 0)
    with pytest.raises(ShapeError, match=r"gram .* expected \(8, 8\)"):
        reassign(encoded, gram[:4], cross)
    with pytest.raises(ShapeError, match="cross"):
        reassign(encoded, gram, cross.T)
    with pytest.raises(ConfigError, match="NaN"):
        reassign(encoded, gram / 0, cross)
    for settings_ in ({"candidates": -1}, {"beam": -1}, {"sweeps": -1}, {"damping": -0.1}):
        with pytest.raises(ConfigError):
            AssignmentConfig(**settings_)


def test_on_each_device(device: torch.device) -> None:
    encoded = layer((8, 24), 4, [8], scaled=True)
    gram, cross = moments((8, 24), 2)
    expected = reassign(encoded, gram, cross)
    assert encoded.scale is not None
    moved = replace(
        encoded,
        codes=encoded.codes.to(device),
        pool=Pool(entries=encoded.pool.entries.to(device), base=encoded.pool.base.to(device)),
        scope_of=encoded.scope_of.to(device),
        scale=encoded.scale.to(device),
    )
    found = reassign(moved, gram.to(device), cross.to(device))
    torch.testing.assert_close(found.after.cpu(), expected.after)
