from __future__ import annotations

import pytest

import dpqlab
from dpqlab.kernels.dispatch import Backend
from dpqlab.kernels.linears import RULES
from dpqlab.kernels.overview import overview

NUMBA = Backend(name="numba", devices=("cpu",), available=True, reason="here")
CUDA = Backend(name="cuda", devices=("cuda",), available=False, reason="no compiler")
TRITON = Backend(name="triton", devices=("cuda",), available=True, reason="here")
TORCH = Backend(name="torch", devices=(), available=True, reason="the reference")


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the machine's owner prefers is no part of the tests."""
    monkeypatch.delenv("DPQLAB_BACKEND", raising=False)


def test_every_rule_is_there_in_order_with_what_refuses_it() -> None:
    shown = overview([NUMBA, CUDA, TRITON, TORCH])
    assert [here.rule for here in shown.rules] == list(RULES)
    for here in shown.rules:
        assert here.refusal == ("no compiler" if here.rule.backend == "cuda" else None)
    assert [backend.name for backend in shown] == ["numba", "cuda", "triton", "torch"]


def test_a_backend_that_is_asked_for_leaves_only_its_rules() -> None:
    shown = overview([NUMBA, CUDA, TRITON, TORCH], "numba")
    applying = {here.rule.backend for here in shown.rules if here.refusal is None}
    assert applying == {"numba"}
    assert "DPQLAB_BACKEND=numba" in str(shown)


def test_a_backend_that_is_not_offered_is_named() -> None:
    refusals = {here.rule.backend: here.refusal for here in overview([TORCH]).rules}
    assert refusals["torch"] is None
    assert refusals["numba"] == "there is no backend numba"


def test_conditions_in_words() -> None:
    rules = {here.rule.backend: here for here in overview([NUMBA, CUDA, TRITON, TORCH]).rules}
    assert rules["cuda"].conditions == (
        "d 4 or 8, k up to 1024, pool from 64 KB, 16-bit x and codewords"
    )
    assert (rules["torch"].rows, rules["torch"].conditions) == ("any M", "")
    table = next(here for here in overview().rules if here.rule.method == "table")
    assert table.rows.startswith("M up to ")


def test_the_package_shows_this_machine() -> None:
    shown = dpqlab.backends()
    lines = str(shown).splitlines()
    assert lines[0].split() == ["backend", "here", "why"]
    assert repr(shown) == str(shown)
    assert len(shown.to_dict()["rules"]) == len(RULES)
    with pytest.raises(AttributeError, match="abacus"):
        dpqlab.abacus  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]
