"""Compiled code is kept where nobody else can put any."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from dpqlab.kernels.caches import COMPILERS, cache_folder, keep_compilers_private

pytestmark = pytest.mark.skipif(not hasattr(os, "getuid"), reason="modes say nothing here")


@pytest.fixture(autouse=True)
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name in COMPILERS:
        monkeypatch.setenv(name, "")  # restored afterwards, whatever a test sets
        monkeypatch.delenv(name)
    return tmp_path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_folder_is_the_users_alone_whatever_the_mask(base: Path) -> None:
    usual = os.umask(0)
    try:
        folder = cache_folder("numba")
    finally:
        os.umask(usual)
    assert folder == base / "dpqlab" / "numba"
    assert mode(folder) == mode(folder.parent) == 0o700
    assert cache_folder("numba") == folder


@pytest.mark.parametrize("bits", [0o770, 0o707, 0o744, 0o701])
def test_a_folder_that_lets_others_in_is_not_used(base: Path, bits: int) -> None:
    folder = base / "dpqlab" / "numba"
    folder.mkdir(parents=True)
    folder.parent.chmod(0o755)
    folder.chmod(0o700)
    assert cache_folder("numba") == folder, "others may see that there is one"
    folder.chmod(bits)
    assert cache_folder("numba") is None


def test_a_folder_that_others_could_replace_is_not_used(base: Path) -> None:
    folder = cache_folder("numba")
    assert folder is not None
    folder.parent.chmod(0o775)
    assert cache_folder("numba") is None


def test_a_link_is_not_followed(base: Path) -> None:
    elsewhere = base / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    (base / "dpqlab").mkdir(mode=0o700)
    (base / "dpqlab" / "numba").symlink_to(elsewhere)
    assert cache_folder("numba") is None


def test_without_room_there_is_none(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (base / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(base / "file"))
    assert cache_folder("numba") is None


@pytest.mark.skipif(os.name != "posix" or os.getuid() != 0, reason="only root can give files away")
def test_a_folder_of_somebody_else_is_not_used(base: Path) -> None:
    folder = cache_folder("numba")
    assert folder is not None
    os.chown(folder, 12345, 12345)
    assert cache_folder("numba") is None


def test_compilers_are_told_unless_the_user_has(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", "mine")
    keep_compilers_private()
    assert os.environ["TRITON_CACHE_DIR"] == "mine"
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(base / "dpqlab" / "inductor")
    assert mode(base / "dpqlab" / "inductor") == 0o700


def test_what_numba_and_inductor_make_lies_in_private_folders(base: Path) -> None:
    """A process of its own compiles a loop and a function; nothing else appears anywhere."""
    pytest.importorskip("numba", reason="numba is not installed: the extra 'fast'")
    scratch = base / "tmp"
    scratch.mkdir()
    script = (
        "import numpy as np, torch; from dpqlab.kernels import lloyd\n"
        "lloyd.halve_norms(np.ones((2, 3), np.float32), np.empty(2, np.float32), 1)\n"
        "import numba; assert not numba.config.CACHE_DIR\n"
        "from dpqlab.kernels.caches import keep_compilers_private as keep; keep()\n"
        "from torch._inductor.runtime.cache_dir_utils import cache_dir; print(cache_dir())\n"
    )
    environment = {k: v for k, v in os.environ.items() if k not in (*COMPILERS, "NUMBA_CACHE_DIR")}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment | {"TMPDIR": str(scratch)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(base / "dpqlab" / "inductor")
    assert list((base / "dpqlab" / "numba").rglob("*.nbi"))
    assert mode(base / "dpqlab" / "numba") == 0o700
    assert not list(scratch.iterdir())
