"""A folder appears whole or not at all: under exceptions, kills, and full disks."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from torch import nn

from dpqlab.checkpoint import atomic
from dpqlab.checkpoint.atomic import remove_orphans, staged_folder, write_file
from dpqlab.checkpoint.load import load_compressed
from dpqlab.checkpoint.manifest import verify
from dpqlab.checkpoint.save import save_compressed
from dpqlab.errors import CheckpointError
from tests.checkpoint.forge import SCHEDULER_CONFIG

FILES = {"a.bin": 3000, "sub/b.bin": 5000, "sub/c.bin": 100}


def fill(folder: Path, byte: bytes) -> None:
    for path, size in FILES.items():
        (folder / path).parent.mkdir(exist_ok=True)
        write_file(folder / path, byte * size)


def make(target: Path, byte: bytes) -> None:
    with staged_folder(target) as staging:
        fill(staging, byte)


def content(folder: Path) -> dict[str, bytes]:
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file()
    }


def whole(byte: bytes) -> dict[str, bytes]:
    return {path: byte * size for path, size in FILES.items()}


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Make longer writes fail with an OSError, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("exchange", [True, False])
def test_creates_and_replaces(
    tmp_path: Path, exchange: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not exchange:  # a system without an exchanging rename
        monkeypatch.setattr(atomic, "_exchange", lambda first, second: False)
    target = tmp_path / "target"
    for byte in (b"1", b"2", b"3"):
        make(target, byte)
        assert content(target) == whole(byte)
        assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("there", ["nothing", "exchanged", "moved aside"])
def test_a_folder_whose_files_vanish_is_not_put_in_place(
    tmp_path: Path, there: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody cleans up temporary files, at the worst moment."""
    target, sync_tree = tmp_path / "model", atomic.sync_tree
    if there != "nothing":
        make(target, b"1")
    if there == "moved aside":
        monkeypatch.setattr(atomic, "_exchange", lambda first, second: False)

    def synced_and_cleaned(folder: Path) -> None:
        sync_tree(folder)
        (folder / "sub/b.bin").unlink()

    monkeypatch.setattr(atomic, "sync_tree", synced_and_cleaned)
    with pytest.raises(FileNotFoundError, match="vanished"):
        make(target, b"2")
    if there == "nothing":
        assert list(tmp_path.iterdir()) == []
    else:
        assert list(tmp_path.iterdir()) == [target]
        assert set(content(target).values()) == {b"1" * size for size in FILES.values()}


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_exception_leaves_the_old_folder(tmp_path: Path, error: type[BaseException]) -> None:
    target = tmp_path / "target"
    make(target, b"1")
    with pytest.raises(error), staged_folder(target) as staging:
        write_file(staging / "a.bin", b"2")
        raise error
    assert content(target) == whole(b"1")
    assert list(tmp_path.iterdir()) == [target]


def test_a_symbolic_link_to_the_target_is_followed(tmp_path: Path) -> None:
    make(tmp_path / "real", b"1")
    (tmp_path / "link").symlink_to("real")
    make(tmp_path / "link", b"2")
    assert (tmp_path / "link").is_symlink()
    assert content(tmp_path / "real") == whole(b"2")


def test_the_permissions_are_the_usual_ones(tmp_path: Path) -> None:
    make(tmp_path / "target", b"1")
    (tmp_path / "usual").mkdir()
    assert (tmp_path / "target").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_orphans_are_removed_but_not_what_is_in_use(tmp_path: Path) -> None:
    target = tmp_path / "[x]*"  # no pattern
    orphan = tmp_path / ".[x]*.dpqlab-0123.partial"
    other = tmp_path / ".y.dpqlab-0123.partial"
    for folder in (orphan, other):
        folder.mkdir()
        (folder / "file").write_text("x")
    with staged_folder(target) as running:
        assert not orphan.exists()
        remove_orphans(target)
        assert running.is_dir()
        fill(running, b"1")
    assert other.exists()
    assert content(target) == whole(b"1")


def test_a_folder_moved_aside_is_put_back(tmp_path: Path) -> None:
    target = tmp_path / "target"
    make(target, b"1")
    target.rename(tmp_path / ".target.dpqlab-0123.old")
    with pytest.raises(RuntimeError, match="stop"), staged_folder(target):
        raise RuntimeError("stop")
    assert content(target) == whole(b"1")


