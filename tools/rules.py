"""Rules of the repository that no other tool checks, with the standard library alone.

``python -m tools.rules`` prints what breaks a rule, and fails. ``make check`` and the pre-commit
hook run it; tests/test_repository.py shows each rule on a tree that breaks it.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MB = 1_000_000
LARGEST_FILE = 48 * MB
LARGEST_ASSETS = 200 * MB
LARGEST_NOTEBOOK = 200_000
SKIPPED_FOLDERS = {".git", ".venv", "__pycache__"}

# The one place that may read an original .pt file, and only with weights_only=True.
CONVERTER = "dpqlab/checkpoint/convert.py"

_UNSAFE = re.compile(
    r"torch\.load\(|pickle\.loads?\(|allow_pickle=True|trust_remote_code=True|weights_only=False"
)
_MACHINE_PATH = r"(?<![\w.~/-])/(?:home|Users|root|tmp|mnt)/\w|[A-Z]:\\Users\\\w"


def repository_files(root: Path) -> list[Path]:
    """Files that git tracks or would add; every file outside caches where there is no git."""
    command = ["git", "-C", str(root), "ls-files", "-z", "-co", "--exclude-standard"]
    try:
        listing = subprocess.run(command, check=True, capture_output=True).stdout.decode()
        paths = [root / name for name in listing.split("\0") if name]
    except (OSError, subprocess.CalledProcessError):
        paths = [p for p in root.rglob("*") if not SKIPPED_FOLDERS & {*p.relative_to(root).parts}]
    return sorted(path for path in paths if path.is_file())


def changelog(root: Path, _files: list[Path]) -> Iterator[str]:
    """The version of the package has an entry in CHANGELOG.md."""
    source = (root / "dpqlab/__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "(.+)"$', source, re.MULTILINE)
    if found is None:
        yield 'dpqlab/__init__.py has no line `__version__ = "..."`'
        return
    path = root / "CHANGELOG.md"
    log = path.read_text(encoding="utf-8") if path.exists() else ""
    if re.search(rf"^## \[{re.escape(found[1])}\]", log, re.MULTILINE) is None:
        yield f"CHANGELOG.md has no entry `## [{found[1]}]` for the version in dpqlab/__init__.py"


def sizes(root: Path, files: list[Path]) -> Iterator[str]:
    """No file over 48 MB, all bundled assets together under 200 MB, notebooks under 200 kB."""
    assets = 0
    for path in files:
        size = path.stat().st_size
        name = path.relative_to(root).as_posix()
        assets += size if name.startswith("dpqlab/assets/") else 0
        if size > LARGEST_FILE:
            yield f"{name} has {size / MB:.0f} MB, the limit is {LARGEST_FILE / MB:.0f}; shard it"
        if path.suffix == ".ipynb" and size > LARGEST_NOTEBOOK:
            yield f"{name} has {size} bytes, the limit is {LARGEST_NOTEBOOK}; strip its outputs"
    if assets > LARGEST_ASSETS:
        yield (
            f"dpqlab/assets has {assets / MB:.0f} MB, the limit is {LARGEST_ASSETS / MB:.0f}; "
            "drop or compress a bundled model"
        )


def safe_loading(root: Path, files: list[Path]) -> Iterator[str]:
    """Shipped code unpickles nothing; only the explicit convert of an original .pt may load one."""
    for path in files:
        name = path.relative_to(root).as_posix()
        if path.suffix != ".py" or not name.startswith(("dpqlab/", "apps/")):
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            allowed = name == CONVERTER and "weights_only=True" in line
            if _UNSAFE.search(line) and not allowed:
                yield f"{name}:{number} loads unsafely ({line.strip()}); use safetensors"


def portable(root: Path, files: list[Path]) -> Iterator[str]:
    """No file names a path of somebody's machine."""
    pattern = _MACHINE_PATH
    if len(root.parts) > 2:  # the folder that holds this checkout
        pattern += rf"|(?<![\w./-]){re.escape(str(root.parent))}/"
    for path in files:
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found = re.search(pattern, text)
        if found:
            yield f"{path.relative_to(root).as_posix()} names a machine path ({found[0]}...)"


def notebooks(root: Path, files: list[Path]) -> Iterator[str]:
    """Notebooks are committed without outputs, execution counts or widget state."""
    for path in files:
        if path.suffix != ".ipynb":
            continue
        book = json.loads(path.read_text(encoding="utf-8"))
        cells = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
        dirty = any(cell["outputs"] or cell["execution_count"] for cell in cells)
        if dirty or "widgets" in book["metadata"]:
            yield f"{path.relative_to(root).as_posix()} has outputs or widget state; strip it"


RULES: tuple[Callable[[Path, list[Path]], Iterator[str]], ...] = (
    changelog,
    sizes,
    safe_loading,
    portable,
    notebooks,
)


def violations(root: Path = ROOT) -> list[str]:
    """Every broken rule in the tree at `root`, one message each."""
    files = repository_files(root)
    return [message for rule in RULES for message in rule(root, files)]


def main() -> int:
    """Print the violations; 1 when there are any."""
    found = violations()
    print("\n".join(found) or f"{len(RULES)} rules hold")
    return bool(found)


if __name__ == "__main__":
    raise SystemExit(main())
