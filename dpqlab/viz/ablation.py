"""Which part of the method earns what: the rows of the ablation on one axis."""

from __future__ import annotations

import math
from collections.abc import Sequence

import plotly.graph_objects as go

from dpqlab.errors import ConfigError
from dpqlab.evaluation.ablation import Ablation, AblationResult
from dpqlab.evaluation.frechet import Interval
from dpqlab.viz.log_axis import tick_labels
from dpqlab.viz.theme import FAMILY_COLOURS, FAMILY_SYMBOLS, INK, plain, themed

CHAINS = {
    "dpq": ("DPQ", "PQ, pruned pool"),
    "vq": ("VQ", "VQ, layer by layer"),
    "best": ("Best", "VQ, shared by blocks"),
}
"""Family (for its colour) and title of every chain, by the first word of its rows' names."""

ROW_HEIGHT = 26
TICKS = tuple(digit * 10.0**power for power in range(-3, 3) for digit in (1, 3))


def ablation(study: Ablation, *, title: str = "") -> go.Figure:
    """Draw FCD with its 95 % interval for every measured row, on a logarithmic axis.

    Rows are grouped by chain, in the order of the study; a chain's name stands above its rows, true
    bits stand beside each. Lines mark the teacher's own FCD and the noise floor.

    Parameters
    ----------
    study
        The rows that were measured.
    title
        Instead of one that names the measure.

    Raises
    ------
    ConfigError
        If no row was measured.
    """
    if not study.results:
        raise ConfigError("no rows to draw: expected at least one that was measured")
    figure = go.Figure()
    low, high = _range(study)
    ticks: dict[int, str] = {}
    for chain, rows in chains(study.results).items():
        family, heading = CHAINS.get(chain, (chain, chain))
        ticks[len(ticks)] = f"<b>{heading}</b>"
        places = range(len(ticks), len(ticks) + len(rows))
        ticks |= {at: label(row) for at, row in zip(places, rows, strict=True)}
        _draw(figure, study, rows, places, family, low)
    for name, interval, shift in (
        ("teacher", study.teacher, 14),
        ("noise floor", study.noise_floor, 0),
    ):
        _reference(figure, name, interval, shift)
    themed(
        figure,
        title=title or f"FCD-{study.images // 1000}k of each row",
        x="FCD; lower is better",
        y="",
        height=150 + ROW_HEIGHT * len(ticks),
    )
    # the title starts at the edge: beside long labels there is little room on a phone
    figure.update_layout(showlegend=False, margin_t=88, title_xref="container")
    wanted = [tick for tick in TICKS if low <= tick <= high]
    figure.update_xaxes(
        type="log",
        range=[math.log10(low), math.log10(high)],
        tickangle=0,
        **tick_labels(wanted),
    )
    figure.update_yaxes(
        tickvals=list(ticks),
        ticktext=list(ticks.values()),
        range=[len(ticks) - 0.4, -0.6],
        showgrid=False,
    )
    return figure


def chains(results: Sequence[AblationResult]) -> dict[str, list[AblationResult]]:
    """Group rows by the first word of their names, in order of appearance."""
    grouped: dict[str, list[AblationResult]] = {}
    for result in results:
        grouped.setdefault(result.name.partition(" ")[0].partition("-")[0], []).append(result)
    return grouped


def label(row: AblationResult) -> str:
    """Name a row with its true bits."""
    return f"{plain(row.name)} · {row.true_bits:.2f} bits"


def hover(row: AblationResult, base: AblationResult | None) -> str:
    """Say what a row changes, and what came of it."""
    lines = [f"<b>{plain(row.name)}</b>: {plain(row.change)}"]
    if row.base:
        against = "not measured" if base is None else f"FCD {base.fcd.value:.3g}"
        lines.append(f"compared with {plain(row.base)} ({against})")
    fcd = row.fcd
    lines.append(f"FCD {fcd.value:.3g}, 95 % {max(fcd.low, 0):.3g} to {fcd.high:.3g}")
    if row.excess_fcd is not None:
        lines.append(f"excess FCD {row.excess_fcd.value:.3g}")
    trained = (
        "not calibrated"
        if row.calibration_seconds is None
        else f"{row.calibration_seconds:.0f} s of calibration on {row.device}"
    )
    return "<br>".join([*lines, f"{row.true_bits:.3f} true bits, {trained}"])


def _draw(
    figure: go.Figure,
    study: Ablation,
    rows: Sequence[AblationResult],
    places: Sequence[int],
    family: str,
    least: float,
) -> None:
    values = [row.fcd.value for row in rows]
    # an interval may reach zero, which a logarithmic axis has not
    lows = [max(row.fcd.low, least) for row in rows]
    figure.add_scatter(
        x=values,
        y=list(places),
        name=family,
        mode="markers",
        marker={
            "color": FAMILY_COLOURS.get(family, INK),
            "symbol": FAMILY_SYMBOLS.get(family, "circle"),
            "size": 11,
        },
        error_x={
            "array": [row.fcd.high - row.fcd.value for row in rows],
            "arrayminus": [value - low for value, low in zip(values, lows, strict=True)],
            "thickness": 1.5,
            "width": 4,
        },
        customdata=[hover(row, study.result(row.base)) for row in rows],
        hovertemplate="%{customdata}<extra></extra>",
    )
    figure.add_scatter(
        x=[row.fcd.high for row in rows],
        y=list(places),
        text=[f"  {value:.3g}" if value >= 1 else f"  {value:.3f}" for value in values],
        mode="text",
        textposition="middle right",
        textfont={"color": INK},
        hoverinfo="skip",
    )


def _reference(figure: go.Figure, name: str, interval: Interval, shift: int) -> None:
    dash = "dash" if shift else "dot"
    figure.add_vline(x=interval.value, line={"color": INK, "width": 1, "dash": dash})
    figure.add_annotation(
        # shapes take the value of a logarithmic axis, annotations its logarithm
        x=math.log10(interval.value),
        y=1,
        yref="paper",
        yanchor="bottom",
        yshift=shift,
        xanchor="left",
        text=f"{name} {interval.value:.3f}",
        showarrow=False,
    )


def _range(study: Ablation) -> tuple[float, float]:
    """Leave room for the lines on the left, and for the values on the right."""
    low = min(study.noise_floor.value, *(row.fcd.value for row in study.results))
    high = max(study.teacher.value, *(row.fcd.high for row in study.results))
    return 0.7 * max(low, 1e-3), 2.2 * high
