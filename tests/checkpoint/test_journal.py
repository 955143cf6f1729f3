"""The journal of a long compression: whole entries or none, one owner, nothing foreign."""

from __future__ import annotations

import errno
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch

from dpqlab.checkpoint import journal as module
from dpqlab.checkpoint.journal import Journal, journal_folder, open_journal
from dpqlab.errors import CheckpointError, ConfigError
from tests.processes import call_in

TENSORS = {
    "codes": torch.arange(7, dtype=torch.uint8),
    "pool": torch.randn(3, 2).half(),
    "base": torch.arange(4),
    "bias": torch.randn(5).bfloat16(),
}


def test_an_entry_comes_back_as_it_was(tmp_path: Path) -> None:
    with open_journal(tmp_path / "out", {"seed": 1}) as journal:
        assert journal.read("a.b.0") is None
        journal.write("a.b.0", TENSORS, {"error": 0.1234567890123456789, "none": None})
        entry = journal.read("a.b.0")
    assert entry is not None
    assert entry.note == {"error": 0.1234567890123456789, "none": None}
    assert entry.tensors.keys() == TENSORS.keys()
    assert all(
        entry.tensors[k].dtype == t.dtype and torch.equal(entry.tensors[k], t)
        for k, t in TENSORS.items()
    )
    with open_journal(tmp_path / "out", {"seed": 1}, resume=True) as again:
        assert again.continued
        assert again.key == journal.key
        assert again.read("a.b.0") is not None
        again.remove()
    assert not journal_folder(tmp_path / "out").exists()


def test_an_entry_under_the_name_of_another_is_not_believed(tmp_path: Path) -> None:
    with open_journal(tmp_path / "out", {"seed": 1}) as journal:
        journal.write("a", TENSORS, {})
        journal.write("b", TENSORS, {})
        (journal.folder / "a.safetensors").replace(journal.folder / "b.safetensors")
        assert journal.read("b") is None
        assert journal.read("a") is None


def test_one_that_is_there_is_neither_continued_nor_dropped_unasked(tmp_path: Path) -> None:
    with open_journal(tmp_path / "out", {}) as journal:
        journal.write("a", TENSORS, {})
    with pytest.raises(ConfigError, match=r"--resume .* --overwrite"), _opened(tmp_path / "out"):
        pass
    assert (journal.folder / "a.safetensors").is_file()
    with open_journal(tmp_path / "out", {}, overwrite=True) as journal:
        assert not journal.continued
        assert journal.read("a") is None


def test_one_of_another_run_is_refused_with_what_differs(tmp_path: Path) -> None:
    with open_journal(tmp_path / "out", {"seed": 1, "plan": "a", "same": 0}) as journal:
        journal.write("a", TENSORS, {})
    other = {"seed": 2, "plan": "b", "same": 0}
    with (
        pytest.raises(ConfigError, match=r"differs in plan, seed; .* --overwrite"),
        open_journal(tmp_path / "out", other, resume=True),
    ):
        pass
    with open_journal(tmp_path / "out", other, overwrite=True) as journal:
        assert journal.read("a") is None


def test_nothing_to_resume_is_a_beginning(tmp_path: Path) -> None:
    with open_journal(tmp_path / "out", {}, resume=True) as journal:
        assert not journal.continued
    journal_folder(tmp_path / "killed").mkdir()  # before its first file was written
    with open_journal(tmp_path / "killed", {}, resume=True) as journal:
        assert not journal.continued


def test_a_run_that_did_nothing_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), open_journal(tmp_path / "out", {}) as journal:
        assert journal.folder.is_dir()
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="could not make"), _opened(tmp_path / "no" / "out"):
        pass


@pytest.mark.parametrize("name", ["thesis.docx", "weights.safetensors", "journal.json"])
def test_what_only_has_the_name_is_left_alone(name: str, tmp_path: Path) -> None:
    folder = journal_folder(tmp_path / "out")
    folder.mkdir()
    (folder / name).write_text("mine", "utf-8")
    with pytest.raises(CheckpointError, match="no journal"), _opened(tmp_path / "out", True):
        pass
    assert (folder / name).read_text("utf-8") == "mine"


def test_a_link_and_a_file_are_left_alone(tmp_path: Path) -> None:
    journal_folder(tmp_path / "file").write_text("mine", "utf-8")
    (tmp_path / "elsewhere").mkdir()
    journal_folder(tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for name in ("file", "link"):
        with pytest.raises(CheckpointError, match="not a folder"), _opened(tmp_path / name, True):
            pass


def opened_or_said(target: Path) -> str:
    """Try to go on with a journal; return what came of it."""
    try:
        with open_journal(target, {}, resume=True):
            return "mine"
    except CheckpointError as error:
        return str(error)


def test_nobody_else_writes_to_it_meanwhile(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with open_journal(target, {}):
        assert "in use by another process" in call_in("other", opened_or_said, target).result()
    assert call_in("other", opened_or_said, target).result() == "mine"


def test_a_full_disk_leaves_what_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(target: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with open_journal(tmp_path / "out", {}) as journal:
        journal.write("a", TENSORS, {})
        monkeypatch.setattr(module, "replace_file", full)
        with pytest.raises(CheckpointError, match=r"No space left .*61 bytes .* --resume"):
            journal.write("b", TENSORS, {})
        assert journal.read("a") is not None
        assert journal.read("b") is None


def _opened(target: Path, overwrite: bool = False) -> AbstractContextManager[Journal]:
    return open_journal(target, {}, overwrite=overwrite)
