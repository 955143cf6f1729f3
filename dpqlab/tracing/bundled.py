"""The traces that ship with dpqlab: seen at once, without running a model."""

from __future__ import annotations

from pathlib import Path

from dpqlab.diffusion import models
from dpqlab.errors import ConfigError
from dpqlab.tracing.record import Trace

DEFAULT_MODEL = "fashion-dit"
PREFIX = "trace-"


def bundled_traces(model: str = DEFAULT_MODEL) -> dict[str, Path]:
    """Return the files of the recorded traces of a model's students, by preset, sorted."""
    # read when asked, as models.bundled does: tests put other assets in their place
    folder = models.ASSETS / f"{model}-runs"
    files = sorted(folder.glob(f"{PREFIX}*.npz"))
    return {file.stem.removeprefix(PREFIX): file for file in files}


def load_trace(name_or_path: str | Path, model: str = DEFAULT_MODEL) -> Trace:
    """Load a bundled trace by the name of its preset, or a file.

    Raises
    ------
    ConfigError
        If it is neither; the message lists the bundled ones.
    CheckpointError
        If the file is no trace.
    """
    if Path(name_or_path).is_file():
        return Trace.load(Path(name_or_path))
    found = bundled_traces(model)
    if str(name_or_path) in found:
        return Trace.load(found[str(name_or_path)])
    raise ConfigError(
        f"no trace {str(name_or_path)!r}: expected a file that `dpqlab trace` wrote, or one of "
        f"{', '.join(found) or '(no bundled traces in this installation)'}"
    )
