from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dpqlab.calibration.revival import Revival, RevivalConfig, revive
from dpqlab.core import CodebookCodec, Encoded, Pool, decode, encode, fit_pool
from dpqlab.core.subvectors import split
from dpqlab.errors import ConfigError, ShapeError


def layer(
    shape: tuple[int, int],
    d: int,
    sizes: list[int],
    *,
    seed: int = 0,
    scaled: bool = False,
    indexed: bool = False,
    dtype: torch.dtype = torch.float16,
) -> tuple[torch.Tensor, Encoded]:
    """A random layer whose codes avoid most of each codebook."""
    generator = torch.Generator().manual_seed(seed)
    m = -(-shape[1] // d)
    scope_of = torch.arange(m) * len(sizes) // m
    sizes = sizes[: int(scope_of[-1]) + 1]
    base = torch.tensor([0, *sizes]).cumsum(0)
    entries = torch.randn(int(base[-1]), d, generator=generator).to(dtype)
    table = None
    if indexed:
        entries = entries[: max(2, len(entries) // 2)]
        table = torch.randint(len(entries), (int(base[-1]),), generator=generator)
    draws = torch.rand(shape[0], m, generator=generator) ** 4
    codes = (draws * base.diff()[scope_of]).long()
    scale = None
    if scaled:
        scale = (torch.rand(shape[0], generator=generator) + 0.5).half()
        scale[0] = 0
    pool = Pool(entries=entries, base=base, table=table)
    weight = torch.randn(shape, generator=generator)
    return weight, Encoded(codes=codes, pool=pool, scope_of=scope_of, scale=scale, shape=shape)


def applied(encoded: Encoded, found: Revival) -> Encoded:
    return replace(encoded, codes=found.codes, pool=replace(encoded.pool, entries=found.entries))


def weighted_error(weight: torch.Tensor, encoded: Encoded, mass: torch.Tensor) -> float:
    """Over split rows, so that padding counts as the zeros that it is; mass (out, m, d)."""
    wide = replace(encoded, shape=(encoded.shape[0], mass.shape[1] * mass.shape[2]))
    if encoded.scale is not None:  # what no codeword can change is left out
        mass = mass * (encoded.scale > 0)[:, None, None]
    missed = split(weight, mass.shape[2]) - split(decode(wide, torch.float64), mass.shape[2])
    return float((mass * missed.square()).sum())


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(
    shape=st.tuples(st.integers(2, 40), st.integers(1, 12)),
    d=st.integers(1, 4),
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=3),
    seed=st.integers(0, 10_000),
    flags=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    weights=st.sampled_from(["none", "sub-vectors", "columns"]),
    share=st.sampled_from([1 / 16, 0.5, 3.0]),
)
@settings(max_examples=60)
def test_the_total_error_never_rises(
    shape: tuple[int, int],
    d: int,
    sizes: list[int],
    seed: int,
    flags: tuple[bool, bool, bool],
    weights: str,
    share: float,
) -> None:
    dtype = torch.float32 if flags[2] else torch.float16
    weight, encoded = layer(
        shape, d, sizes, seed=seed, scaled=flags[0], indexed=flags[1], dtype=dtype
    )
    m = encoded.codes.shape[1]
    mass, given_ = torch.ones(shape[0], m, d, dtype=torch.float64), None
    if weights == "sub-vectors":
        given_ = torch.rand(shape[0], m)
        mass = given_[..., None].double().expand(-1, -1, d)
    elif weights == "columns":
        given_ = torch.rand(1, m, d)
        mass = given_.double().expand(shape[0], -1, -1)
    found = revive(
        weight,
        encoded,
        generator=seeded(seed),
        sample_weights=given_,
        config=RevivalConfig(share=share),
    )
    assert found.entries.dtype == dtype
    k = encoded.pool.base.diff()[encoded.scope_of]
    assert bool(((found.codes >= 0) & (found.codes < k)).all())
    before = weighted_error(weight, encoded, mass)
    after = weighted_error(weight, applied(encoded, found), mass)
    assert found.error_before == pytest.approx(before)
    assert found.error_after == pytest.approx(after)
    assert after <= before * (1 + 1e-12)
    moved = (found.entries != encoded.pool.entries).any(1).nonzero()[:, 0]
    assert set(moved.tolist()) <= set(found.revived.tolist())
    assert len(found.revived) == len(set(found.revived.tolist()))


def test_a_dead_codeword_goes_where_the_error_is() -> None:
    weight = torch.cat([torch.zeros(50, 2), torch.full((10, 2), 5.0)])
    pool = Pool(entries=torch.tensor([[0.0, 0.0], [90.0, 0.0]]).half(), base=torch.tensor([0, 2]))
    encoded = Encoded(
        codes=torch.zeros(60, 1, dtype=torch.int64),
        pool=pool,
        scope_of=torch.zeros(1, dtype=torch.int64),
        scale=None,
        shape=(60, 2),
    )
    found = revive(weight, encoded, generator=seeded())
    assert found.revived.tolist() == [1]
    assert found.entries[1].tolist() == [5.0, 5.0]
    assert found.codes[:, 0].tolist() == [0] * 50 + [1] * 10
    assert (found.error_before, found.error_after) == (500.0, 0.0)
    assert pool.entries[1].tolist() == [90.0, 0.0]  # what was given is left alone


def test_users_of_the_dead_are_weighed_against_those_who_gain() -> None:
    # the codeword at 40 has one user, who would pay more for its move than all others gain
    weight = torch.tensor([[0.0]] * 20 + [[1.0]] * 4 + [[40.0]])
    pool = Pool(entries=torch.tensor([[0.0], [40.0]]).half(), base=torch.tensor([0, 2]))
    codes = torch.tensor([[0]] * 24 + [[1]])
    scope_of = torch.zeros(1, dtype=torch.int64)
    encoded = Encoded(codes=codes, pool=pool, scope_of=scope_of, scale=None, shape=(25, 1))
    found = revive(weight, encoded, generator=seeded(), config=RevivalConfig(count=2))
    assert found.revived.tolist() == []
    assert found.codes.equal(codes)
    light = torch.ones(25, 1)
    light[-1] = 1e-4
    found = revive(
        weight, encoded, generator=seeded(), sample_weights=light, config=RevivalConfig(count=2)
    )
    assert found.entries[:, 0].tolist() == [0.0, 1.0]
    assert found.codes[:, 0].tolist() == [0] * 20 + [1] * 5


def test_restarts_come_from_the_same_scope() -> None:
    # scope 0 is served perfectly; all of the error is in scope 1, whose codewords are all in use
    weight = torch.cat([torch.zeros(30, 1), torch.randn(30, 1)], dim=1)
    pool = Pool(entries=torch.tensor([[0.0], [7.0], [0.0]]).half(), base=torch.tensor([0, 2, 3]))
    encoded = Encoded(
        codes=torch.zeros(30, 2, dtype=torch.int64),
        pool=pool,
        scope_of=torch.tensor([0, 1]),
        scale=None,
        shape=(30, 2),
    )
    assert revive(weight, encoded, generator=seeded()).revived.tolist() == []
    shared = replace(pool, table=torch.tensor([0, 1, 2, 1]), base=torch.tensor([0, 2, 4]))
    found = revive(weight, replace(encoded, pool=shared), generator=seeded())
    assert found.revived.tolist() == [1]
    assert float(found.entries[1]) in weight[:, 1].half().tolist()
    assert set(found.codes[:, 0].tolist()) == {0}
    assert set(found.codes[:, 1].tolist()) == {0, 1}


def test_live_codewords_stay_and_the_threshold_counts() -> None:
    weight = torch.randn(64, 16)
    codec = CodebookCodec(d=2, k=16, scope="layer")
    encoded = encode(weight, codec, fit_pool([weight], codec, generator=seeded()))
    assert revive(weight, encoded, generator=seeded()).revived.numel() == 0
    usage = encoded.codes.flatten().bincount(minlength=16)
    none = revive(weight, encoded, generator=seeded(), config=RevivalConfig(count=int(usage.min())))
    assert none.revived.numel() == 0


def test_half_of_a_codebook_comes_back_to_life() -> None:
    weight = torch.randn(256, 32)
    codec = CodebookCodec(d=4, k=32, row_scale=True)
    encoded = encode(weight, codec, fit_pool([weight], codec, generator=seeded()))
    ruined = encoded.pool.entries.clone()
    ruined[1::2] = 50.0
    broken = encode(weight, codec, replace(encoded.pool, entries=ruined))
    found = revive(weight, broken, generator=seeded())
    assert len(found.revived) == len(ruined) // 2
    ones = torch.ones(256, 8, 4)
    good, bad = (weighted_error(weight, e, ones) for e in (encoded, broken))
    assert good < found.error_after < good + 0.6 * (bad - good)


def test_the_seed_decides() -> None:
    weight, encoded = layer((60, 12), 3, [9, 4], scaled=True)
    config = RevivalConfig(reservoir=8, tries=2, share=1.0)
    one, two, other = (
        revive(weight, encoded, generator=seeded(s), config=config) for s in (1, 1, 2)
    )
    assert one.entries.equal(two.entries)
    assert one.codes.equal(two.codes)
    assert not one.entries.equal(other.entries)


def test_what_does_not_fit_is_refused() -> None:
    weight, encoded = layer((6, 4), 2, [3])
    with pytest.raises(ShapeError, match="weight"):
        revive(weight.T, encoded, generator=seeded())
    for shape in ((6, 1), (6,), (6, 2, 3), (5, 2, 2)):
        with pytest.raises(ShapeError, match="sample_weights"):
            revive(weight, encoded, generator=seeded(), sample_weights=torch.ones(shape))
    for wrong in ({"share": -1.0}, {"count": -1}, {"reservoir": 0}, {"tries": 0}):
        with pytest.raises(ConfigError):
            RevivalConfig(**wrong)
