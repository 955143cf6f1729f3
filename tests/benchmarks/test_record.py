from __future__ import annotations

import datetime as dt
import json
import shutil
import subprocess

import pytest

from benchmarks import record


def make(**changes):
    fields = {"suite": "demo", "row": "a", "metric": "speed", "value": 1.5, "unit": "x"}
    return record.make_record(**{**fields, "higher_is_better": True, **changes})


def test_make_record_fills_in_the_circumstances():
    made = make(rival="faiss 1.15.1", goal=2, details={"sizes": [1, 2.5, None]})
    assert list(made) == list(record.SCHEMA)
    age = dt.datetime.now(dt.UTC) - dt.datetime.fromisoformat(made["date"])
    assert dt.timedelta(0) <= age + dt.timedelta(seconds=1) < dt.timedelta(minutes=1)
    assert made["versions"].keys() >= {"dpqlab", "python", "torch", "numpy"}
    assert "cores" in made["device"]
    assert made["commit"]


def test_append_then_read_gives_the_records_back(tmp_path):
    made = [make(value=1.0), make(row="b", value=2), make(value=3.25, details={"note": "é"})]
    for one in made:
        path = record.append(one, tmp_path)
    assert path == tmp_path / "demo.jsonl"
    assert record.read("demo", tmp_path) == made
    assert record.latest("demo", tmp_path) == {("a", "speed"): made[2], ("b", "speed"): made[1]}


def test_a_suite_that_never_ran_has_no_records(tmp_path):
    assert record.read("demo", tmp_path) == []
    assert record.latest("demo", tmp_path) == {}


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"value": float("nan")}, "finite"),
        ({"goal": float("inf")}, "finite"),
        ({"details": {"psnr": [1.0, float("-inf")]}}, r"details.*psnr.*\[1\].*finite"),
        ({"value": True}, "value is True, expected int or float"),
        ({"value": "1.5"}, "expected int or float"),
        ({"higher_is_better": 1}, "expected bool"),
        ({"row": " "}, "row is empty"),
        ({"suite": "../x"}, "expected lower-case"),
        ({"details": {1: 2}}, "expected text"),
        ({"details": {"a": {1, 2}}}, "plain JSON"),
    ],
)
def test_what_is_no_measurement_is_refused(changes, complaint):
    with pytest.raises(ValueError, match=complaint):
        make(**changes)


def test_append_writes_nothing_when_the_record_is_bad(tmp_path):
    with pytest.raises(ValueError, match="missing fields"):
        record.append({"suite": "demo"}, tmp_path)
    with pytest.raises(ValueError, match=r"unknown fields \['extra'\]"):
        record.append({**make(), "extra": 1}, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("line", ["{", "[]", '{"suite": "demo"}', "NaN"])
def test_a_damaged_line_is_named(tmp_path, line):
    record.append(make(), tmp_path)
    with (tmp_path / "demo.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ValueError, match=r"demo\.jsonl, line 2"):
        record.read("demo", tmp_path)


def test_a_record_of_another_suite_is_refused(tmp_path):
    (tmp_path / "demo.jsonl").write_text(json.dumps(make(suite="other")) + "\n")
    with pytest.raises(ValueError, match="expected 'demo'"):
        record.read("demo", tmp_path)


def test_commit_without_git_comes_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.delenv("DPQLAB_COMMIT", raising=False)
    assert record.commit_name() == "unknown"
    monkeypatch.setenv("DPQLAB_COMMIT", "abc123")
    assert record.commit_name() == "abc123"


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_commit_is_dirty_unless_only_records_changed(tmp_path, monkeypatch):
    def git(*arguments):
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        subprocess.run(["git", "-C", tmp_path, *identity, *arguments], check=True)

    monkeypatch.setattr(record, "ROOT", tmp_path)
    git("init", "-q")
    (tmp_path / "code.py").write_text("1")
    git("add", ".")
    git("commit", "-qm", "first")
    clean = record.commit_name()
    assert len(clean) == 10
    record.append(make(), tmp_path / "benchmarks/results")
    assert record.commit_name() == clean
    (tmp_path / "code.py").write_text("2")
    assert record.commit_name() == clean + "+dirty"


def test_the_records_in_the_repository_are_valid():
    for path in record.RESULTS.glob("*.jsonl"):
        assert record.read(path.stem)
