"""One process at a time, however the one before ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dpqlab.checkpoint import lock
from dpqlab.checkpoint.lock import exclusive, lock_file
from dpqlab.errors import CheckpointError

# the module by itself, and an error in its place: importing torch would take seconds
HOLDING = """
import importlib.util, sys, time, types
from pathlib import Path
for name in ("dpqlab", "dpqlab.errors"):
    sys.modules[name] = types.ModuleType(name)
sys.modules["dpqlab.errors"].CheckpointError = RuntimeError
spec = importlib.util.spec_from_file_location("lock", sys.argv[2])
lock = importlib.util.module_from_spec(spec)
spec.loader.exec_module(lock)
with lock.exclusive(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_lock_goes_with_the_block(tmp_path: Path) -> None:
    target = tmp_path / "out"
    for _ in range(2):
        with exclusive(target):
            assert lock_file(target).read_text() == f"{os.getpid()}\n"
        assert list(tmp_path.iterdir()) == []
    with pytest.raises(RuntimeError), exclusive(target):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_second_process_is_refused_until_the_first_is_dead(tmp_path: Path) -> None:
    target = tmp_path / "out"
    command = [sys.executable, "-c", HOLDING, str(target), lock.__file__]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        with (
            pytest.raises(CheckpointError, match=rf"held by .*pid {first.pid}.*: wait for it"),
            exclusive(target),
        ):
            pass
        first.send_signal(signal.SIGKILL)
    assert lock_file(target).read_text() == f"{first.pid}\n"  # stale
    with exclusive(target):
        assert lock_file(target).read_text() == f"{os.getpid()}\n"
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_its_owner_deletes_meanwhile_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the opening and the locking: the file that was opened has no name any more."""
    target, whole, seen = tmp_path / "out", lock.fcntl.flock, []

    def late(descriptor: int, flags: int) -> None:
        if not seen:
            lock_file(target).unlink()
        seen.append(descriptor)
        whole(descriptor, flags)

    monkeypatch.setattr(lock.fcntl, "flock", late)
    with exclusive(target):
        assert lock_file(target).exists()
    assert len(seen) == 2


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="could not make"), exclusive(tmp_path / "no" / "out"):
        pass
