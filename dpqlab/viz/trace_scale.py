"""What figures of traces have in common: names, colours, one scale of errors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dpqlab.errors import ConfigError
from dpqlab.tracing import MEASURES, Measure, Trace
from dpqlab.viz.theme import FAMILY_COLOURS, FAMILY_SYMBOLS, GREY, plain

NAMES: dict[Measure, str] = {
    "local": "local",
    "pass": "one pass",
    "accumulated": "accumulated",
}
"""What the measures are called where people read them."""
FAMILIES = {"rtn": "RTN", "vq": "VQ", "pq": "PQ", "dpq": "DPQ", "best": "Best"}
DECADES = 4  # of a scale at most


def family_of_name(name: str) -> str:
    """Return the family that a student's name tells of, such as "VQ"; "" if none.

    Examples
    --------
    >>> family_of_name("fashion-dit-dpq-1bit")
    'DPQ'
    """
    return next((FAMILIES[part] for part in name.split("-") if part in FAMILIES), "")


def colour_of(name: str) -> str:
    """Return the colour of a student's family; grey if its name tells of none."""
    return FAMILY_COLOURS.get(family_of_name(name), GREY)


def symbol_of(name: str) -> str:
    """Return the marker of a student's family; a circle if its name tells of none."""
    return FAMILY_SYMBOLS.get(family_of_name(name), "circle")


def short_name(trace: Trace) -> str:
    """Return a student's name without its teacher's, with its true bits."""
    name = trace.name.removeprefix(f"{trace.about.teacher}-")
    return f"{name} · {trace.about.true_bits:.2f} bits"


def label(trace: Trace) -> str:
    """Return :func:`short_name` as a figure may show it."""
    return plain(short_name(trace))


def error_range(traces: Sequence[Trace], branch: str | None = None) -> tuple[float, float]:
    """Return the range of errors of all measures of all traces, four decades at most.

    One range for every map that is drawn of these traces: a colour always means the same error.

    Raises
    ------
    ConfigError
        If there is no trace.
    """
    if not traces:
        raise ConfigError("no trace to draw: expected one or more")
    every = np.concatenate([t.error(m, branch).ravel() for t in traces for m in MEASURES])
    positive = every[every > 0]
    if not len(positive):
        return 1e-4, 1.0
    high = float(positive.max())
    return max(float(positive.min()), high / 10**DECADES), high


def check_alike(traces: Sequence[Trace]) -> None:
    """Raise ConfigError unless traces have one teacher, and the same blocks and timesteps."""
    if not traces:
        raise ConfigError("no trace to draw: expected one or more")
    looks = {(t.about.teacher, t.blocks, t.timesteps) for t in traces}
    if len(looks) > 1:
        raise ConfigError(
            f"the traces of {', '.join(t.name for t in traces)} differ in teacher, blocks or "
            "timesteps: expected the same, or they cannot share axes"
        )
