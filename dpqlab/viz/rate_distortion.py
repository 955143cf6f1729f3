"""The rate-distortion figure: what a codec costs against what it loses."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from dpqlab.errors import ConfigError
from dpqlab.evaluation.rate_distortion import RateDistortionPoint, pareto
from dpqlab.viz.log_axis import tick_labels
from dpqlab.viz.theme import FAMILY_COLOURS, FAMILY_SYMBOLS, themed

TICKS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


def rate_distortion(points: Sequence[RateDistortionPoint], *, title: str = "") -> go.Figure:
    """Draw relative weight error against true bits, one colour and marker a codec family.

    Every point is shown; the line of a family joins those that no other of the family beats.

    Parameters
    ----------
    points
        Measurements of one layer.
    title
        Instead of the layer's name and shape.

    Raises
    ------
    ConfigError
        If there are no points, or they are of several layers.
    """
    layers = {(point.layer, point.shape) for point in points}
    if len(layers) != 1:
        raise ConfigError(f"points of {len(layers)} layers: expected those of exactly one")
    ((name, (rows, columns)),) = layers
    figure = go.Figure()
    for family, colour in FAMILY_COLOURS.items():
        mine = sorted((p for p in points if p.family == family), key=lambda p: p.true_bits)
        if not mine:
            continue
        front = pareto(mine)
        figure.add_scatter(
            x=[p.true_bits for p in front],
            y=[p.relative_error for p in front],
            mode="lines",
            line={"color": colour, "width": 1.5},
            hoverinfo="skip",
            legendgroup=family,
            showlegend=False,
        )
        figure.add_scatter(
            x=[p.true_bits for p in mine],
            y=[p.relative_error for p in mine],
            customdata=[p.codec for p in mine],
            name=family,
            mode="markers",
            marker={"color": colour, "symbol": FAMILY_SYMBOLS[family], "size": 8},
            legendgroup=family,
            hovertemplate="%{customdata}<br>%{x:.2f} bits, error %{y:.3f}<extra></extra>",
        )
    themed(
        figure,
        title=title or f"{name}, {rows} × {columns}",
        x="true bits per weight",
        y="relative squared error",
        height=430,
    )
    figure.update_yaxes(type="log", **tick_labels(TICKS))
    figure.update_xaxes(rangemode="tozero")
    return figure
