"""A calibration as it went: its error, its blocks, its codes, and what the student drew."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots

from dpqlab.calibration.loop import CalibrationRecord
from dpqlab.calibration.recording import Recording
from dpqlab.errors import ConfigError
from dpqlab.viz.images import sheet
from dpqlab.viz.log_axis import log_ticks, tick_labels
from dpqlab.viz.theme import (
    BLUE,
    FAMILY_COLOURS,
    FAMILY_SYMBOLS,
    GREEN,
    INK,
    ORANGE,
    PURPLE,
    VERMILION,
    dash_of,
    plain,
    themed,
)

FAMILIES = {"vq": "VQ", "pq": "PQ", "dpq": "DPQ", "best": "Best"}
"""Family of a run, for its colour and marker, by the first word of its name."""
BEYOND = 0.35  # decades: labels that plotly shows if it leaves them room
LOWEST, HIGHEST = 1e-3, 1.0
"""Range of the colours of the blocks' errors, the same for every run."""
PANELS = (
    "Held-out error",
    "Relative error of each block's output",
    "Codes changed since the point before",
    "Codewords revived since the point before",
)


def calibration_run(
    records: Sequence[CalibrationRecord], *, step: int | None = None, title: str = ""
) -> go.Figure:
    """Draw the course of one calibration, with a cursor at a step.

    Four panels over the same steps: the held-out error and its part that is the predicted noise
    (logarithmic), the relative error of each block's output (colours from 0.001 to 1, logarithmic,
    the same for every run), the share of the codes that changed, and the codewords that started
    again.

    Parameters
    ----------
    records
        In order; at least one.
    step
        Where the cursor stands: the last record up to this step. None for the last record.
    title
        Instead of one that gives the true bits.

    Raises
    ------
    ConfigError
        If there are no records.
    """
    at = records[index_at(records, step)]
    figure = make_subplots(
        rows=2,
        cols=2,
        shared_xaxes=True,
        horizontal_spacing=0.09,
        vertical_spacing=0.14,
        subplot_titles=PANELS,
    )
    steps = np.asarray([record.step for record in records], dtype=np.float32)
    _draw_errors(figure, records, steps)
    _draw_blocks(figure, records, steps)
    _draw_codes(figure, records, steps)
    themed(
        figure,
        title=title or f"Calibration at {at.true_bits:.2f} true bits per weight",
        x="",
        y="",
        height=500,
    )
    _arrange(figure, records)
    _draw_cursor(figure, at)
    return figure


def index_at(records: Sequence[CalibrationRecord], step: int | None) -> int:
    """Return the place of the last record up to ``step`` (None: of the last one).

    Raises
    ------
    ConfigError
        If there are no records.
    """
    if not records:
        raise ConfigError("no records to draw: expected at least the one of step 0")
    if step is None:
        return len(records) - 1
    return max(0, sum(record.step <= step for record in records) - 1)


def run_words(records: Sequence[CalibrationRecord], step: int | None = None) -> str:
    """Say in a sentence or two what :func:`calibration_run` shows at its cursor."""
    index = index_at(records, step)
    first, now = records[0], records[index]
    best = min(records[: index + 1], key=lambda record: record.total)
    worst = max(range(len(now.blocks)), key=lambda block: now.blocks[block])
    course = "before calibration"
    if index:
        lowest = f"the best so far is {best.total:.4f} (step {best.step:,})"
        kept = "the best so far" if best is now else lowest
        moved = f"{now.changed:.1%} of the codes changed, {now.revived:,} codewords revived"
        course = f"{_times(first.total, now.total)}, {kept}; {moved}"
    return (
        f"Step {now.step:,} of {records[-1].step:,}: held-out error {now.total:.4f}, {course}. "
        f"Block {worst} is furthest from the teacher (relative error {now.blocks[worst]:.3f}). "
        f"{now.true_bits:.3f} true bits per weight."
    )


def _times(before: float, now: float) -> str:
    """Compare an error with where it began."""
    if now > before:
        return f"{now / before:.1f} times that at the start"
    return f"{before / max(now, 1e-12):.1f} times lower than at the start"


