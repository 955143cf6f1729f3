"""How the table linear is spread over a GPU: pure functions of sizes, no CUDA needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dpqlab.errors import BackendError
from dpqlab.kernels.table_layout import UNIT, Group

MAX_ROWS = 8
"""Rows of x."""
SHARED_BYTES = 227 * 1024
"""Shared memory of a block on an H100."""
_WARPS = 31  # that look up; one more fills the ring
_HELD_WORDS = 24  # of codes, per lane
_BARRIER_BYTES = 16  # of a buffer


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What the plan depends on.

    Attributes
    ----------
    blocks
        Multiprocessors; each gets one block.
    shared
        Bytes of shared memory that a block may have.
    bulk
        Whether there is a bulk copy engine (compute capability 9.0 on).
    """

    blocks: int = 132
    shared: int = SHARED_BYTES
    bulk: bool = True


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How the table passes through shared memory, and how rows are spread.

    Attributes
    ----------
    words
        32-bit words of a table entry.
    length
        Entries of a position.
    span
        Positions of a stage, a divisor of 32.
    buffers
        Stages that shared memory holds.
    units
        Units of 32 rows that a warp works on at a time.
    warps
        That look up.
    ahead
        Runs of 32 codes of a row that are loaded before they are needed.
    blocks
        Of the grid.
    """

    words: int
    length: int
    span: int
    buffers: int
    units: int
    warps: int
    ahead: int
    blocks: int

    @property
    def row_bytes(self) -> int:
        """Bytes of one position's entries."""
        return 4 * self.words * self.length

    @property
    def shared(self) -> int:
        """Bytes of shared memory."""
        return self.buffers * (self.span * self.row_bytes + _BARRIER_BYTES)


def entry_words(rows: int) -> int:
    """Return the 32-bit words of a table entry for ``rows`` rows of x."""
    return max(1, 1 << (rows - 1).bit_length() >> 1)


def refusal(rows: int, code_bits: int, machine: Machine | None = None) -> str | None:
    """Return why there is no table linear for ``rows`` rows of x, or None if there is."""
    machine = machine or Machine()
    if not 1 <= rows <= MAX_ROWS:
        return f"a table serves 1 to {MAX_ROWS} rows of x: got {rows}"
    size = 4 * entry_words(rows) << code_bits
    if size + _BARRIER_BYTES > machine.shared:
        return (
            f"the table of one position takes {size} bytes ({rows} rows of x, {code_bits}-bit "
            f"codes); shared memory has {machine.shared}"
        )
    return None


def make_plan(
    groups: Sequence[Group], positions: int, code_bits: int, rows: int, machine: Machine
) -> Plan:
    """Choose stages, warps and rows of a warp.

    Raises
    ------
    BackendError
        If there is no table linear for this.
    """
    if (reason := refusal(rows, code_bits, machine)) is not None:
        raise BackendError(f"no table linear: {reason}; use another backend")
    words, length = entry_words(rows), max(4, 1 << code_bits)
    span, buffers = _stages(positions, 4 * words * length, machine)
    total = sum(-(-group.rows // UNIT) for group in groups)
    most = -(-total // machine.blocks)
    # two units a warp where there are many; wide codes would take too many registers
    units = 1 if most <= _WARPS or code_bits > 12 else 2
    passes = -(-most // (units * _WARPS))
    held = _HELD_WORDS // 2 if words == 4 else _HELD_WORDS  # wide entries take registers too
    share = -(-most // passes)
    return Plan(
        words=words,
        length=length,
        span=span,
        buffers=buffers,
        units=units,
        warps=-(-share // units),
        ahead=min(4 // units, max(1 if units > 1 else 2, held // (units * code_bits))),
        blocks=min(machine.blocks, total),
    )


def _stages(positions: int, row_bytes: int, machine: Machine) -> tuple[int, int]:
    """Return positions of a stage, and how many stages to hold."""
    if not machine.bulk:
        fitting = (s for s in (32, 16, 8, 4, 2) if s * row_bytes + _BARRIER_BYTES <= machine.shared)
        return next(fitting, 1), 1
    choices: list[tuple[int, int]] = []
    for span in (32, 16, 8, 4, 2, 1):
        stages = -(-positions // span)
        choices.append((span, min(stages, machine.shared // (span * row_bytes + _BARRIER_BYTES))))
        if choices[-1][1] >= min(3, stages):
            return choices[-1]
    return max(choices, key=lambda choice: choice[1])


def segments_of(groups: Sequence[Group], plan: Plan) -> tuple[list[Group], list[int]]:
    """Cut groups into what a block works on at a time.

    Returns
    -------
    segments, starts : list of Group, list of int
        Block b works on ``segments[starts[b]:starts[b + 1]]``. All blocks get the same number of
        units of 32 rows, give or take one; none has more than ``warps * units`` of them at a time.
    """
    total = sum(-(-group.rows // UNIT) for group in groups)
    cuts = {total * block // plan.blocks for block in range(plan.blocks + 1)}
    segments: list[Group] = []
    starts = [0]
    done = 0  # units
    for group in groups:
        row = 0
        while row < group.rows:
            unit = done + row // UNIT
            if unit in cuts and segments:
                starts.append(len(segments))
            until = min(cut for cut in cuts if cut > unit) - unit
            count = min(until, plan.warps * plan.units, -(-(group.rows - row) // UNIT))
            rows = min(count * UNIT, group.rows - row)
            segments.append(
                Group(table=group.table, row=group.row + row, rows=rows, out=group.out + row)
            )
            row += count * UNIT
        done += -(-group.rows // UNIT)
    return segments, [*starts, len(segments)]
