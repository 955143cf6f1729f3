"""Pruning the pool: error against true bits, what is stored, and what the model draws."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from PIL import Image
from plotly.subplots import make_subplots

from dpqlab.errors import ConfigError, ShapeError
from dpqlab.studies.pruning_runs import PruningRun, RunPoint, front
from dpqlab.viz.log_axis import log_axis
from dpqlab.viz.theme import BLUE, GREEN, INK, ORANGE, PARTS, PURPLE, VERMILION, plain, themed

ERROR_NAMES = {
    "noise_error": "relative error of the predicted noise",
    "image_error": "mean squared difference from the teacher's pictures (white = 1)",
    "weighted_error": "relative weight error, columns counted by their input",
    "weight_error": "relative weight error",
}
RUN_COLOURS = (BLUE, ORANGE, GREEN, PURPLE)
RUN_SYMBOLS = ("circle", "square", "diamond", "triangle-up")
PART_NAMES = {name: label for name, (_, label) in PARTS.items()} | {
    "table": "tables and sizes",
    "kept": "not compressed",
}
PART_COLOURS = {name: colour for name, (colour, _) in PARTS.items()} | {"table": "#56B4E9"}
GAP = 2  # pixels between pictures

Place = tuple[str, int]
"""Name of a run, and a point of it."""


def fraction(budget: float | None) -> str:
    """Write a budget as people say it.

    Examples
    --------
    >>> fraction(0.125), fraction(0.3), fraction(None)
    ('1/8', '0.3', 'none')
    """
    if budget is None:
        return "none"
    part = 1 / budget
    return f"1/{part:.0f}" if part > 1 and abs(part - round(part)) < 1e-6 else f"{budget:g}"


def pruning_path(
    runs: Sequence[PruningRun],
    *,
    error: str = "noise_error",
    marks: Mapping[str, Place] | None = None,
) -> go.Figure:
    """Draw an error of the whole model against its true bits, a line for every run.

    Filled markers are on the run's own front: no other point of it has both fewer bits and a lower
    error. Points carry (name of the run, number of the point) as ``customdata``.

    Parameters
    ----------
    runs
        At least one.
    error
        One of ``ERROR_NAMES``.
    marks
        Points to ring, by their label, such as ``"A"``.

    Raises
    ------
    ConfigError
        If there is no run, no such error, or no such point.
    """
    if not runs:
        raise ConfigError("there is no pruning run to draw: expected at least one")
    if error not in ERROR_NAMES:
        raise ConfigError(f"unknown error: got {error!r}, expected one of {', '.join(ERROR_NAMES)}")
    figure = go.Figure()
    for i, run in enumerate(runs):
        best = set(front(run.points, error))
        colour = RUN_COLOURS[i % len(RUN_COLOURS)]
        symbol = RUN_SYMBOLS[i % len(RUN_SYMBOLS)]
        figure.add_scatter(
            x=[point.true_bits for point in run.points],
            y=[getattr(point, error) for point in run.points],
            customdata=[[run.name, j] for j in range(len(run.points))],
            text=[_label(run, j) for j in range(len(run.points))],
            mode="lines+markers",
            name=plain(run.name),
            line={"color": colour, "width": 1.5},
            marker={
                "color": colour,
                "size": 9,
                "symbol": [
                    symbol if j in best else f"{symbol}-open" for j in range(len(run.points))
                ],
            },
            hovertemplate="%{text}<extra></extra>",
        )
    _mark(figure, runs, error, marks or {})
    themed(
        figure,
        title="What fewer codewords save and cost (not calibrated)",
        x="true bits per weight, everything counted",
        y=ERROR_NAMES[error],
        height=440,
    )
    log_axis(figure, [getattr(point, error) for run in runs for point in run.points])
    return figure


def _label(run: PruningRun, index: int) -> str:
    point = run.points[index]
    return (
        f"{plain(run.name)}, budget {fraction(point.budget)}<br>{point.codewords:,} codewords"
        f"<br>{point.true_bits:.2f} true bits, {point.stored_bytes / 1e6:.2f} MB in all"
        f"<br>noise {point.noise_error:.3g}, pictures {point.image_error:.3g}"
    )


def _mark(
    figure: go.Figure, runs: Sequence[PruningRun], error: str, marks: Mapping[str, Place]
) -> None:
    known = {run.name: run for run in runs}
    for label, (name, index) in marks.items():
        if name not in known or not 0 <= index < len(known[name].points):
            raise ConfigError(
                f"mark {label!r} is at point {index} of {name!r}: expected a point of one of "
                f"{', '.join(known)}"
            )
        point = known[name].points[index]
        pinned = len(label) == 1
        figure.add_scatter(
            x=[point.true_bits],
            y=[getattr(point, error)],
            mode="markers+text",
            text=[label if pinned else ""],
            textposition="top center",
            textfont={"size": 16, "color": INK},
            marker={
                "symbol": "circle-open",
                "size": 16 if pinned else 22,
                "color": INK if pinned else VERMILION,
                "line": {"width": 2.5},
            },
            hoverinfo="skip",
            showlegend=False,
        )


def stored_parts(points: Mapping[str, RunPoint]) -> go.Figure:
    """Draw what models store, part by part, and what is left of every pool.

    Left a stacked bar in megabytes of 10^6 bytes; right the codewords of each kind of layer.

    Parameters
    ----------
    points
        Models by label, shown from top to bottom.

    Raises
    ------
    ConfigError
        If there is none.
    """
    if not points:
        raise ConfigError("there is no model to draw: expected at least one")
    labels = list(points)
    figure = make_subplots(
        cols=2,
        column_widths=[0.5, 0.5],
        horizontal_spacing=0.2,
        subplot_titles=("everything stored", "codewords of each kind of layer"),
    )
    stored = [part for part in PART_NAMES if any(point.parts[part] for point in points.values())]
    for part in stored:
        figure.add_bar(
            y=labels,
            x=[point.parts[part] / 8e6 for point in points.values()],
            orientation="h",
            name=PART_NAMES[part],
            marker_color=PART_COLOURS[part],
            hovertemplate=f"%{{y}}: {PART_NAMES[part]} %{{x:.3f}} MB<extra></extra>",
            row=1,
            col=1,
        )
    symbols = ("circle", "square-open", "diamond-open", "x")
    for i, (label, point) in enumerate(points.items()):
        figure.add_scatter(
            x=[pool.codewords for pool in point.pools],
            y=[pool.kind for pool in point.pools],
            mode="markers",
            name=label,
            marker={"symbol": symbols[i % len(symbols)], "size": 10, "color": INK},
            customdata=[[pool.form, pool.share] for pool in point.pools],
            hovertemplate=(
                f"{label}: %{{y}}<br>%{{x:,}} codewords, %{{customdata[0]}}"
                "<br>%{customdata[1]:.3f} of the bits of the codes<extra></extra>"
            ),
            row=1,
            col=2,
        )
    themed(figure, title="What is stored", x="", y="", height=360)
    figure.update_layout(barmode="stack", margin_t=80, legend_traceorder="normal")
    figure.update_yaxes(autorange="reversed")
    figure.update_xaxes(title_text="MB", col=1)
    figure.update_xaxes(title_text="codewords", type="log", exponentformat="power", col=2)
    return figure


def sample_rows(rows: Mapping[str, np.ndarray]) -> go.Figure:
    """Draw rows of pictures, one for every label, from the same seeds.

    Parameters
    ----------
    rows
        uint8 (N, C, H, W) by label, from top to bottom; all of one shape.

    Raises
    ------
    ConfigError
        If there is none.
    ShapeError
        If they differ in shape.
    """
    if not rows:
        raise ConfigError("there are no pictures to draw: expected at least one row")
    shapes = {images.shape for images in rows.values()}
    if len(shapes) > 1 or len(next(iter(shapes))) != 4:
        raise ShapeError(f"pictures must all be (N, C, H, W): got {sorted(shapes)}")
    picture = rows_picture(list(rows.values()))
    high, wide = picture.shape[:2]
    step = high / len(rows)
    figure = go.Figure(go.Image(source=_png(picture), hoverinfo="skip"))
    themed(figure, title="What the models draw from the same noise", x="", y="", height=240)
    figure.update_layout(height=96 + 62 * len(rows), margin_t=44)
    hidden: dict[str, Any] = {"showgrid": False, "linecolor": "rgba(0,0,0,0)"}
    figure.update_xaxes(visible=False, range=[0, wide], **hidden)
    figure.update_yaxes(
        tickvals=[step * (i + 0.5) - 1 for i in range(len(rows))],
        ticktext=[plain(label) for label in rows],
        range=[high, 0],
        **hidden,
    )
    return figure


def rows_picture(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Lay rows of pictures out: uint8 (N, C, H, W) each, to RGBA with clear gaps."""
    count, _, height, width = rows[0].shape
    shape = len(rows) * (height + GAP), count * (width + GAP) - GAP, 4
    canvas = np.zeros(shape, dtype=np.uint8)
    for i, images in enumerate(rows):
        for j, image in enumerate(images):
            top, left = i * (height + GAP), j * (width + GAP)
            part = canvas[top : top + height, left : left + width]
            part[..., :3] = np.moveaxis(image, 0, -1)
            part[..., 3] = 255
    return canvas


def _png(picture: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG", compress_level=6)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
