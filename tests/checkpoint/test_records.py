"""Files of records: what record_of builds and refuses, and the one error of a file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import pytest

from dpqlab.checkpoint.records import FileKind, count, number, read_json, reading, record_of
from dpqlab.errors import CheckpointError, ConfigError

KIND = FileKind(what="a test record", maker="the test", limit=1000)


@dataclass(frozen=True, kw_only=True)
class Inner:
    kind: Literal["a", "b"]
    error: float


@dataclass(frozen=True, kw_only=True)
class Record:
    name: str
    best: bool
    steps: int
    error: float
    felt: float
    budget: float | None
    labels: tuple[int, ...]
    parts: dict[str, int]
    inner: tuple[Inner, ...]
    about: dict[str, Any]
    made: int = field(default=7, init=False)


GOOD = Record(
    name="x",
    best=True,
    steps=3,
    error=0.5,
    felt=-1.0,
    budget=None,
    labels=(1, 2),
    parts={"pool": 4},
    inner=(Inner(kind="a", error=0.0), Inner(kind="b", error=2.0)),
    about={"any": [1, {"thing": None}]},
)


def as_json(record: Record) -> dict[str, Any]:
    values = json.loads(json.dumps(asdict(record)))
    del values["made"]
    return values


def test_a_record_comes_back():
    assert record_of(Record, as_json(GOOD), signed=("felt",)) == GOOD
    found = record_of(Record, as_json(GOOD) | {"error": 2, "budget": 1}, signed=("felt",))
    assert (found.error, found.budget) == (2.0, 1.0)
    assert type(found.error) is type(found.budget) is float


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extra": 1}, "Record has the keys .*extra.*expected an object with name, best"),
        ({"name": 1}, "name is 1: expected str"),
        ({"best": 1}, "best is 1: expected bool"),
        ({"steps": True}, "steps: True is not a count"),
        ({"steps": 1.0}, "steps: 1.0 is not a count"),
        ({"steps": -1}, "steps: -1 is not a count"),
        ({"error": -0.1}, "error: -0.1 is not a finite number of 0 or more"),
        ({"error": "1"}, "error: '1' is not a number"),
        ({"error": None}, "error: None is not a number"),
        ({"felt": float("inf")}, "felt: inf is not a finite number$"),
        ({"budget": False}, "budget: False is not a number"),
        ({"labels": {"1": 1}}, "labels is an object: expected a list"),
        ({"labels": [1, None]}, "labels: None is not a count"),
        ({"parts": [1]}, "parts is a list: expected an object"),
        ({"parts": {"pool": 0.5}}, "parts: 0.5 is not a count"),
        ({"inner": [{"kind": "c", "error": 1}]}, "kind is 'c': expected one of a, b"),
        ({"inner": [{"kind": [], "error": 1}]}, "kind is"),
        ({"inner": [{"kind": "a"}]}, "Inner has the keys"),
        ({"inner": [[]]}, "Inner is a list: expected an object"),
        ({"about": 1}, "about is 1: expected an object"),
    ],
)
def test_other_values_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        record_of(Record, as_json(GOOD) | change, signed=("felt",))


def test_only_what_is_signed_may_be_negative():
    with pytest.raises(ValueError, match=r"felt: -1\.0"):
        record_of(Record, as_json(GOOD))
    assert (number(-1, signed=True), count(-1, signed=True)) == (-1.0, -1)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (KeyError("share"), "it lacks 'share'"),
        (FileNotFoundError(2, "No such file", "/a/path"), ": No such file; expected"),
        (ConfigError("too few points"), "too few points"),
        (CheckpointError("its key is odd"), "its key is odd"),
        (EOFError(), "EOFError"),
        (ValueError("two\nlines \x1b"), "two lines ?"),
        (RecursionError("too deep"), "too deep"),
        (OverflowError("too large"), "too large"),
    ],
)
def test_one_error_names_file_kind_and_remedy(error, message):
    with pytest.raises(CheckpointError) as raised, reading("f.json", KIND):
        raise error
    text = str(raised.value)
    assert text.startswith("f.json cannot be read as a test record: ")
    assert text.endswith("; expected a file that the test wrote: make it again")
    assert message in text
    assert text.isprintable()
    assert raised.value.__cause__ is None


def test_readers_within_readers_tell_it_once(tmp_path):
    with (
        pytest.raises(CheckpointError) as raised,
        reading(tmp_path / "none", KIND),
    ):
        read_json(tmp_path / "none", KIND)
    assert str(raised.value).count("cannot be read") == 1


def test_what_is_no_damage_goes_through():
    with pytest.raises(KeyboardInterrupt), reading("f.json", KIND):
        raise KeyboardInterrupt
    with pytest.raises(AssertionError), reading("f.json", KIND):
        raise AssertionError


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not valid JSON"),
        (b"\xff", "not valid JSON"),
        (b"[NaN]", "NaN is not JSON"),
        (b"[1e999]", "not finite"),
        (b'{"a": 1, "a": 2}', "same key twice"),
        (b"[99999999999999999999]", "beyond 2"),
        (b"[" * 990, "cannot be read"),
        (b" " * 1001, "1001 bytes; expected no more than 1000 bytes"),
    ],
)
def test_other_json_is_refused(tmp_path, content, message):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read_json(tmp_path / "x.json", KIND)


def test_json_is_read_with_every_seed(tmp_path):
    (tmp_path / "x.json").write_text(json.dumps({"seed": 2**64 - 1}))
    assert read_json(tmp_path / "x.json", KIND) == {"seed": 2**64 - 1}
    with pytest.raises(CheckpointError, match="there is no such file"):
        read_json(tmp_path, KIND)
