"""Errors of blocks at sampling steps: one map a student on one scale, with its margins."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from dpqlab.errors import ConfigError
from dpqlab.tracing import Measure, Trace
from dpqlab.viz.error_map_layout import Grid, layout_of, name_of
from dpqlab.viz.log_axis import log_ticks, tick_labels
from dpqlab.viz.theme import dash_of, plain
from dpqlab.viz.trace_pictures import ROWS, check_image, common_gain, png_uri, strip
from dpqlab.viz.trace_scale import (
    check_alike,
    colour_of,
    error_range,
    label,
    symbol_of,
)

TITLES: dict[Measure, str] = {
    "local": "Local error: each block fed the teacher's input",
    "pass": "Error within one pass: the teacher's noisy image, the student's own activations",
    "accumulated": "Accumulated error: the student draws its own image",
}


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What is marked and shown below a map.

    Parameters
    ----------
    block, step
        The cell with a frame.
    image
        The image of the strip under the time axis; None: no strip.
    student
        Place of the trace whose images the strip shows.
    """

    block: int = 0
    step: int = 0
    image: int | None = None
    student: int = 0


def error_map(
    traces: Sequence[Trace],
    *,
    measure: Measure = "accumulated",
    branch: str | None = None,
    selection: Selection | None = None,
    scale: tuple[float, float] | None = None,
) -> go.Figure:
    """Draw blocks by steps, one map below the other, on one logarithmic scale.

    Above the maps stands the mean over blocks, one line a student; to their right the error of each
    block over all steps; below, if an image is selected, what teacher and student expect to draw,
    under the step at which they do.

    Parameters
    ----------
    traces
        Of students of one teacher, with the same blocks and steps.
    measure
        "local", "pass" or "accumulated".
    branch
        Of guidance; None: all together.
    selection
        The marked cell, and the image below.
    scale
        Lowest and highest error of the colours; default: those of all measures of the traces.

    Raises
    ------
    ConfigError
        If there is nothing to draw, or the traces do not fit on one pair of axes.
    """
    check_alike(traces)
    scale = scale or error_range(traces, branch)
    strips = selection is not None and selection.image is not None
    grid = Grid(blocks=len(traces[0].blocks), students=len(traces), strip=strips)
    layout = layout_of(grid, traces, scale, TITLES[measure])
    rows = list(zip(grid.maps, traces, strict=True))
    # the maps first: who moves by keyboard begins on the first of them
    data = [_map(t, t.error(measure, branch), row, scale) for row, t in rows]
    data[0] |= {"showscale": True, "colorbar": _bar(scale) | grid.bar()}
    data += [_curve(t, t.by_step(measure, branch)) for t in traces]
    data += [_by_block(t, t.by_block(measure, branch), row) for row, t in rows]
    if selection is not None:
        layout["shapes"] = [frame for row, t in rows for frame in _frames(t, selection, row)]
        if strips:
            last = len(grid.heights) - 1
            layout |= _strips(layout, traces, selection, last)
            # plotly draws no axes without a trace on them
            data.append({"type": "scatter", "x": [None], "y": [None], "hoverinfo": "skip"}
                        | {"showlegend": False} | _on(last))  # fmt: skip
    return go.Figure(data=data, layout=layout)


def clicked(point: Mapping[str, Any], students: int) -> dict[str, int]:
    """Say what a click on the figure of so many students chose.

    Parameters
    ----------
    point
        What was clicked: ``curve``, ``x``, ``y``.
    students
        Maps in the figure.

    Returns
    -------
    dict
        Among "student", "block" and "step", what the place tells of: a cell of a map all three, a
        point of a curve two of them, anything else none.
    """
    kind, student = divmod(int(point.get("curve", -1)), students)
    known = {0: ("step", "block"), 1: ("step",), 2: ("block",)}.get(kind, ())
    places = {"step": point.get("x"), "block": point.get("y")}
    found = {n: round(at) for n, at in places.items() if n in known and at is not None}
    return {"student": student, **found} if found else {}


def _on(row: int, *, beside: bool = False) -> dict[str, str]:
    number = name_of(row, beside=beside)
    return {"xaxis": f"x{number}", "yaxis": f"y{number}"}


