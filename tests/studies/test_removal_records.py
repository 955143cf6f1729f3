"""Removals on record: they come back as they were saved, and nothing else is believed."""

from __future__ import annotations

import pytest

from dpqlab.errors import CheckpointError
from dpqlab.studies.removal_records import PoolRemovals, RemovalRecords, bundled_removals
from dpqlab.studies.removals import Removal

REMOVAL = Removal(
    measure="usage",
    manner="at once",
    removed=3,
    share=0.1,
    predicted=0.01,
    felt=-0.001,
    output_error=0.2,
)
REMOVALS = RemovalRecords(
    preset="tiny",
    pools=(PoolRemovals(kind="ff", codewords=30, output_error=0.1, removals=(REMOVAL,)),),
    about={},
)


def test_removals_come_back_or_are_refused(tmp_path):
    path = tmp_path / "removals.json"
    REMOVALS.save(path)
    assert RemovalRecords.load(path) == REMOVALS
    assert REMOVALS.of("ff") is REMOVALS.pools[0]
    assert REMOVALS.of("attn") is None
    text = path.read_text()
    for old, new in (
        ('"usage"', '"luck"'),
        ('"at once"', '"later"'),
        ("0.2", "-0.2"),
        ("0.2", '"0.2"'),
        ('"felt"', '"left"'),
        ("{", "["),
    ):
        path.write_text(text.replace(old, new, 1))
        with pytest.raises(CheckpointError, match="cannot be read as removals"):
            RemovalRecords.load(path)


def test_the_removals_that_ship():
    assert bundled_removals("no-such") is None
    found = bundled_removals("dpq-4bit")
    assert found is not None
    assert len(found.pools) == 4
    for pool in found.pools:
        by = {(r.measure, r.manner, r.share): r for r in pool.removals}
        assert len(by) == len(pool.removals) == 54
        assert all(r.output_error >= 0.5 * pool.output_error for r in pool.removals)
