"""One sub-vector of a real weight row, step by step: split, nearest codeword, code, rebuild."""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from dpqlab.core import code_bits
from dpqlab.errors import ConfigError
from dpqlab.studies.layer_coding import LayerCoding
from dpqlab.viz.theme import BLUE, GREY, ORANGE, RULE, themed

STEPS = ("split", "nearest", "code", "rebuild")
STEP_NAMES = {
    "split": "1. split the row",
    "nearest": "2. find the nearest codeword",
    "code": "3. keep its number: the code",
    "rebuild": "4. rebuild the row from codes",
}
WINDOW = 48  # weights of the row that are drawn
MOST_WORDS = 1024  # codewords that are drawn
PALE = "rgba(138, 138, 138, 0.45)"
FAINT = "rgba(138, 138, 138, 0.6)"


def codec_steps(
    coding: LayerCoding, *, row: int = 0, position: int = 0, step: str = "split"
) -> go.Figure:
    """Draw a piece of a row on the left, and on the right what happens to one sub-vector.

    Parameters
    ----------
    coding
        A coded layer.
    row, position
        The sub-vector.
    step
        One of ``STEPS``.

    Raises
    ------
    ConfigError
        If there is no such step or sub-vector.
    """
    if step not in STEPS:
        raise ConfigError(f"no step {step!r}: expected one of {', '.join(STEPS)}")
    coding.subvector(row, position)
    titles = {
        "split": f"sub-vector {position}: {coding.codec.d} weights",
        "nearest": f"the {len(coding.codebook(position))} codewords it may use",
        "code": _spelled(coding, int(coding.codes[row, position])),
        "rebuild": "before, and rebuilt",
    }
    figure = make_subplots(
        cols=2,
        column_widths=[0.6, 0.4],
        horizontal_spacing=0.1,
        subplot_titles=[f"row {row} of {coding.kind}, block {coding.block}", titles[step]],
    )
    _draw_row(figure, coding, row, position, rebuilt=step == "rebuild")
    draw = {"split": _draw_values, "nearest": _draw_words, "code": _draw_distances}
    draw.get(step, _draw_rebuilt)(figure, coding, row, position)
    title = f"{STEP_NAMES[step]} · {coding.codec.describe()}"
    themed(figure, title=title, x="", y="", height=360)
    _axes(figure, coding, row, row_window(coding, position), step)
    return figure


