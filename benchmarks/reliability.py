"""Records of the suites ``reliability-*``, and whether a record holds what it should.

A measurement that could not be made is recorded too: ``details["status"]`` is then ``"not run"`` or
``"failed"``, with a ``reason``, and its value counts for nothing. It stands in the place of the
earlier record of its row, so that an old pass never hides that today nothing was looked at.
Standard library alone: the tables of SECURITY.md are made with it by a commit hook.
"""

from __future__ import annotations

from typing import Any

from benchmarks.record import make_record

RAN, NOT_RUN, FAILED = "ran", "not run", "failed"
HELD, MISSED, OPEN = "held", "missed", "no goal"


def counted(
    suite: str,
    row: str,
    metric: str,
    value: float,
    unit: str,
    *,
    goal: float,
    higher_is_better: bool = False,
    details: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """A record of a measurement that was made."""
    return make_record(
        suite,
        row,
        metric,
        value,
        unit,
        goal=goal,
        higher_is_better=higher_is_better,
        details={"status": RAN, **(details or {})},
    )


def not_counted(record: dict[str, Any], status: str, reason: str) -> dict[str, Any]:
    """`record` as that of a measurement that was not made, or broke off.

    Parameters
    ----------
    status
        ``"not run"`` where something it needs is not to be had here, ``"failed"`` otherwise.
    reason
        One sentence for a reader.
    """
    return record | {"details": record["details"] | {"status": status, "reason": reason}}


def status_of(record: dict[str, Any]) -> str:
    """``"ran"``, ``"not run"`` or ``"failed"``; suites that say nothing ran."""
    return record["details"].get("status", RAN)


def verdict(record: dict[str, Any]) -> str:
    """``"held"``, ``"missed"``, ``"no goal"``, or why there is nothing to judge.

    Examples
    --------
    >>> verdict({"value": 0, "goal": 0, "floor": None, "higher_is_better": False, "details": {}})
    'held'
    """
    status = status_of(record)
    if status != RAN:
        return f"{status}: {record['details'].get('reason', 'no reason given')}"
    bound = record["goal"] if record["floor"] is None else record["floor"]
    if bound is None:
        return OPEN
    value = record["value"]
    good = value >= bound if record["higher_is_better"] else value <= bound
    return HELD if good else MISSED
