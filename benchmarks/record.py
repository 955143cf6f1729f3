"""Benchmark records: one JSON object a line, appended, never edited.

A record is one measured value of one row of a suite, with what is needed to judge it: what it was
compared with, what was aimed at, when, where, and by which versions it was measured.
:func:`make_record` fills in the circumstances, :func:`append` validates and writes,
:func:`latest` reads back the line of each (row, metric) that counts.

Runs with the standard library alone; torch is asked only for the name of a GPU.
"""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import json
import math
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results"
VERSIONED = ("torch", "numpy", "diffusers", "numba", "triton")

_NUMBER = (int, float)
_OPTIONAL_NUMBER = (int, float, type(None))
SCHEMA: dict[str, tuple[type, ...]] = {
    "suite": (str,),
    "row": (str,),
    "metric": (str,),
    "value": _NUMBER,
    "unit": (str,),
    "rival": (str, type(None)),
    "goal": _OPTIONAL_NUMBER,
    "floor": _OPTIONAL_NUMBER,
    "higher_is_better": (bool,),
    "limit": _OPTIONAL_NUMBER,
    "date": (str,),
    "commit": (str,),
    "device": (str,),
    "versions": (dict,),
    "details": (dict,),
}


def make_record(
    suite: str,
    row: str,
    metric: str,
    value: float,
    unit: str,
    *,
    higher_is_better: bool,
    rival: str | None = None,
    goal: float | None = None,
    floor: float | None = None,
    limit: float | None = None,
    details: dict[str, Any] | None = None,
    device: str = "cpu",
) -> dict[str, Any]:
    """A complete, valid record of one measurement made just now by the code checked out here.

    Parameters
    ----------
    suite, row, metric
        Where the value belongs. A suite is one file; (row, metric) is the key within it.
    value
        The measurement; usually a ratio against `rival`, measured in the same run.
    unit
        Of `value`: ``"x"`` for a ratio, else ``"ms"``, ``"GB/s"``, ``"FCD"`` and the like.
    higher_is_better
        Which way `goal` and `floor` are to be read.
    rival
        What the value is a ratio against, by name and version.
    goal, floor
        What was aimed at, and the worst acceptable value; None where none was set.
    limit
        The physical bound, where it is known.
    details
        Anything JSON that belongs to the row: sizes, intervals, settings.
    device
        ``"cpu"``, ``"cuda"`` or ``"cuda:1"``: recorded by the name of its model.

    Raises
    ------
    ValueError
        When a field has a wrong type or a number anywhere in the record is not finite.
    """
    record = {
        "suite": suite,
        "row": row,
        "metric": metric,
        "value": value,
        "unit": unit,
        "rival": rival,
        "goal": goal,
        "floor": floor,
        "higher_is_better": higher_is_better,
        "limit": limit,
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "commit": commit_name(),
        "device": device_name(device),
        "versions": versions(),
        "details": {} if details is None else details,
    }
    validate(record)
    return record


def suite_of(model: str, kind: str = "") -> str:
    """Name the suite of a bundled model: ``fashion``, ``avatars``; of a kind, if one is given.

    The kinds of ``fashion-dit``, the model that was first, bear its name nowhere.

    Examples
    --------
    >>> suite_of("avatars-dit"), suite_of("avatars-dit", "judges")
    ('avatars', 'judges-avatars')
    >>> suite_of("fashion-dit", "judges")
    'judges'
    """
    name = model.removesuffix("-dit")
    if not kind:
        return name
    return kind if name == "fashion" else f"{kind}-{name}"


def append(record: dict[str, Any], folder: Path = RESULTS) -> Path:
    """Validate `record` and append it as one line to ``<suite>.jsonl`` in `folder`."""
    validate(record)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{record['suite']}.jsonl"
    with path.open("a", encoding="utf-8", newline="\n") as file:
        file.write(json.dumps(record, allow_nan=False, ensure_ascii=False) + "\n")
    return path


def read(suite: str, folder: Path = RESULTS) -> list[dict[str, Any]]:
    """All records of `suite`, oldest first; an empty list when it was never run.

    Raises
    ------
    ValueError
        When a line is not a valid record; the message names the file and the line.
    """
    path = folder / f"{suite}.jsonl"
    if not path.exists():
        return []
    records: list[dict[str, Any]] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            record = json.loads(line)
            validate(record)
            if record["suite"] != suite:
                raise ValueError(f"suite is {record['suite']!r}, expected {suite!r}")
        except ValueError as error:
            raise ValueError(f"{path.name}, line {number}: {error}") from error
        records.append(record)
    return records


def latest(suite: str, folder: Path = RESULTS) -> dict[tuple[str, str], dict[str, Any]]:
    """The record that counts for each (row, metric) of `suite`: the last one written."""
    return {(record["row"], record["metric"]): record for record in read(suite, folder)}


def validate(record: object) -> None:
    """Raise ValueError unless `record` has exactly the fields of the schema, well typed."""
    if not isinstance(record, dict):
        raise ValueError(f"a record is a JSON object, got {type(record).__name__}")
    missing, unknown = SCHEMA.keys() - record.keys(), record.keys() - SCHEMA.keys()
    if missing or unknown:
        raise ValueError(f"missing fields {sorted(missing)}, unknown fields {sorted(unknown)}")
    for field, types in SCHEMA.items():
        value = record[field]
        # bool is an int to isinstance, but True is no measurement
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            names = " or ".join(t.__name__ for t in types)
            raise ValueError(f"{field} is {value!r}, expected {names}")
    for field in ("suite", "row", "metric", "unit"):
        if not record[field].strip():
            raise ValueError(f"{field} is empty")
    if not re.fullmatch(r"[a-z0-9_-]+", record["suite"]):
        raise ValueError(f"suite is {record['suite']!r}, expected lower-case letters, digits, - _")
    dt.datetime.fromisoformat(record["date"])
    _check_json(record, "record")


def _check_json(value: object, where: str) -> None:
    """Raise ValueError for what JSON cannot hold: NaN, infinities, odd types, odd keys."""
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise ValueError(f"{where} has the key {key!r}, expected text")
            _check_json(item, f"{where}[{key!r}]")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _check_json(item, f"{where}[{index}]")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{where} is {value}, expected a finite number; leave it out or None")
    elif not isinstance(value, str | int | bool | None):
        raise ValueError(f"{where} is a {type(value).__name__}, expected plain JSON values")


def commit_name() -> str:
    """Short hash of the commit checked out, ``+dirty`` when the tree differs from it.

    Records being written do not make the tree dirty. Without git or a commit: the environment
    variable DPQLAB_COMMIT, else ``"unknown"``.
    """
    try:
        commit = _git("rev-parse", "--short=10", "HEAD")
        changes = _git("status", "--porcelain", "--", ".", ":!benchmarks/results")
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("DPQLAB_COMMIT") or "unknown"
    return commit + ("+dirty" if changes else "")


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def device_name(device: str = "cpu") -> str:
    """Model name of `device`; for a CPU with the number of cores that this process may use."""
    if device != "cpu":
        import torch

        return torch.cuda.get_device_name(device)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{_cpu_model()} ({cores} cores)"


def _cpu_model() -> str:
    try:
        listing = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    match = re.search(r"^model name\s*:\s*(.+)$", listing, re.MULTILINE)
    return match[1].strip() if match else platform.machine()


def versions() -> dict[str, str]:
    """Versions of dpqlab, Python and the installed packages that a measurement can depend on."""
    found = {"dpqlab": _dpqlab_version(), "python": platform.python_version()}
    for name in VERSIONED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _dpqlab_version() -> str:
    import dpqlab

    return dpqlab.__version__
