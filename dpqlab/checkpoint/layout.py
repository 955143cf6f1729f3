"""Which files a compressed folder holds, and how they are opened: nothing else, and no tricks.

Every entry must be one of the known names and a plain file: no symbolic links, pipes or devices, no
unknown files (a stray ``.py`` next to a model is code waiting to be imported).
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

from dpqlab.checkpoint.documents import shown
from dpqlab.errors import CheckpointError

MANIFEST = "manifest.json"
CARD = "README.md"
MODEL_INDEX = "model_index.json"
SCHEDULER = "scheduler/scheduler_config.json"
CONFIG = "transformer/config.json"
SHARD_INDEX = "transformer/diffusion_pytorch_model.safetensors.index.json"
SINGLE_SHARD = "transformer/diffusion_pytorch_model.safetensors"

REQUIRED = (MANIFEST, CARD, MODEL_INDEX, SCHEDULER, CONFIG)
FOLDERS = ("scheduler", "transformer")
MAX_SHARDS = 4096
MAX_SHARD = 2**40
MAX_DOCUMENT = {
    MANIFEST: 2**20,
    CARD: 2**20,
    MODEL_INDEX: 2**16,
    SCHEDULER: 2**21,
    CONFIG: 2**23,
    SHARD_INDEX: 2**23,
}
"""Most bytes of each file that is not a shard."""

_SHARD = re.compile(r"diffusion_pytorch_model-([0-9]{5})-of-([0-9]{5})\.safetensors")


def shard_names(count: int) -> tuple[str, ...]:
    """Return the paths of ``count`` shards, as diffusers names them."""
    if count == 1:
        return (SINGLE_SHARD,)
    stem = SINGLE_SHARD.removesuffix(".safetensors")
    return tuple(f"{stem}-{i:05}-of-{count:05}.safetensors" for i in range(1, count + 1))


def list_files(folder: Path) -> dict[str, int]:
    """Return the size of every file of a compressed folder, by path with ``/``.

    Raises
    ------
    CheckpointError
        If an entry is unknown or not a plain file, or if a required one is missing.
    """
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder: expected a compressed model")
    sizes: dict[str, int] = {}
    for path in _entries(folder):
        sizes[path] = _plain_size(folder / path, path)
        if sizes[path] > MAX_DOCUMENT.get(path, MAX_SHARD):
            raise CheckpointError(
                f"{path} has {sizes[path]} bytes: expected at most "
                f"{MAX_DOCUMENT.get(path, MAX_SHARD)}"
            )
        if len(sizes) > MAX_SHARDS + 16:
            raise CheckpointError(
                f"{folder} has too many files: expected at most {MAX_SHARDS} shards"
            )
    missing = [path for path in REQUIRED if path not in sizes]
    if missing:
        raise CheckpointError(f"{folder} lacks {', '.join(missing)}: it is incomplete")
    _check_shards([path for path in sizes if path.endswith(".safetensors")], SHARD_INDEX in sizes)
    return sizes


def read_bytes(folder: Path, path: str, limit: int | None = None) -> bytes:
    """Read one file of a folder; refuses links, pipes, devices, and more bytes than ``limit``.

    The default limit is that of :data:`MAX_DOCUMENT`.
    """
    limit = MAX_DOCUMENT[path] if limit is None else limit
    with opened(folder, path) as (descriptor, size):
        if size > limit:
            raise CheckpointError(f"{path} has {size} bytes: expected at most {limit}")
        return read_exactly(descriptor, size, path)


def read_exactly(descriptor: int, size: int, path: str) -> bytes:
    """Read ``size`` bytes; fewer mean that the file shrank."""
    data = bytearray()
    while len(data) < size:
        chunk = os.read(descriptor, min(size - len(data), 1 << 24))
        if not chunk:
            raise CheckpointError(f"{path} ended after {len(data)} bytes: expected {size}")
        data += chunk
    return bytes(data)


@contextmanager
def opened(folder: Path, path: str) -> Generator[tuple[int, int]]:
    """Open one file of a folder and yield its descriptor and size."""
    # without O_NONBLOCK, opening a pipe would wait for a writer for ever
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    flags |= getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(folder / path, flags)
    except OSError as error:
        raise CheckpointError(f"cannot open {path} in {folder}: {error.strerror}") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise CheckpointError(f"{path} in {folder} is not a plain file")
        yield descriptor, status.st_size
    except OSError as error:
        raise CheckpointError(f"cannot read {path} in {folder}: {error.strerror}") from None
    finally:
        os.close(descriptor)


def _entries(folder: Path) -> Iterator[str]:
    for inside in ("", *FOLDERS):
        try:
            with os.scandir(folder / inside) as entries:
                for entry in entries:
                    path = f"{inside}/{entry.name}" if inside else entry.name
                    if not inside and path in FOLDERS:
                        if not stat.S_ISDIR(entry.stat(follow_symlinks=False).st_mode):
                            raise CheckpointError(f"{path} in {folder} is not a folder")
                    elif _known(path):
                        yield path
                    else:
                        raise CheckpointError(
                            f"{folder} holds the unknown entry {shown(path)}: a compressed folder "
                            "holds its own files only; move it elsewhere"
                        )
        except FileNotFoundError:
            continue  # what is missing is named by the caller
        except OSError as error:
            raise CheckpointError(f"cannot list {folder / inside}: {error.strerror}") from None


def _known(path: str) -> bool:
    if path in (*REQUIRED, SHARD_INDEX, SINGLE_SHARD):
        return True
    outer, _, name = path.rpartition("/")
    return outer == "transformer" and _SHARD.fullmatch(name) is not None


def _plain_size(file: Path, path: str) -> int:
    try:
        status = file.lstat()
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from None
    if not stat.S_ISREG(status.st_mode):
        raise CheckpointError(f"{path} is not a plain file: links, pipes and devices are refused")
    return status.st_size


def _check_shards(shards: list[str], indexed: bool) -> None:
    expected = shard_names(len(shards)) if shards else ()
    if not shards or sorted(shards) != sorted(expected) or indexed != (len(shards) > 1):
        first = min(shards, default=SINGLE_SHARD)
        raise CheckpointError(
            f"the {len(shards)} weight files ({first} ...) are not one complete set: a shard or "
            "the index is missing, or one is too many"
        )
