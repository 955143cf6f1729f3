from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dpqlab.core import Encoded, Member, Pool, reencode, refit, refit_members
from dpqlab.core.importance import importance_of_members
from dpqlab.core.refitting import weighted_errors
from dpqlab.errors import ConfigError, ShapeError
from tests.core.test_importance import CASES, random_case, sub_vector_error

ALMOST = 1 + 1e-6  # distances are compared in float32


def error(member: Member, encoded: Any) -> float:
    return weighted_errors(replace(member, encoded=encoded))[0]


@given(**CASES)
@settings(max_examples=40)
def test_codes_chosen_again_are_the_best(**case: Any) -> None:
    member = random_case(**case)
    again = reencode(member.weight, member.encoded, member.encoded.pool, member.moments)
    pool, scope_of = again.pool, again.scope_of
    entries = pool.entry_indices(again.codes, scope_of)
    for g, s in enumerate(scope_of.tolist()):
        run = torch.arange(int(pool.base[s]), int(pool.base[s + 1]))
        book = run if pool.table is None else pool.table[run]
        for r in range(again.shape[0]):
            best = min(sub_vector_error(member, r, g, int(e)) for e in book)
            chosen = sub_vector_error(member, r, g, int(entries[r, g]))
            assert chosen == pytest.approx(best, rel=1e-5, abs=1e-5)
    assert error(member, again) <= ALMOST * error(member, member.encoded) + 1e-12


@given(more=st.integers(1, 5), **CASES)
@settings(max_examples=40)
def test_a_pool_that_grew_never_costs_error(more: int, **case: Any) -> None:
    member = random_case(**case)
    pool = member.encoded.pool
    sizes = torch.tensor(pool.sizes)
    books = pool.codewords.split(pool.sizes)
    grown = Pool(
        entries=torch.cat([torch.cat([book, torch.randn(more, pool.d).half()]) for book in books]),
        base=torch.cat([torch.zeros(1, dtype=torch.int64), (sizes + more).cumsum(0)]),
    )
    again = reencode(member.weight, member.encoded, grown, member.moments)
    assert error(member, again) <= ALMOST * error(member, member.encoded) + 1e-12


@given(rounds=st.integers(1, 3), **CASES)
@settings(max_examples=60)
def test_refitting_never_costs_error(rounds: int, **case: Any) -> None:
    member = random_case(**case)
    for _ in range(rounds):
        encoded = refit(member.weight, member.encoded, member.moments)
        assert error(member, encoded) <= (1 + 1e-6) * error(member, member.encoded) + 1e-12
        assert encoded.codes.equal(member.encoded.codes)
        assert encoded.pool.entries.dtype == torch.float16
        assert bool(torch.isfinite(encoded.pool.entries).all())
        member = replace(member, encoded=encoded)


def test_refitting_is_least_squares() -> None:
    member = random_case(12, 7, 3, 4, "group", False, True, 5)
    pool = replace(member.encoded.pool, entries=member.encoded.pool.entries.double())
    member = replace(member, encoded=replace(member.encoded, pool=pool))
    fitted = refit(member.weight, member.encoded, member.moments).pool.entries
    values = fitted.clone().requires_grad_()
    index = pool.entry_indices(member.encoded.codes, member.encoded.scope_of)
    assert member.moments is not None
    missed = member.weight.double() - values[index].flatten(1)[:, :7]
    (missed.square() * member.moments.double()).sum().backward()
    assert values.grad is not None
    assert float(values.grad.abs().max()) < 1e-9


@given(**CASES)
@settings(max_examples=40)
def test_narrow_codes_change_nothing(**case: Any) -> None:
    member = random_case(**case)
    narrow = replace(member, encoded=member.encoded.narrow())
    assert narrow.encoded.codes.dtype == torch.int16
    assert weighted_errors(narrow) == weighted_errors(member)
    for measure in ("usage", "weighted", "removal"):
        expected = importance_of_members([member], measure)
        assert torch.equal(importance_of_members([narrow], measure), expected)
    fitted, expected = (refit(one.weight, one.encoded, one.moments) for one in (narrow, member))
    assert torch.equal(fitted.pool.entries, expected.pool.entries)
    again = reencode(narrow.weight, fitted, fitted.pool, narrow.moments)
    assert again.codes.dtype == torch.int16
    other = reencode(member.weight, expected, expected.pool, member.moments)
    assert torch.equal(again.codes.long(), other.codes)


def test_codes_are_as_narrow_as_the_largest_codebook_allows() -> None:
    for size, dtype in ((1 << 15, torch.int16), ((1 << 15) + 1, torch.int32)):
        pool = Pool(entries=torch.zeros(size, 1).half(), base=torch.tensor([0, size]))
        last = torch.tensor([[size - 1]])
        encoded = Encoded(
            codes=last, pool=pool, scope_of=torch.tensor([0]), scale=None, shape=(1, 1)
        )
        narrow = encoded.narrow()
        assert narrow.codes.dtype == dtype
        assert narrow.codes.long().equal(last)
        # and a pool that grew beyond them gets wide ones
        grown = Pool(entries=torch.zeros(40_000, 1).half(), base=torch.tensor([0, 40_000]))
        again = reencode(torch.zeros(1, 1), narrow, grown)
        assert torch.iinfo(again.codes.dtype).max >= 40_000


def test_members_are_refitted_together() -> None:
    first = random_case(6, 8, 4, 3, "position", True, False, 1)
    pool = first.encoded.pool
    weight = torch.randn(9, 8)
    codes = first.encoded.codes[torch.arange(9) % 6]
    scale = torch.ones(9).half()
    other = Member(
        weight=weight, encoded=replace(first.encoded, codes=codes, shape=(9, 8), scale=scale)
    )
    both = refit_members([first, other])
    assert both[0].pool is both[1].pool
    assert not both[0].pool.entries.equal(pool.entries)
    before = error(first, first.encoded) + error(other, other.encoded)
    assert error(first, both[0]) + error(other, both[1]) < before


def test_refusals() -> None:
    member = random_case(6, 8, 4, 3, "position", True, False, 1)
    copied = replace(member.encoded.pool, entries=member.encoded.pool.entries.clone())
    with pytest.raises(ConfigError, match="same pool entries"):
        refit_members([member, replace(member, encoded=replace(member.encoded, pool=copied))])
    one = Pool(entries=torch.zeros(1, 4).half(), base=torch.tensor([0, 1]))
    with pytest.raises(ShapeError, match="2 scopes"):
        reencode(member.weight, member.encoded, one)
    for field, value in (("moments", torch.ones(7)), ("gram", torch.eye(7))):
        with pytest.raises(ShapeError, match=field):
            replace(member, **{field: value})
    with pytest.raises(ShapeError, match="of one of shape"):
        replace(member, weight=torch.zeros(5, 8))
