"""Where compiled code is kept: in folders of the user's own, which nobody else can read or write.

What a compiler has kept is run without another look, and numba's index of it is a pickle. So it is
read only from folders that belong to the user and let nobody else in; where there is none, code is
compiled anew in every process.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

COMPILERS = {"TRITON_CACHE_DIR": "triton", "TORCHINDUCTOR_CACHE_DIR": "inductor"}
"""The variables by which compilers are told where to keep what they make, and our names for it."""
_OTHERS_WRITE, _OTHERS = 0o022, 0o077


def cache_folder(name: str) -> Path | None:
    """Return a private folder below the user's cache, made if need be; None if there is none.

    Parameters
    ----------
    name
        Of the folder, such as ``"kernels"``.
    """
    try:
        ours = _base() / "dpqlab"
        folder = ours / name
        for path in (ours, folder):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        private = _belongs_to_us(ours, _OTHERS_WRITE) and _belongs_to_us(folder, _OTHERS)
    except (OSError, RuntimeError):  # no home, or no room
        return None
    return folder if private else None


def keep_compilers_private() -> None:
    """Have Triton and PyTorch's inductor keep their code in such folders, unless told otherwise.

    By itself inductor uses a folder of a known name below the system's temporary one, which another
    user may have made before. Holds for the whole process: call it just before compiling.
    """
    for variable, name in COMPILERS.items():
        if variable not in os.environ and (folder := cache_folder(name)) is not None:
            os.environ[variable] = str(folder)


def _base() -> Path:
    # a user's folders on Windows let nobody else in, and have no mode that tells
    named = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA")
    return Path(named) if named else Path.home() / ".cache"


def _belongs_to_us(folder: Path, forbidden: int) -> bool:
    if not hasattr(os, "getuid"):
        return folder.is_dir()
    found = folder.lstat()
    ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
    return ours and stat.S_IMODE(found.st_mode) & forbidden == 0