def strip_picture(strips: Sequence[np.ndarray], *, zoom: int = 3) -> np.ndarray:
    """Lay strips of the same seeds out below each other, a row each.

    Parameters
    ----------
    strips
        uint8 (N, C, H, W) each, all of one shape.
    zoom
        Whole-number enlargement without smoothing.

    Returns
    -------
    uint8 (height, width) for grey images, (height, width, 3) for colour.

    Raises
    ------
    ConfigError
        If there is none, or they differ in shape.
    """
    shapes = {np.shape(strip) for strip in strips}
    if len(shapes) != 1:
        raise ConfigError(f"strips of shapes {sorted(shapes)}: expected one or more of one shape")
    images = torch.from_numpy(np.concatenate(list(strips)))
    return np.asarray(sheet(images, columns=len(strips[0]), zoom=zoom))


def compare_runs(recordings: Sequence[Recording], *, title: str = "") -> go.Figure:
    """Draw the held-out error of several calibrations, and where each ended at its true bits.

    Colour and marker tell the family of the preset; lines are dashed above 1.2 true bits
    and dotted above 1.5.

    Left the course over the steps, right the lowest error against true bits: two runs may be
    compared only where they stand at the same bits (within 2 %).

    Raises
    ------
    ConfigError
        If there are no recordings.
    """
    if not recordings:
        raise ConfigError("no recordings to compare: expected at least one")
    figure = make_subplots(
        cols=2,
        shared_yaxes=True,
        horizontal_spacing=0.04,
        column_widths=[0.6, 0.4],
        subplot_titles=("The course of each run", "The lowest, at its true bits"),
    )
    for recording in recordings:
        _draw_run(figure, recording)
    themed(figure, title=title or "Calibrations compared", x="", y="", height=500)
    figure.update_layout(margin_t=84, legend_y=-0.24)
    totals = [record.total for recording in recordings for record in recording.records]
    figure.update_yaxes(type="log", **_log_labels(totals))
    figure.update_yaxes(title_text="held-out error", col=1)
    figure.update_xaxes(title_text="step", col=1)
    bits = [recording.true_bits for recording in recordings]
    room = max(0.25, 0.1 * (max(bits) - min(bits)))
    figure.update_xaxes(
        title_text="true bits per weight", range=[min(bits) - room, max(bits) + room], col=2
    )
    return figure


def _draw_run(figure: go.Figure, recording: Recording) -> None:
    family = FAMILIES.get(recording.name.partition("-")[0], "")
    colour = FAMILY_COLOURS.get(family, INK)
    symbol = FAMILY_SYMBOLS.get(family, "circle")
    title = plain(recording.name)
    name = f"{title}, {recording.true_bits:.3f} bits"
    figure.add_scatter(
        x=[record.step for record in recording.records],
        y=[record.total for record in recording.records],
        mode="lines+markers",
        name=name,
        legendgroup=name,
        line={
            "color": colour,
            "width": 2,
            "dash": dash_of(recording.true_bits),
        },
        marker={"symbol": symbol, "size": 6},
        hovertemplate=f"{title}<br>step %{{x:,}}: %{{y:.4f}}<extra></extra>",
        row=1,
        col=1,
    )
    figure.add_scatter(
        x=[recording.true_bits],
        y=[min(record.total for record in recording.records)],
        mode="markers",
        marker={"color": colour, "symbol": symbol, "size": 12},
        legendgroup=name,
        showlegend=False,
        hovertemplate=f"{title}<br>%{{x:.3f}} bits: %{{y:.4f}}<extra></extra>",
        row=1,
        col=2,
    )


def _log_labels(values: Sequence[float]) -> dict[str, Any]:
    """Return the labels of a logarithmic axis that plotly fits to some values."""
    low, high = max(min(values), 1e-12), max(max(values), 1e-12)
    return tick_labels(log_ticks(low, high, beyond=BEYOND))


def _draw_errors(
    figure: go.Figure, records: Sequence[CalibrationRecord], steps: np.ndarray
) -> None:
    for name, colour, dash, values in (
        ("held-out error", BLUE, "solid", [record.total for record in records]),
        ("of it, predicted noise", ORANGE, "dash", [record.output for record in records]),
    ):
        figure.add_scatter(
            x=steps,
            y=np.asarray(values, dtype=np.float32),
            name=name,
            mode="lines+markers",
            marker={"size": 5},
            line={"color": colour, "width": 2, "dash": dash},
            hovertemplate=f"step %{{x:,}}<br>{name} %{{y:.4f}}<extra></extra>",
            row=1,
            col=1,
        )


