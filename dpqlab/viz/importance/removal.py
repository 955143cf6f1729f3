"""What removing codewords does: the race of the measures, and promises beside the damage."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from dpqlab.errors import ConfigError
from dpqlab.studies.codewords import MEASURES
from dpqlab.studies.removals import Removal
from dpqlab.viz.importance.measures import (
    LOG,
    MEASURE_COLOURS,
    MEASURE_NAMES,
    MEASURE_SYMBOLS,
)
from dpqlab.viz.log_axis import log_axis
from dpqlab.viz.theme import GREY, INK, RULE, themed

DASHES = {"at once": "dot", "in rounds": "solid"}


def removal_race(
    records: Sequence[Removal],
    *,
    whole: float,
    manners: Sequence[str] = ("at once", "in rounds"),
    marked: float | None = None,
) -> go.Figure:
    """Draw the held-out output error against the share of codewords that was removed.

    Parameters
    ----------
    records
        Of one pool.
    whole
        The error with all codewords: where all lines start.
    manners
        Which to draw: dotted where all codewords went by one ranking, solid where importances were
        made anew on the way.
    marked
        Share to mark by a vertical line.

    Raises
    ------
    ConfigError
        If there is nothing to draw.
    """
    if not any(record.manner in manners for record in records):
        raise ConfigError(f"no removals {' or '.join(manners)}: run race_steps first")
    figure = go.Figure()
    for manner in manners:
        for measure in MEASURES:
            mine = [r for r in records if (r.manner, r.measure) == (manner, measure)]
            if not mine:
                continue
            figure.add_scatter(
                x=[0.0, *(r.share for r in mine)],
                y=[whole, *(r.output_error for r in mine)],
                mode="lines+markers",
                name=f"{MEASURE_NAMES[measure]}, {manner}",
                line={"color": MEASURE_COLOURS[measure], "dash": DASHES[manner], "width": 2},
                marker={"symbol": MEASURE_SYMBOLS[measure], "size": 7},
                customdata=[0, *(r.removed for r in mine)],
                hovertemplate=(
                    f"{MEASURE_NAMES[measure]}, {manner}<br>%{{customdata:,}} removed (%{{x:.0%}})"
                    "<br>output error %{y:.4f}<extra></extra>"
                ),
            )
    if marked is not None:
        figure.add_vline(x=marked, line={"color": INK, "width": 1, "dash": "dash"})
    themed(
        figure,
        title="What removal costs, on activations that nothing was chosen by",
        x="share of codewords removed",
        y="relative output error, held out",
        height=460,
    )
    figure.update_xaxes(tickformat=".0%", rangemode="tozero")
    log_axis(figure, [whole, *(r.output_error for r in records if r.manner in manners)])
    return figure


def promise_and_damage(records: Sequence[Removal], *, marked: float | None = None) -> go.Figure:
    """Draw what single removal costs add up to, and the true rise, for removals at once.

    Raises
    ------
    ConfigError
        If no record was made at once.
    """
    mine = [r for r in records if r.predicted is not None]
    if not mine:
        raise ConfigError("no removals at once: run race_steps first")
    said = [r.predicted for r in mine if r.predicted]
    ends = [min(said, default=1e-6), max(said, default=1e-5)]
    figure = go.Figure()
    figure.add_scatter(
        x=ends, y=ends, mode="lines", name="as predicted",
        line={"color": GREY, "dash": "dash", "width": 1}, hoverinfo="skip",
    )  # fmt: skip
    for measure in MEASURES:
        found = [r for r in mine if r.measure == measure]
        figure.add_scatter(
            x=[r.predicted for r in found],
            y=[r.felt for r in found],
            mode="lines+markers",
            name=f"chosen by {MEASURE_NAMES[measure]}",
            customdata=[r.share for r in found],
            line={"color": MEASURE_COLOURS[measure], "width": 2},
            marker={
                "symbol": MEASURE_SYMBOLS[measure],
                "size": [
                    13 if marked is not None and abs(r.share - marked) < 0.005 else 7 for r in found
                ],
            },
            hovertemplate=(
                "%{customdata:.0%} removed<br>sum of single costs %{x:.2g}"
                "<br>true rise %{y:.2g}<extra></extra>"
            ),
        )
    themed(
        figure,
        title="Costs of single codewords do not add up",
        x="sum of the single removal costs (relative weighted error)",
        y="true rise of that error",
        height=440,
    )
    for update in (figure.update_xaxes, figure.update_yaxes):
        update(gridcolor=RULE, **LOG)
    return figure
