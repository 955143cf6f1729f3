"""Labels of a logarithmic axis, so that a narrow range has more than one."""

from __future__ import annotations

from collections.abc import Iterable
from math import ceil, floor, log10
from typing import Any

import plotly.graph_objects as go

from dpqlab.errors import ConfigError

NARROW, WIDE = 40, 500
"""Times the lowest value: up to the first labels at 1, 2 and 5, beyond the second powers of ten."""


def log_ticks(low: float, high: float, *, beyond: float = 0.0) -> list[float]:
    """Return where a logarithmic axis has labels: the fewer to a decade, the more decades.

    Parameters
    ----------
    low, high
        The range, above zero.
    beyond
        Decades by which labels may lie outside of it.

    Examples
    --------
    >>> [f"{tick:g}" for tick in log_ticks(0.02, 0.65)]
    ['0.02', '0.05', '0.1', '0.2', '0.5']
    >>> [f"{tick:g}" for tick in log_ticks(0.01, 1)]
    ['0.01', '0.03', '0.1', '0.3', '1']
    """
    wide = high / low
    digits = (1, 2, 5) if wide <= NARROW else (1, 3) if wide <= WIDE else (1,)
    powers = range(floor(log10(low)), ceil(log10(high)) + 1)
    ticks = [digit * 10.0**power for power in powers for digit in digits]
    more = 1.001 * 10**beyond
    return [tick for tick in ticks if low / more <= tick <= high * more]


def tick_labels(ticks: Iterable[float]) -> dict[str, Any]:
    """Return ticks and their labels as an axis takes them."""
    values = list(ticks)
    return {"tickvals": values, "ticktext": [f"{tick:g}" for tick in values]}


def log_axis(figure: go.Figure, values: Iterable[float], *, col: int | None = None) -> None:
    """Make the y axis logarithmic, from the lowest to the highest positive value.

    Parameters
    ----------
    figure
        To change.
    values
        What is drawn; what is not above zero does not count.
    col
        Column of subplots; None means all.

    Raises
    ------
    ConfigError
        If no value is above zero.
    """
    known = [value for value in values if value > 0]
    if not known:
        raise ConfigError("a logarithmic axis needs a value above zero: got none")
    low, high = min(known), max(known)
    room = 0.06 * max(log10(high / low), 0.5)
    figure.update_yaxes(
        type="log",
        range=[log10(low) - room, log10(high) + room],
        col=col,
        **tick_labels(log_ticks(low, high)),
    )