def row_window(coding: LayerCoding, position: int) -> range:
    """Return the positions that the row's piece shows: pages, so that it stands still."""
    count = max(1, WINDOW // coding.codec.d)
    first = position // count * count
    return range(first, min(first + count, coding.positions))


def span_of(coding: LayerCoding) -> float:
    """Return the largest weight but for one in a thousand: the one scale of all pictures."""
    values = np.abs(coding.weight.numpy()).ravel()
    return float(np.quantile(values[:: max(1, values.size // 200_000)], 0.999)) or 1.0


def _draw_row(
    figure: go.Figure, coding: LayerCoding, row: int, position: int, *, rebuilt: bool
) -> None:
    d, window = coding.codec.d, row_window(coding, position)
    stop = min(window.stop * d, coding.weight.shape[1])
    columns = np.arange(window.start * d, stop)
    places = columns // d
    colours = np.where(places == position, BLUE, np.where(places % 2, PALE, GREY))
    figure.add_bar(
        x=columns,
        y=coding.weight[row, columns[0] : stop].numpy(),
        marker_color=colours.tolist(),
        customdata=places,
        name="weight",
        showlegend=False,
        hovertemplate="weight %{x}: %{y:.4f}<br>sub-vector %{customdata}<extra></extra>",
    )
    if rebuilt:
        figure.add_scatter(
            x=columns,
            y=coding.rebuilt[row, columns[0] : stop].numpy(),
            mode="markers",
            marker={"color": ORANGE, "symbol": "line-ew", "size": 9, "line_width": 2.5,
                    "line_color": ORANGE},
            customdata=coding.codes[row, places].numpy(),
            name="rebuilt",
            hovertemplate="rebuilt %{y:.4f}<br>code %{customdata}<extra></extra>",
            showlegend=False,
        )  # fmt: skip


def _draw_values(figure: go.Figure, coding: LayerCoding, row: int, position: int) -> None:
    values = coding.subvector(row, position).numpy()
    figure.add_bar(
        x=_ordinals(coding),
        y=values,
        marker_color=BLUE,
        text=[f"{value:.3f}" for value in values] if len(values) <= 8 else None,
        textposition="outside",
        cliponaxis=False,
        name="weights",
        hovertemplate="%{y:.4f}<extra></extra>",
        xaxis="x2",
        yaxis="y2",
    )


def _draw_words(figure: go.Figure, coding: LayerCoding, row: int, position: int) -> None:
    words = (coding.codebook(position) * coding.scale[row]).numpy()
    x = _ordinals(coding)
    every = words[:: -(-len(words) // MOST_WORDS)]
    gap = np.full((len(every), 1), np.nan)
    figure.add_scatter(
        x=[*x, None] * len(every),
        y=np.concatenate([every, gap], 1).ravel(),
        mode="lines+markers" if len(x) == 1 else "lines",
        line={"color": FAINT, "width": 1},
        name="codewords",
        hoverinfo="skip",
        xaxis="x2",
        yaxis="y2",
    )
    _draw_pair(figure, coding, row, position, "nearest")


def _draw_rebuilt(figure: go.Figure, coding: LayerCoding, row: int, position: int) -> None:
    theirs = coding.subvector(row, position).numpy()
    mine = coding.replacement(row, position).numpy()
    figure.add_bar(
        x=_ordinals(coding),
        y=mine - theirs,
        marker_color=GREY,
        name="error",
        hovertemplate="error %{y:.4f}<extra></extra>",
        xaxis="x2",
        yaxis="y2",
    )
    _draw_pair(figure, coding, row, position, "rebuilt")


def _draw_pair(figure: go.Figure, coding: LayerCoding, row: int, position: int, name: str) -> None:
    """Draw the sub-vector and what its code stands for as two lines."""
    pairs: tuple[tuple[str, Any, str, str], ...] = (
        ("sub-vector", coding.subvector(row, position), BLUE, "circle"),
        (name, coding.replacement(row, position), ORANGE, "diamond"),
    )
    for label, values, colour, symbol in pairs:
        figure.add_scatter(
            x=_ordinals(coding),
            y=values.numpy(),
            mode="lines+markers",
            line={"color": colour, "width": 3},
            marker={"size": 9, "symbol": symbol},
            name=label,
            hovertemplate=f"{label} %{{y:.4f}}<extra></extra>",
            xaxis="x2",
            yaxis="y2",
        )


def _draw_distances(figure: go.Figure, coding: LayerCoding, row: int, position: int) -> None:
    distances = coding.distances(row, position).numpy()
    code = int(coding.codes[row, position])
    figure.add_scatter(
        x=np.arange(len(distances)),
        y=distances,
        mode="markers",
        marker={"color": GREY, "size": 5},
        name="codewords",
        hovertemplate="codeword %{x}: %{y:.4g}<extra></extra>",
        xaxis="x2",
        yaxis="y2",
    )
    figure.add_scatter(
        x=[code],
        y=[distances[code]],
        mode="markers",
        marker={"color": ORANGE, "size": 12, "symbol": "diamond"},
        name="nearest",
        hovertemplate="code %{x}: %{y:.4g}<extra></extra>",
        xaxis="x2",
        yaxis="y2",
    )


def _spelled(coding: LayerCoding, code: int) -> str:
    """Write a code out in as many bits as codes of the layer take."""
    width = code_bits(max(2, max(coding.pool.sizes)))
    return f"code {code} = <b>{code:0{width}b}</b>: {width} bit" + "s" * (width > 1)


def _ordinals(coding: LayerCoding) -> list[int]:
    return list(range(1, coding.codec.d + 1))


def _axes(figure: go.Figure, coding: LayerCoding, row: int, window: range, step: str) -> None:
    """Name the axes; both panels of weights have the same range, that of the row."""
    d = coding.codec.d
    edge = 1.15 * float(coding.weight[row].abs().max()) or 1.0
    weights = {"range": [-edge, edge], "zeroline": True, "zerolinecolor": RULE}
    borders = {"tick0": -0.5, "dtick": d, "showgrid": True, "gridcolor": RULE, "ticks": ""}
    along = {"title_text": "number within the sub-vector", "range": [0.4, d + 0.6], "dtick": 1}
    right = (
        ({"title_text": "codeword"}, {"title_text": "squared distance", "rangemode": "tozero"})
        if step == "code"
        else (along | {"showgrid": False}, {"title_text": "weight"} | weights)
    )
    figure.update_annotations(font_size=13)
    figure.update_layout(
        margin_t=76,
        bargap=0.15,
        barmode="overlay",
        showlegend=True,
        xaxis={
            "title_text": "column of the matrix",
            "showgrid": False,
            "minor": borders,
            "range": [window.start * d - 1, window.stop * d],
        },
        yaxis={"title_text": "weight"} | weights,
        xaxis2=right[0],
        yaxis2=right[1],
    )
