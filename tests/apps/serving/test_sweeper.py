from __future__ import annotations

import os
import stat
import time
from pathlib import Path

import pytest

from dpqlab_app.serving.sweeper import (
    LEFT_OVER_S,
    PREFIX,
    Bounds,
    Sweeper,
    remove_left_overs,
    scratch_folder,
    sweep,
)

BOUNDS = Bounds(age_s=100, total_bytes=1000, grace_s=10)
NOW = 1_000_000.0


def write(path: Path, *, age: float, size: int = 100) -> Path:
    """A file as old as that, in a folder of its own as Gradio makes them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    os.utime(path, (NOW - age, NOW - age))
    return path


def test_old_files_go_with_their_folders(tmp_path: Path) -> None:
    old = write(tmp_path / "aa" / "image.png", age=101)
    new = write(tmp_path / "bb" / "image.png", age=99)
    assert sweep(tmp_path, BOUNDS, now=NOW) == [str(old)]
    assert not old.parent.exists() and new.exists() and tmp_path.exists()


def test_a_folder_with_a_young_file_stays(tmp_path: Path) -> None:
    write(tmp_path / "aa" / "old.png", age=101)
    young = write(tmp_path / "aa" / "young.png", age=1)
    sweep(tmp_path, BOUNDS, now=NOW)
    assert young.exists()


def test_beyond_the_total_the_oldest_go_first(tmp_path: Path) -> None:
    files = [write(tmp_path / str(i) / "x.png", age=90 - i, size=300) for i in range(5)]
    assert sweep(tmp_path, BOUNDS, now=NOW) == [str(file) for file in files[:2]]


def test_beyond_the_number_too(tmp_path: Path) -> None:
    files = [write(tmp_path / str(i) / "x.png", age=90 - i, size=1) for i in range(8)]
    bounds = Bounds(age_s=100, total_bytes=1000, grace_s=10, files=5)
    assert sweep(tmp_path, bounds, now=NOW) == [str(file) for file in files[:3]]


def test_what_a_browser_may_be_fetching_stays(tmp_path: Path) -> None:
    files = [write(tmp_path / str(i) / "x.png", age=5, size=5000) for i in range(3)]
    assert sweep(tmp_path, BOUNDS, now=NOW) == [] and all(file.exists() for file in files)


def test_the_pages_own_files_stay_and_do_not_count(tmp_path: Path) -> None:
    own = write(tmp_path / "own" / "example.png", age=1e6, size=5000)
    drawn = write(tmp_path / "drawn" / "x.png", age=50, size=900)
    assert sweep(tmp_path, BOUNDS, keep={str(own)}, now=NOW) == []
    assert own.exists() and drawn.exists()


def test_links_are_removed_not_followed(tmp_path: Path) -> None:
    precious = write(tmp_path / "outside" / "thesis.txt", age=1e6)
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "folder").symlink_to(precious.parent)
    (folder / "file").symlink_to(precious)
    os.utime(folder / "file", (1, 1), follow_symlinks=False)
    sweep(folder, BOUNDS, now=NOW)
    assert precious.exists() and not (folder / "file").is_symlink()


def test_the_runs_folder_is_private_and_goes_at_the_end(tmp_path: Path) -> None:
    with scratch_folder(tmp_path) as folder:
        if os.name == "posix":
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        write(folder / "aa" / "x.png", age=0)
    assert not folder.exists()


def test_it_goes_after_an_error_too(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), scratch_folder(tmp_path) as folder:
        raise RuntimeError
    assert not folder.exists()


def test_left_overs_of_killed_runs_go_and_living_runs_stay(tmp_path: Path) -> None:
    dead, living, other = tmp_path / f"{PREFIX}dead", tmp_path / f"{PREFIX}new", tmp_path / "other"
    for folder in (dead, living, other):
        folder.mkdir()
    for folder in (dead, other):
        os.utime(folder, (NOW - LEFT_OVER_S - 1,) * 2)
    os.utime(living, (NOW - LEFT_OVER_S + 60,) * 2)
    assert remove_left_overs(tmp_path, now=NOW) == [dead]
    assert living.exists() and other.exists()


def test_the_thread_sweeps_and_tells(tmp_path: Path) -> None:
    own = write(tmp_path / "own" / "example.png", age=0)
    told: list[str] = []
    bounds = Bounds(age_s=0.1, grace_s=0, every_s=0.02)
    with Sweeper(tmp_path, bounds, forget=told.extend):
        drawn = tmp_path / "drawn.png"
        drawn.write_bytes(b"x")
        until = time.monotonic() + 10
        while str(drawn) not in told and time.monotonic() < until:
            time.sleep(0.01)
    assert told == [str(drawn)] and own.exists() and not drawn.exists()


def test_a_failing_listener_does_not_end_the_sweeping(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rounds: list[int] = []

    def forget(paths: list[str]) -> None:
        rounds.append(1)
        raise ValueError("no")

    with Sweeper(tmp_path, Bounds(every_s=0.01), forget=forget):
        until = time.monotonic() + 10
        while len(rounds) < 3 and time.monotonic() < until:
            time.sleep(0.01)
    assert len(rounds) >= 3 and "tries again" in caplog.text