def _map(trace: Trace, errors: np.ndarray, row: int, scale: tuple[float, float]) -> dict[str, Any]:
    low, high = scale
    hover = [
        [
            f"{name}<br>timestep {timestep}<br>error {error:.4g}"
            for timestep, error in zip(trace.timesteps, line, strict=True)
        ]
        for name, line in zip(trace.blocks, errors, strict=True)
    ]
    return {
        "type": "heatmap",
        # errors below the range, and those that are exactly zero, take its lower end
        "z": np.log10(np.maximum(errors, low)).astype(np.float32),
        "x": np.arange(trace.steps),
        "y": np.arange(len(trace.blocks)),
        "text": hover,
        "hovertemplate": f"<b>{label(trace)}</b><br>%{{text}}<extra></extra>",
        "zmin": math.log10(low),
        "zmax": math.log10(high),
        "colorscale": "Cividis",
        "xgap": 1,
        "ygap": 1,
        "showscale": False,
    } | _on(row)


def _bar(scale: tuple[float, float]) -> dict[str, Any]:
    ticks = log_ticks(*scale)
    return {
        **tick_labels(ticks),
        "tickvals": [math.log10(tick) for tick in ticks],
        "title": {"text": "relative<br>squared<br>error"},
        "outlinewidth": 0,
        "thickness": 14,
    }


def _line(trace: Trace) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": label(trace),
        "line": {
            "color": colour_of(trace.name),
            "width": 2,
            "dash": dash_of(trace.about.true_bits),
        },
        "marker": {"symbol": symbol_of(trace.name), "size": 6},
    }


def _curve(trace: Trace, values: np.ndarray) -> dict[str, Any]:
    return _line(trace) | {
        "x": np.arange(trace.steps),
        "y": _drawable(values),
        "customdata": np.array(trace.timesteps),
        "hovertemplate": "timestep %{customdata}: mean over blocks %{y:.3g}",
    }


def _by_block(trace: Trace, values: np.ndarray, row: int) -> dict[str, Any]:
    return (
        _line(trace)
        | {
            "x": _drawable(values),
            "y": np.arange(len(trace.blocks)),
            "showlegend": False,
            "hovertemplate": "block %{y}, all steps: %{x:.3g}<extra></extra>",
        }
        | _on(row, beside=True)
    )


def _drawable(values: np.ndarray) -> np.ndarray:
    """Leave out zeros: a logarithmic axis has no place for them."""
    return np.where(values > 0, values, np.nan).astype(np.float32)


def _frames(trace: Trace, selection: Selection, row: int) -> list[dict[str, Any]]:
    """Frame the chosen cell, black under white: seen on every colour."""
    trace.check_cell(selection.block, selection.step)
    number = name_of(row)
    box = {
        "type": "rect",
        "xref": f"x{number}",
        "yref": f"y{number}",
        "x0": selection.step - 0.5,
        "x1": selection.step + 0.5,
        "y0": selection.block - 0.5,
        "y1": selection.block + 0.5,
    }
    lines = (("black", 4), ("white", 2))
    return [box | {"line": {"color": colour, "width": width}} for colour, width in lines]


def _strips(
    layout: dict[str, Any], traces: Sequence[Trace], selection: Selection, row: int
) -> dict[str, Any]:
    """Return the pictures under the time axis, and their names beside them."""
    if not 0 <= selection.student < len(traces):
        raise ConfigError(f"student {selection.student}: expected 0 to {len(traces) - 1}")
    trace, image, number = traces[selection.student], selection.image, name_of(row)
    assert image is not None
    check_image(trace, image)
    gain = common_gain(traces)
    pictures = [
        {
            "source": png_uri(strip(trace, image, name, gain=gain), zoom=2),
            "xref": f"x{number}",
            "yref": f"y{number}",
            "x": -0.5,
            "sizex": trace.steps,
            "y": place,
            "sizey": 0.96,
            "yanchor": "middle",
            "sizing": "stretch",
            "layer": "above",
        }
        for place, name in enumerate(ROWS)
    ]
    student = trace.name.removeprefix(f"{trace.about.teacher}-")
    names = ["teacher", plain(student), f"difference × {gain}"]
    labels = {"tickvals": list(range(len(ROWS))), "ticktext": names}
    return {"images": pictures, f"yaxis{number}": layout[f"yaxis{number}"] | labels}