# the module is loaded by itself: importing the package, with torch, would take seconds a try
KILLED = """
import importlib.util, os, signal, sys
from pathlib import Path
spec = importlib.util.spec_from_file_location("atomic", sys.argv[5])
atomic = importlib.util.module_from_spec(spec)
spec.loader.exec_module(atomic)
if sys.argv[4] == "rename":
    atomic._exchange = lambda first, second: False
target, limit, seen = Path(sys.argv[1]), int(sys.argv[2]), 0
def count(event, args):
    global seen
    if event.split(".")[0] in ("open", "os", "shutil", "ctypes") and event != "os.fspath":
        seen += 1
        if seen == limit:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(count)
with atomic.staged_folder(target) as staging:
    for path, size in {"a.bin": 3000, "sub/b.bin": 5000, "sub/c.bin": 100}.items():
        (staging / path).parent.mkdir(exist_ok=True)
        atomic.write_file(staging / path, sys.argv[3].encode() * size)
limit = 0
"""


@pytest.mark.parametrize("way", ["exchange", "rename"])
def test_killed_at_every_step(tmp_path: Path, way: str) -> None:
    target = tmp_path / "target"
    make(target, b"1")
    states = []
    for limit in range(1, 200):
        command = [sys.executable, "-c", KILLED, str(target), str(limit), "2", way]
        command.append(atomic.__file__)
        code = subprocess.run(command, check=False).returncode
        assert code in (0, -signal.SIGKILL)
        if code and not target.exists():  # between two renames: the next save puts it back
            assert way == "rename"
            with pytest.raises(RuntimeError), staged_folder(target):
                raise RuntimeError
        states.append(content(target))
        assert states[-1] in (whole(b"1"), whole(b"2"))
        remove_orphans(target)
        assert list(tmp_path.iterdir()) == [target]
        if code == 0:
            break
        make(target, b"1")
    assert len(states) > 15
    assert states[0] == whole(b"1")
    assert states[-1] == whole(b"2")


class TestSaving:
    def save(self, model: nn.Module, folder: Path, card: str, overwrite: bool = True) -> None:
        save_compressed(
            model,
            folder,
            scheduler_config=SCHEDULER_CONFIG,
            provenance={},
            card=card,
            overwrite=overwrite,
        )

    def test_overwrite(self, model: nn.Module, folder: Path) -> None:
        with pytest.raises(CheckpointError, match="pass overwrite=True"):
            self.save(model, folder, "new", overwrite=False)
        self.save(model, folder, "new")
        assert (folder / "README.md").read_text() == "new"
        assert list(folder.parent.iterdir()) == [folder]
        load_compressed(folder)

    def test_a_full_disk_leaves_the_old_folder(self, model: nn.Module, folder: Path) -> None:
        before = content(folder)
        with (
            file_size_limit(900_000),
            pytest.raises(CheckpointError, match=r"could not write .* bytes are needed"),
        ):
            self.save(model, folder, "x" * 1_000_000)
        assert content(folder) == before
        assert list(folder.parent.iterdir()) == [folder]
        verify(folder)

    def test_a_damaged_compressed_folder_can_be_replaced(
        self, model: nn.Module, folder: Path
    ) -> None:
        (folder / "README.md").write_text("damaged")
        self.save(model, folder, "new")
        load_compressed(folder)

    def test_an_empty_folder_can_be_replaced(self, model: nn.Module, tmp_path: Path) -> None:
        (tmp_path / "x").mkdir()
        self.save(model, tmp_path / "x", "new")
        load_compressed(tmp_path / "x")

    @pytest.mark.parametrize("foreign", ["thesis.txt", "transformer/notes.txt"])
    def test_nothing_foreign_is_overwritten(
        self, model: nn.Module, folder: Path, foreign: str
    ) -> None:
        (folder / foreign).write_text("precious")
        with pytest.raises(CheckpointError, match=r"is not overwritten .*unknown entry"):
            self.save(model, folder, "new")
        assert (folder / foreign).read_text() == "precious"

    def test_a_file_is_not_overwritten(self, model: nn.Module, tmp_path: Path) -> None:
        (tmp_path / "x").write_text("precious")
        with pytest.raises(CheckpointError, match="is not a folder"):
            self.save(model, tmp_path / "x", "new")

    def test_relative_folders(
        self, model: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        self.save(model, Path("x"), "new")
        assert list(Path().iterdir()) == [Path("x")]
        load_compressed("x")
