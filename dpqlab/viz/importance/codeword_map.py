"""The codewords of one scope where they lie, and how the measures see them."""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.colors import sample_colorscale
from plotly.subplots import make_subplots

from dpqlab.core import Measure
from dpqlab.viz.importance.measures import LOG, MEASURE_NAMES, UNITS
from dpqlab.viz.importance.scope_view import ScopeView
from dpqlab.viz.theme import GREY, VERMILION, themed

MOST_POINTS = 3000  # sub-vectors that are drawn
SCALE = sample_colorscale("Viridis", [0.2 + 0.075 * i for i in range(11)])
"""Without the darkest tones, which cannot be seen on black, and the lightest."""


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
