"""Ticks of a logarithmic axis at 1, 2 and 5, so that a narrow range has more than one."""

from __future__ import annotations

from collections.abc import Iterable
from math import ceil, floor, log10

import plotly.graph_objects as go

from dpqlab.errors import ConfigError


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
    """
    known = [log10(value) for value in values if value > 0]
    if not known:
        raise ConfigError("a logarithmic axis needs a value above zero: got none")
    low, high = min(known), max(known)
    ticks = [f * 10.0**e for e in range(floor(low), ceil(high) + 1) for f in (1, 2, 5)]
    room = 0.06 * max(high - low, 0.5)
    figure.update_yaxes(
        type="log",
        tickvals=ticks,
        ticktext=[f"{tick:g}" for tick in ticks],
        range=[low - room, high + room],
        col=col,
    )
