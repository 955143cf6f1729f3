"""Where the parts of an error map stand: a curve, the maps with their margins, a strip of images.

The layout is written as one dict: going through plotly's update functions axis by axis takes longer
than drawing the figure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from dpqlab.tracing import Trace
from dpqlab.viz.log_axis import log_ticks, tick_labels
from dpqlab.viz.theme import themed
from dpqlab.viz.trace_pictures import ROWS
from dpqlab.viz.trace_scale import label

COLUMN, BESIDE = 0.815, 0.845  # where the maps end, and their margins begin: shares of the width
GAP = 30  # px between rows
TOP, BOTTOM = 72, 52  # px above and below the rows
STEP_MARGIN = 110  # px of the curve over steps
STRIP = 44  # px of one row of pictures
LOWEST_BAR = 190  # px of the bar of colours


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Rows of a figure: the curve, a map for each student, the strip if there is one.

    Parameters
    ----------
    blocks, students
        Rows of a map; maps.
    strip
        Whether pictures stand below.
    """

    blocks: int
    students: int
    strip: bool

    @property
    def heights(self) -> list[int]:
        """Height of every row in px."""
        of_map = self.blocks * (18 if self.blocks <= 12 else 9)
        strip = [STRIP * len(ROWS)] if self.strip else []
        return [STEP_MARGIN, *[of_map] * self.students, *strip]

    @property
    def total(self) -> int:
        """Height of all rows with the gaps between them in px."""
        return sum(self.heights) + GAP * (len(self.heights) - 1)

    def domain(self, row: int) -> list[float]:
        """Return bottom and top of a row, counted from 0, as shares of the height."""
        above = sum(self.heights[:row]) + GAP * row
        return [1 - (above + self.heights[row]) / self.total, 1 - above / self.total]

    @property
    def maps(self) -> range:
        """The rows of the maps."""
        return range(1, 1 + self.students)

    def bar(self) -> dict[str, Any]:
        """Return where the bar of colours stands: beside the maps that it belongs to."""
        top, bottom = self.domain(1)[1], self.domain(self.students)[0]
        length = max(top - bottom, LOWEST_BAR / self.total)
        return {"y": top, "yanchor": "top", "len": length, "x": 1.01}


def name_of(row: int, *, beside: bool = False) -> str:
    """Return the number that plotly gives the axes of a row: "" for the first, then "2", ..."""
    number = 2 * row + 1 + beside
    return "" if number == 1 else str(number)


def layout_of(
    grid: Grid, traces: Sequence[Trace], scale: tuple[float, float], title: str
) -> dict[str, Any]:
    """Return the layout of a figure: look, axes, and a heading above each map.

    Parameters
    ----------
    grid
        Its rows.
    traces
        Of the maps.
    scale
        Lowest and highest error.
    title
        Of the figure.
    """
    bare = go.Figure(layout={"xaxis": {}, "yaxis": {}})
    height = grid.total + TOP + BOTTOM
    figure: Any = themed(bare, title=title, x="", y="", height=height)
    layout: dict[str, Any] = figure.layout.to_plotly_json()
    look = layout.pop("xaxis")
    del layout["yaxis"]
    layout |= {
        "dragmode": False,
        "margin": {"l": 8, "r": 8, "t": TOP, "b": BOTTOM},
        "legend": {"orientation": "h", "x": 0, "y": 1.0, "yanchor": "bottom", "yref": "paper"},
        "title": layout["title"]
        | {"y": 1, "yref": "container", "yanchor": "top", "pad": {"t": 12}},
        "annotations": [_heading(trace, row) for trace, row in zip(traces, grid.maps, strict=True)],
    }
    for name, axis in (_time_axes(grid, traces[0]) | _error_axes(grid, traces[0], scale)).items():
        letter, number = name[0], name[1:]
        layout[f"{letter}axis{number}"] = look | axis
    return layout


def _time_axes(grid: Grid, first: Trace) -> dict[str, dict[str, Any]]:
    """Return the axes of the left column that show steps, and those that show blocks or rows."""
    steps = list(range(0, first.steps, max(1, round(first.steps / 10))))
    blocks = list(range(0, len(first.blocks), max(1, len(first.blocks) // 14)))
    axes: dict[str, dict[str, Any]] = {}
    rows = len(grid.heights)
    for row in range(rows):
        number = name_of(row)
        axes[f"x{number}"] = {
            "anchor": f"y{number}",
            "domain": [0, COLUMN],
            "range": [-0.5, first.steps - 0.5],
            "tickvals": steps,
            "ticktext": [str(first.timesteps[step]) for step in steps],
            "showticklabels": row == grid.students,
            "showgrid": False,
            "title": {
                "text": "timestep; sampling goes from left to right" if row == rows - 1 else "",
                "font": {"size": 13},
            },
        }
        axes[f"y{number}"] = {
            "anchor": f"x{number}",
            "domain": grid.domain(row),
            "range": [len(first.blocks) - 0.5, -0.5],
            "tickvals": blocks,
            "showgrid": False,
            "title": {"text": "block", "font": {"size": 13}},
        }
    if grid.strip:
        axes[f"y{name_of(rows - 1)}"] |= {"range": [len(ROWS) - 0.5, -0.5], "title": {"text": ""}}
    return axes


def _error_axes(grid: Grid, first: Trace, scale: tuple[float, float]) -> dict[str, dict[str, Any]]:
    """Return the axes that show errors, with those beside the maps."""
    low, high = (math.log10(end) for end in scale)
    room = 0.06 * (high - low) + 0.02
    ticks = log_ticks(*scale)
    errors = {"type": "log", "range": [low - room, high + room]}
    axes: dict[str, dict[str, Any]] = {
        "y": errors
        | {
            "anchor": "x",
            "domain": grid.domain(0),
            **tick_labels(ticks),
            "title": {"text": "mean over<br>blocks", "font": {"size": 13}},
        }
    }
    few = ticks[:: max(1, math.ceil(len(ticks) / 3))]
    for row in grid.maps:
        number, last = name_of(row, beside=True), row == grid.students
        axes[f"x{number}"] = errors | {
            "anchor": f"y{number}",
            "domain": [BESIDE, 1],
            "tickvals": few,
            "ticktext": [f"{tick:g}" for tick in few] if last else [""] * len(few),
            "title": {"text": "all steps" if last else "", "font": {"size": 13}},
        }
        axes[f"y{number}"] = {
            "anchor": f"x{number}",
            "domain": grid.domain(row),
            "range": [len(first.blocks) - 0.5, -0.5],
            "showticklabels": False,
            "title": {"text": ""},
        }
    return axes


def _heading(trace: Trace, row: int) -> dict[str, Any]:
    number = name_of(row)
    return {
        "text": f"<b>{label(trace)}</b>",
        "x": 0,
        "xref": f"x{number} domain",
        "y": 1,
        "yref": f"y{number} domain",
        "xanchor": "left",
        "yanchor": "bottom",
        "showarrow": False,
    }
