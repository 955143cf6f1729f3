"""How rows and tables are spread over a GPU."""

from __future__ import annotations

from itertools import pairwise

import pytest

from dpqlab.errors import BackendError
from dpqlab.kernels.table_layout import Group
from dpqlab.kernels.table_plan import Machine, entry_words, make_plan, refusal, segments_of


@pytest.mark.parametrize("blocks", [1, 3, 132])
@pytest.mark.parametrize("sizes", [[40], [6912] * 28, [33, 700, 5, 64], [9000]])
def test_every_row_is_in_one_segment(sizes: list[int], blocks: int) -> None:
    groups, row, out = [], 0, 0
    for table, rows in enumerate(sizes):
        groups.append(Group(table=table, row=row, rows=rows, out=out))
        row, out = row + -(-rows // 32) * 32, out + rows
    plan = make_plan(groups, 288, 8, 2, Machine(blocks=blocks))
    segments, starts = segments_of(groups, plan)
    assert len(starts) == plan.blocks + 1
    covered = [(s.table, s.row + i, s.out + i) for s in segments for i in range(s.rows)]
    expected = [(g.table, g.row + i, g.out + i) for g in groups for i in range(g.rows)]
    assert covered == expected
    assert all(-(-s.rows // 32) <= plan.warps * plan.units for s in segments)
    units = [sum(-(-s.rows // 32) for s in segments[a:b]) for a, b in pairwise(starts)]
    assert max(units) - min(units) <= 1


@pytest.mark.parametrize("bulk", [True, False])
@pytest.mark.parametrize("rows", [1, 2, 4, 8])
@pytest.mark.parametrize("bits", range(1, 17))
def test_what_is_not_refused_fits_shared_memory(bits: int, rows: int, bulk: bool) -> None:
    machine = Machine(bulk=bulk, shared=227 * 1024 if bulk else 99 * 1024)
    groups = [Group(table=0, row=0, rows=193_536, out=0)]
    if refusal(rows, bits, machine) is not None:
        assert 4 * entry_words(rows) << bits > machine.shared - 16
        with pytest.raises(BackendError, match="shared memory"):
            make_plan(groups, 288, bits, rows, machine)
        return
    plan = make_plan(groups, 288, bits, rows, machine)
    assert plan.shared <= machine.shared
    assert plan.buffers >= 1
    assert 32 % plan.span == 0
    assert 32 * (plan.warps + bulk) <= 1024


def test_entries_are_as_narrow_as_rows_allow() -> None:
    assert [entry_words(rows) for rows in range(1, 9)] == [1, 1, 2, 2, 4, 4, 4, 4]
    assert refusal(9, 8) is not None
    assert refusal(0, 8) is not None
