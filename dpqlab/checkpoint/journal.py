"""What a long compression has done so far: a folder beside its target, one file a layer.

Every file is written to a temporary name, synced and renamed, and carries its name, the key of the
run and the hash of its tensors: what is half-written, damaged, or of another layer or run is not
believed, and made again. The journal of ``OUT`` is ``OUT.partial``.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dpqlab.checkpoint.atomic import locked_folder, replace_file
from dpqlab.checkpoint.dense import opened_tensors
from dpqlab.errors import CheckpointError, ConfigError

HEAD = "journal.json"
FORMAT = "dpqlab-journal"
_SUFFIX = ".safetensors"


@dataclass(frozen=True, kw_only=True)
class JournalEntry:
    """What was done with one layer: the tensors, mapped from its file, and a note on them."""

    tensors: Mapping[str, Tensor]
    note: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Journal:
    """An open journal.

    Attributes
    ----------
    folder
        Where it lies.
    key
        Of what is compressed, how, and by what.
    continued
        Whether it was there already.
    """

    folder: Path
    key: str
    continued: bool

    def write(self, name: str, tensors: Mapping[str, Tensor], note: Mapping[str, Any]) -> None:
        """Write one entry, whole or not at all."""
        from safetensors.torch import save

        values = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
        head = {"key": self.key, "name": name, "sha256": _digest(values)}
        head["note"] = json.dumps(dict(note))
        try:
            replace_file(self._file(name), save(values, metadata={"format": "pt", **head}))
        except OSError as error:
            size = sum(tensor.nbytes for tensor in values.values())
            raise CheckpointError(
                f"could not write {self._file(name)}: {error.strerror} ({size} bytes are needed); "
                "what is in the journal stays good: make room and go on with --resume"
            ) from error

    def read(self, name: str) -> JournalEntry | None:
        """Return an entry; None if there is none that can be believed."""
        from safetensors import SafetensorError

        tensors: dict[str, Tensor] = {}
        try:
            with opened_tensors(self._file(name)) as file:
                head: dict[str, str] = file.metadata() or {}
                for key in file.keys():  # noqa: SIM118 - not a mapping
                    tensors[key] = file.get_tensor(key)
            note: dict[str, Any] = json.loads(head["note"])
        except (OSError, SafetensorError, KeyError, ValueError):
            return None
        expected = {"key": self.key, "name": name, "sha256": _digest(tensors)}
        if any(head.get(part) != value for part, value in expected.items()):
            return None
        return JournalEntry(tensors=tensors, note=note)

    def expect(self, name: str) -> JournalEntry:
        """Return an entry that was written or read a moment ago.

        Raises
        ------
        CheckpointError
            If it is no longer as it was.
        """
        entry = self.read(name)
        if entry is None:
            raise CheckpointError(
                f"{self.folder}: the entry of {name} is not as it was written a moment ago: check "
                "the disk, and go on with --resume"
            )
        return entry

    def remove(self) -> None:
        """Delete the journal: all of it is in the target now, or nothing of it is wanted."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}{_SUFFIX}"


def journal_folder(target: Path) -> Path:
    """Return where the journal of a target lies."""
    return target.with_name(f"{target.name}.partial")


@contextmanager
def open_journal(
    target: Path, identity: Mapping[str, Any], *, resume: bool = False, overwrite: bool = False
) -> Generator[Journal]:
    """Begin the journal of a target, or go on with it; nobody else can meanwhile.

    Parameters
    ----------
    target
        The folder that is being made; its parent must exist.
    identity
        What the result depends on, as JSON values: entries of another identity are of no use.
    resume
        Go on with a journal if there is one.
    overwrite
        Throw away a journal that is not to be continued, and begin again.

    One without entries goes when the block ends.

    Raises
    ------
    ConfigError
        If there is a journal and neither ``resume`` nor ``overwrite``, or it is one of another
        identity.
    CheckpointError
        If another process holds it, or something else has its name.
    """
    folder = journal_folder(target)
    there = os.path.lexists(folder)
    if there:
        _check_journal(folder)
        if not (resume or overwrite):
            raise ConfigError(
                f"{folder} is the journal of a run that did not finish: pass --resume to go on "
                "with it, or --overwrite to begin again"
            )
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise CheckpointError(
            f"could not make {folder}: {error.strerror}; expected a place that can be written to"
        ) from error
    with locked_folder(folder) as free:
        if not free:
            raise CheckpointError(
                f"{folder} is in use by another process: wait for it, or choose another folder"
            )
        continued = there and resume and _continues(folder, identity)
        if not continued:
            _begin(folder, identity)
        key = hashlib.sha256(_head(identity)).hexdigest()
        try:
            yield Journal(folder=folder, key=key, continued=continued)
        finally:
            # a run that was refused leaves nothing to go on with
            if not any(folder.glob(f"*{_SUFFIX}")):
                shutil.rmtree(folder, ignore_errors=True)


def _begin(folder: Path, identity: Mapping[str, Any]) -> None:
    try:
        for file in folder.iterdir():
            file.unlink()
        replace_file(folder / HEAD, _head(identity))
    except OSError as error:
        raise CheckpointError(f"could not write to {folder}: {error.strerror}") from error


def _continues(folder: Path, identity: Mapping[str, Any]) -> bool:
    """Say whether a journal is one of this identity; an empty one is of any."""
    if not (folder / HEAD).exists():
        return False
    found = json.loads((folder / HEAD).read_bytes())["identity"]
    wanted = json.loads(_head(identity))["identity"]
    other = [key for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key)]
    if other:
        raise ConfigError(
            f"{folder} is the journal of another run: it differs in {', '.join(sorted(other))}; "
            "give the same as before, or pass --overwrite without --resume to begin again"
        )
    return True


def _head(identity: Mapping[str, Any]) -> bytes:
    value = {"format": FORMAT, "identity": dict(identity)}
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()


def _check_journal(folder: Path) -> None:
    """Refuse what only happens to have the name of a journal: journals are emptied and deleted."""
    if folder.is_symlink() or not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder: move it elsewhere")
    names = {entry.name for entry in folder.iterdir()} - {f".{HEAD}.part"}
    try:
        # written before anything else
        ours = not names or json.loads((folder / HEAD).read_bytes())["format"] == FORMAT
    except (OSError, ValueError, KeyError, TypeError):
        ours = False
    foreign = any(name != HEAD and _SUFFIX not in name for name in names)
    if foreign or not ours or any(not (folder / name).is_file() for name in names):
        raise CheckpointError(
            f"{folder} is no journal of dpqlab, which would be emptied: move it elsewhere"
        )


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
