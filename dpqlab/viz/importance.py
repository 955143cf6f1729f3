"""Codebook importance: the codewords of one scope, where one is used, and what removal does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
import torch
from plotly.colors import sample_colorscale
from plotly.subplots import make_subplots
from torch import Tensor

from dpqlab.core import Measure
from dpqlab.errors import ConfigError, ShapeError
from dpqlab.studies.codewords import (
    MEASURES,
    CodewordStudy,
    CodewordUse,
    Removal,
    subvectors_of,
)
from dpqlab.viz.log_axis import log_axis
from dpqlab.viz.theme import BLUE, GREY, INK, ORANGE, RULE, VERMILION, themed

MEASURE_NAMES: dict[Measure, str] = {
    "usage": "usage",
    "weighted": "weighted usage",
    "removal": "removal cost",
}
MEASURE_COLOURS: dict[Measure, str] = {"usage": BLUE, "weighted": ORANGE, "removal": VERMILION}
MEASURE_SYMBOLS: dict[Measure, str] = {
    "usage": "circle",
    "weighted": "square",
    "removal": "diamond",
}
UNITS: dict[Measure, str] = {
    "usage": "sub-vectors",
    "weighted": "sub-vectors x mean squared input",
    "removal": "rise of the weighted squared error",
}
DASHES = {"at once": "dot", "in rounds": "solid"}
MOST_POINTS = 3000  # sub-vectors that are drawn
SCALE = sample_colorscale("Viridis", [0.2 + 0.075 * i for i in range(11)])
"""Without the darkest tones, which cannot be seen on black, and the lightest."""
LOG: dict[str, Any] = {
    "type": "log",
    "exponentformat": "power",
    "dtick": 1,
    "minor": {"ticks": "inside", "ticklen": 4, "tickcolor": INK, "dtick": "D1"},
}


@dataclass(frozen=True, kw_only=True, eq=False)
class ScopeView:
    """The codewords of one scope, and the sub-vectors that they stand for.

    Attributes
    ----------
    words
        float32 (k, d).
    first
        Number in the pool of the first of them.
    points
        Sub-vectors, float32 (n, d).
    worth
        What every measure says of each codeword, (k,).
    span
        Lowest and highest worth above zero of the whole pool, by measure: one colour range for all
        scopes.
    gone
        Codewords that are marked as removed, bool (k,).
    """

    words: np.ndarray
    first: int
    points: np.ndarray
    worth: Mapping[Measure, np.ndarray]
    span: Mapping[Measure, tuple[float, float]]
    gone: np.ndarray

    def __post_init__(self) -> None:
        """Refuse what does not fit together."""
        count, d = self.words.shape
        lengths = {len(values) for values in (*self.worth.values(), self.gone)}
        if lengths != {count} or self.points.ndim != 2 or self.points.shape[1] != d:
            raise ShapeError(
                f"{count} codewords of {d} values do not fit sub-vectors of shape "
                f"{self.points.shape} and lists of {sorted(lengths)}"
            )


def scope_view(study: CodewordStudy, scope: int, gone: Tensor | None = None) -> ScopeView:
    """Look at one scope of a pool.

    Parameters
    ----------
    study
        The pool.
    scope
        Which: of product quantization, the position.
    gone
        Codewords of the whole pool to mark as removed, bool (P,).

    Raises
    ------
    ConfigError
        If there is no such scope.
    """
    scopes = len(study.pool.sizes)
    if not 0 <= scope < scopes:
        raise ConfigError(f"scope {scope} is not in the pool: expected 0 to {scopes - 1}")
    mine = slice(int(study.pool.base[scope]), int(study.pool.base[scope + 1]))
    marked = torch.zeros(len(study.scope), dtype=torch.bool) if gone is None else gone
    return ScopeView(
        words=study.pool.entries[mine].float().numpy(),
        first=mine.start,
        points=subvectors_of(study, scope)[0],
        worth={m: study.worth[m][mine].numpy() for m in MEASURES},
        span={m: _span(study.worth[m]) for m in MEASURES},
        gone=marked[mine].numpy(),
    )


def _span(worth: Tensor) -> tuple[float, float]:
    """Return the range of what is above zero, without the outermost thousandths."""
    real = worth[(worth > 0) & torch.isfinite(worth)]
    if not len(real):
        return 0.5, 1.0
    low, high = (float(v) for v in real.quantile(torch.tensor([0.001, 0.999]).double()))
    return low, max(high, 1.001 * low)


def codeword_map(
    view: ScopeView, *, measure: Measure = "usage", selected: int | None = None, near: int = 5
) -> go.Figure:
    """Draw the codewords of one scope among their sub-vectors, and measure against measure.

    Left the codewords where they lie: two values are drawn as they are, more by their two principal
    axes. Size and colour tell the importance, crosses are marked as removed, lines lead from the
    selected codeword to its nearest neighbours. Right the same codewords by usage and removal cost.
    Points carry their number in the pool as ``customdata``.

    Parameters
    ----------
    view
        What to draw.
    measure
        Which importance size and colour tell.
    selected
        Number in the pool of the codeword to ring.
    near
        Neighbours to join it with.
    """
    figure = make_subplots(
        cols=2,
        column_widths=[0.56, 0.44],
        horizontal_spacing=0.14,
        subplot_titles=("where they lie", "used often, or hard to replace?"),
    )
    words, points, axes = _plane(view)
    _draw_points(figure, points)
    index = None if selected is None else selected - view.first
    if index is not None and not 0 <= index < len(words):
        index = None
    if index is not None:
        _draw_neighbours(figure, view, words, index, near)
    _draw_words(figure, view, words, measure)
    _draw_measures(figure, view, measure)
    if index is not None:
        _ring(figure, view, words, index)
    themed(figure, title=f"Codewords by {MEASURE_NAMES[measure]}", x="", y="", height=460)
    figure.update_layout(margin_t=84, showlegend=False)
    figure.update_xaxes(title_text=axes[0], col=1)
    figure.update_yaxes(title_text=axes[1], col=1, scaleanchor="x", scaleratio=1)
    figure.update_xaxes(title_text="usage (sub-vectors)", col=2, rangemode="tozero")
    figure.update_yaxes(title_text="removal cost", col=2, **LOG)
    return figure


def _plane(view: ScopeView) -> tuple[np.ndarray, np.ndarray, tuple[str, str]]:
    """Return codewords and points in two dimensions, and what the axes are."""
    step = max(1, -(-len(view.points) // MOST_POINTS))
    points = view.points[::step]
    d = view.words.shape[1]
    if d == 1:
        flat = [np.column_stack([v[:, 0], np.zeros(len(v))]) for v in (view.words, points)]
        return flat[0], flat[1], ("value", "")
    if d == 2:
        return view.words, points, ("first value of the sub-vector", "second value")
    centre = view.points.mean(0)
    _, strength, turn = np.linalg.svd(view.points - centre, full_matrices=False)
    share = strength[:2] ** 2 / (strength**2).sum()
    names = tuple(
        f"{name} principal axis ({part:.0%} of the variance)"
        for name, part in zip(("first", "second"), share, strict=True)
    )
    return (view.words - centre) @ turn[:2].T, (points - centre) @ turn[:2].T, (names[0], names[1])


def _draw_points(figure: go.Figure, points: np.ndarray) -> None:
    figure.add_scatter(
        x=points[:, 0].astype(np.float32),
        y=points[:, 1].astype(np.float32),
        mode="markers",
        marker={"color": GREY, "size": 3, "opacity": 0.5},
        hoverinfo="skip",
        row=1,
        col=1,
    )


def _draw_words(figure: go.Figure, view: ScopeView, words: np.ndarray, measure: Measure) -> None:
    low, high = view.span[measure]
    worth = view.worth[measure]
    log = np.log10(np.clip(worth, low, high))
    place = (log - np.log10(low)) / max(np.log10(high / low), 1e-9)
    decades = np.arange(np.ceil(np.log10(low)), np.floor(np.log10(high)) + 1)
    figure.add_scatter(
        x=words[:, 0].astype(np.float32),
        y=words[:, 1].astype(np.float32),
        mode="markers",
        customdata=view.first + np.arange(len(words)),
        text=_labels(view),
        hovertemplate="%{text}<extra></extra>",
        marker={
            "color": log,
            "cmin": float(np.log10(low)),
            "cmax": float(np.log10(high)),
            "colorscale": SCALE,
            "size": 4 + 7 * place,
            **_looks(view),
            "colorbar": {
                "title": {"text": UNITS[measure], "side": "right", "font": {"size": 12}},
                "tickvals": decades,
                "ticktext": [f"{10.0**e:g}" for e in decades],
                "thickness": 10,
                "outlinewidth": 0,
            },
        },
        row=1,
        col=1,
    )


def _draw_measures(figure: go.Figure, view: ScopeView, measure: Measure) -> None:
    cost = view.worth["removal"]
    low, high = view.span[measure]
    figure.add_scatter(
        x=view.worth["usage"],
        y=np.clip(cost, view.span["removal"][0], None),
        mode="markers",
        customdata=view.first + np.arange(len(cost)),
        text=_labels(view),
        hovertemplate="%{text}<extra></extra>",
        marker={
            "color": np.log10(np.clip(view.worth[measure], low, high)),
            "cmin": float(np.log10(low)),
            "cmax": float(np.log10(high)),
            "colorscale": SCALE,
            "size": 8,
            **_looks(view),
        },
        row=1,
        col=2,
    )


def _looks(view: ScopeView) -> dict[str, Any]:
    """Return how markers look: full circles, and open crosses for what is removed."""
    return {
        "symbol": np.where(view.gone, "x-thin-open", "circle"),
        "opacity": 1,
        "line": {"width": np.where(view.gone, 1.8, 0.0)},
    }


def _draw_neighbours(
    figure: go.Figure, view: ScopeView, words: np.ndarray, index: int, near: int
) -> None:
    far = np.linalg.norm(view.words - view.words[index], axis=1)
    order = [i for i in np.argsort(far, kind="stable") if i != index][:near]
    x, y = [], []
    for other in order:
        x += [words[index, 0], words[other, 0], None]
        y += [words[index, 1], words[other, 1], None]
    figure.add_scatter(
        x=x, y=y, mode="lines", line={"color": VERMILION, "width": 2.5}, hoverinfo="skip",
        row=1, col=1,
    )  # fmt: skip


def _ring(figure: go.Figure, view: ScopeView, words: np.ndarray, index: int) -> None:
    """Ring the selected codeword in both panels."""
    cost = max(float(view.worth["removal"][index]), view.span["removal"][0])
    places = [(words[index, 0], words[index, 1]), (view.worth["usage"][index], cost)]
    for column, (x, y) in enumerate(places, start=1):
        figure.add_scatter(
            x=[x],
            y=[y],
            mode="markers",
            marker={
                "symbol": "circle-open",
                "size": 18,
                "color": VERMILION,
                "line": {"width": 3},
            },
            hoverinfo="skip",
            row=1,
            col=column,
        )


def _labels(view: ScopeView) -> list[str]:
    return [
        f"codeword {view.first + i}"
        + ("<br>marked as removed" if view.gone[i] else "")
        + f"<br>usage {view.worth['usage'][i]:.0f}"
        f"<br>weighted {view.worth['weighted'][i]:.3g}"
        f"<br>removal {view.worth['removal'][i]:.3g}"
        for i in range(len(view.words))
    ]


def codeword_use(use: CodewordUse, blocks: Sequence[str], shape: tuple[int, int]) -> go.Figure:
    """Draw where a codeword is used: a mark for every sub-vector, and how many in each block.

    Parameters
    ----------
    use
        The codeword.
    blocks
        Name of every layer that shares the pool, in the order of ``use.blocks``.
    shape
        Rows and positions of a layer: the fixed range of the axes.
    """
    rows, positions = shape
    one = len(blocks) > 1 and len(set(use.positions.tolist())) <= 1
    figure = make_subplots(
        cols=2, column_widths=[0.78, 0.22], horizontal_spacing=0.04, shared_yaxes=one
    )
    y = use.blocks if one else use.positions
    figure.add_scatter(
        x=use.rows,
        y=y,
        mode="markers",
        marker={
            "symbol": "line-ns" if one else "square",
            "size": 14 if one else 4,
            "color": BLUE,
            "line": {"width": 2 if one else 0, "color": BLUE},
        },
        customdata=np.column_stack([use.blocks, use.positions]),
        hovertemplate=(
            "row %{x}, position %{customdata[1]}, block %{customdata[0]}<extra></extra>"
        ),
        row=1,
        col=1,
    )
    counts = np.bincount(use.blocks, minlength=len(blocks))
    names = [str(i) for i in range(len(blocks))]
    figure.add_bar(
        x=counts,
        y=list(range(len(blocks))),
        orientation="h",
        marker_color=BLUE,
        text=counts,
        textposition="auto",
        textangle=0,
        hovertemplate="block %{y}: %{x} sub-vectors<extra></extra>",
        row=1,
        col=2,
    )
    where = f" at position {use.positions[0]}" if one and len(use.positions) else ""
    themed(
        figure,
        title=f"Codeword {use.entry}: used by {len(use.rows)} sub-vectors{where}",
        x="",
        y="",
        height=90 + 26 * len(blocks) if one else 420,
    )
    figure.update_layout(showlegend=False, margin_t=48)
    ticks: dict[str, Any] = {"tickvals": list(range(len(blocks))), "ticktext": names}
    figure.update_xaxes(title_text="row of the weight", range=[-1, rows], col=1)
    top = max(4, int(counts.max()))
    figure.update_xaxes(title_text="sub-vectors", col=2, range=[0, 1.05 * top], tickformat="d")
    reach = [len(blocks) - 0.4, -0.6]
    if one:
        figure.update_yaxes(title_text="block", range=reach, **ticks, col=1)
        figure.update_yaxes(range=reach, col=2)
    else:
        figure.update_yaxes(title_text="position", range=[positions, -1], col=1)
        figure.update_yaxes(title_text="", range=reach, **ticks, col=2)
    return figure


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