def _draw_blocks(
    figure: go.Figure, records: Sequence[CalibrationRecord], steps: np.ndarray
) -> None:
    errors = np.asarray([record.blocks for record in records], dtype=np.float32).T
    low, high = math.log10(LOWEST), math.log10(HIGHEST)
    figure.add_heatmap(
        x=steps,
        y=np.arange(len(errors)),
        z=np.log10(errors.clip(1e-12)),
        customdata=errors,
        zmin=low,
        zmax=high,
        colorscale="Cividis",
        colorbar={
            "len": 0.44,
            "y": 0.79,
            "thickness": 12,
            "outlinewidth": 0,
            "tickvals": [-3, -2, -1, 0],
            "ticktext": ["0.001", "0.01", "0.1", "1"],
        },
        hovertemplate="step %{x:,}, block %{y}<br>error %{customdata:.4f}<extra></extra>",
        row=1,
        col=2,
    )


def _draw_codes(figure: go.Figure, records: Sequence[CalibrationRecord], steps: np.ndarray) -> None:
    figure.add_scatter(
        x=steps,
        y=np.asarray([record.changed for record in records], dtype=np.float32),
        mode="lines+markers",
        marker={"size": 5},
        line={"color": GREEN, "width": 2},
        showlegend=False,
        hovertemplate="step %{x:,}<br>%{y:.1%} of the codes<extra></extra>",
        row=2,
        col=1,
    )
    figure.add_bar(
        x=steps,
        y=[record.revived for record in records],
        marker={"color": PURPLE, "line_width": 0},
        showlegend=False,
        hovertemplate="step %{x:,}<br>%{y:,} codewords<extra></extra>",
        row=2,
        col=2,
    )


def _arrange(figure: go.Figure, records: Sequence[CalibrationRecord]) -> None:
    """Give every panel its axes; the quiet ones say why they are flat."""
    figure.update_layout(margin_t=76, margin_r=16, bargap=0.3, legend_y=-0.15)
    figure.update_annotations(font_size=13)
    last = max(records[-1].step, 1)
    figure.update_xaxes(range=[-0.03 * last, 1.03 * last])
    figure.update_xaxes(title_text="step", row=2)
    drawn = [value for record in records for value in (record.total, record.output)]
    figure.update_yaxes(type="log", **_log_labels(drawn), row=1, col=1)
    figure.update_yaxes(title_text="error", row=1, col=1)
    figure.update_yaxes(title_text="block", dtick=1, showgrid=False, row=1, col=2)
    figure.update_yaxes(autorange="reversed", row=1, col=2)  # the first block on top
    top = max(record.changed for record in records)
    figure.update_yaxes(
        title_text="share", tickformat=".0%", range=[0, max(0.1, 1.1 * top)], row=2, col=1
    )
    revived = max(record.revived for record in records)
    figure.update_yaxes(title_text="codewords", range=[0, max(1.0, 1.1 * revived)], row=2, col=2)
    if not top:
        _say(figure, "codes stay in this run", axes="x3 y3")
    if not revived:
        _say(figure, "no codeword started again", axes="x4 y4")


def _say(figure: go.Figure, text: str, *, axes: str) -> None:
    x, y = axes.split()
    figure.add_annotation(
        text=text, x=0.5, y=0.5, xref=f"{x} domain", yref=f"{y} domain", showarrow=False
    )


def _draw_cursor(figure: go.Figure, at: CalibrationRecord) -> None:
    figure.add_vline(x=at.step, line={"color": VERMILION, "width": 1.5, "dash": "dot"})
    figure.add_scatter(
        x=[at.step],
        y=[at.total],
        mode="markers",
        name=f"step {at.step:,}",
        marker={"color": VERMILION, "size": 11, "symbol": "circle-open", "line_width": 2.5},
        hovertemplate=f"step {at.step:,}: %{{y:.4f}}<extra></extra>",
        row=1,
        col=1,
    )
