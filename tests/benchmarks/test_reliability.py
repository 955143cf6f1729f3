"""What holds, what does not, and what was never measured are told apart."""

from __future__ import annotations

import pytest

from benchmarks import release_check
from benchmarks.markdown import MISSING
from benchmarks.network.__main__ import WATCH
from benchmarks.record import append
from benchmarks.release_check import PARTS, Part, outcome
from benchmarks.reliability import (
    FAILED,
    HELD,
    MISSED,
    NOT_RUN,
    OPEN,
    counted,
    not_counted,
    verdict,
)
from benchmarks.reliability_tables import jobs_table, reliability_table


def record(
    value=0, *, goal=0, row="inputs", metric="faults", suite="reliability-loader", more=False
):
    return counted(suite, row, metric, value, "inputs", goal=goal, higher_is_better=more)


@pytest.mark.parametrize(
    ("value", "goal", "more", "said"),
    [
        (0, 0, False, HELD),
        (1, 0, False, MISSED),
        (9_999, 10_000, True, MISSED),
        (10_000, 10_000, True, HELD),
        (3, None, False, OPEN),
    ],
)
def test_a_verdict_reads_the_goal_in_its_direction(value, goal, more, said):
    assert verdict(record(value, goal=goal, more=more)) == said


def test_the_worst_acceptable_value_decides_where_there_is_one():
    assert verdict(record(2) | {"floor": 3}) == HELD
    assert verdict(record(4) | {"floor": 3}) == MISSED


@pytest.mark.parametrize("status", [NOT_RUN, FAILED])
def test_a_value_that_was_not_measured_never_holds(status):
    assert verdict(record(0)) == HELD
    assert verdict(not_counted(record(0), status, "no database")) == f"{status}: no database"


# --- the release check ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "made", "said"),
    [
        (0, [record()], "held"),
        (0, [], "recorded nothing"),
        (1, [record()], "failed: exit code 1"),
        (0, [record(), record(2, row="flips")], "missed: flips, faults: missed"),
        (2, [record(), not_counted(record(), NOT_RUN, "no net")],
         "not run: inputs, faults: not run: no net"),
        (1, [record(2), not_counted(record(row="b"), NOT_RUN, "no net")],
         "missed: inputs, faults: missed; b, faults: not run: no net"),
    ],
)  # fmt: skip
def test_only_held_is_a_pass(code, made, said):
    assert outcome(code, made) == said


def test_a_part_that_is_missing_is_shown_and_fails_the_check(monkeypatch, capsys):
    part = Part(title="nothing yet", module="benchmarks.not_there.at_all", suite="reliability-x")
    monkeypatch.setattr(release_check, "PARTS", {"x": part})
    assert release_check.main(["x"]) == 1
    said = capsys.readouterr().out
    assert "x        missing: there is no module benchmarks.not_there.at_all" in said
    assert "Not everything holds." in said


def test_a_part_is_run_and_what_it_appended_is_judged(tmp_path, monkeypatch):
    part = Part(
        title="the supply chain",
        module="benchmarks.supply_chain",
        suite="reliability-supply",
        arguments=("--results", str(tmp_path)),
    )
    # whoever has pip-audit: a test asks nothing of a network, and the audit says that it did not
    monkeypatch.setenv("PYTHONPATH", str(WATCH))
    monkeypatch.setenv("DPQLAB_WATCH", str(tmp_path / "watch.jsonl"))
    said = release_check.run(part, tmp_path)
    assert said.startswith("not run: pip-audit, no known vulnerability: not run: ")
    assert len((tmp_path / "reliability-supply.jsonl").read_text().splitlines()) == 3


def test_every_part_has_a_suite_of_its_own_and_its_module_is_a_benchmark():
    assert len({part.suite for part in PARTS.values()}) == len(PARTS)
    assert all(part.module.startswith("benchmarks.") for part in PARTS.values())
    assert release_check.is_there("benchmarks.network")
    assert release_check.is_there("benchmarks.supply_chain")
    assert not release_check.is_there("benchmarks.results")


def test_an_unknown_part_is_refused(capsys):
    with pytest.raises(SystemExit):
        release_check.main(["nope"])
    assert "no such part: nope; there are loader" in capsys.readouterr().err


# --- the table ------------------------------------------------------------------------------------


def test_jobs_have_a_column_each(tmp_path):
    for row, good in (("train", 40), ("compress", 39)):
        made = counted("reliability-jobs", row, "killed", good / 40, "share", goal=1)
        details = {"attempts": 40, "good": good}
        append(made | {"higher_is_better": True, "details": details}, tmp_path)
    head, _, line = jobs_table(tmp_path).splitlines()[:3]
    names, cells = ([cell.strip() for cell in part.strip("|").split("|")] for part in (head, line))
    found = dict(zip(names, cells, strict=True))
    assert found["what happens"] == "killed"
    assert found["compress"] == "missed: 39 of 40"
    assert found["train"] == "40 of 40"
    assert found["prune"] == MISSING
    assert "compress" not in reliability_table(tmp_path)


def test_a_job_without_a_column_is_not_left_out(tmp_path):
    made = counted("reliability-jobs", "dance", "killed", 1, "share", goal=1)
    append(made | {"details": {"attempts": 1, "good": 1}}, tmp_path)
    with pytest.raises(ValueError, match="no column for dance"):
        jobs_table(tmp_path)


def test_the_table_shows_verdicts_and_what_was_not_run(tmp_path):
    append(record(1_234_567, goal=1_000_000, more=True), tmp_path)
    audit = counted("reliability-supply", "pip-audit", "no_known", 0, "pins", goal=193)
    append(not_counted(audit, NOT_RUN, "no database"), tmp_path)
    lines = reliability_table(tmp_path).splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:-2]]
    title = PARTS["loader"].title
    assert rows[0] == [
        title, "inputs", "faults", "held", "1,234,567 inputs", "at least 1,000,000 inputs"
    ]  # fmt: skip
    assert [row[3] for row in rows] == [
        "held", "not run yet", "not run: no database", "not run yet",
    ]  # fmt: skip
    assert rows[2][4:] == [MISSING, "at most 193 pins"], "a value that was not measured is no value"
