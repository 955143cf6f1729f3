"""The traces of :mod:`dpqlab.viz.codec_steps`: a piece of a row, and the steps of one sub-vector.

They are plotly's JSON with numpy arrays: a layer is drawn anew at every move of a slider, and to
make checked figures takes 50 times as long.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from dpqlab.studies.layer_coding import LayerCoding
from dpqlab.viz.theme import BLUE, GREY, ORANGE

WINDOW = 48  # weights of the row that are drawn
MOST_WORDS = 1024  # codewords that are drawn
PALE = "rgba(138, 138, 138, 0.45)"
FAINT = "rgba(138, 138, 138, 0.6)"

Trace = dict[str, Any]


def row_window(coding: LayerCoding, position: int) -> range:
    """Return the positions that the row's piece shows: pages, so that it stands still."""
    count = max(1, WINDOW // coding.codec.d)
    first = position // count * count
    return range(first, min(first + count, coding.positions))


def row_traces(coding: LayerCoding, row: int, position: int, *, rebuilt: bool) -> Iterator[Trace]:
    """Return the piece of the row, with what its codes rebuild if wanted."""
    d, window = coding.codec.d, row_window(coding, position)
    stop = min(window.stop * d, coding.weight.shape[1])
    columns = np.arange(window.start * d, stop)
    places = columns // d
    colours = np.where(places == position, BLUE, np.where(places % 2, PALE, GREY))
    yield {
        "type": "bar",
        "x": columns,
        "y": coding.weight[row, columns[0] : stop].numpy(),
        "marker": {"color": colours.tolist()},
        "customdata": places,
        "name": "weight",
        "showlegend": False,
        "hovertemplate": "weight %{x}: %{y:.4f}<br>sub-vector %{customdata}<extra></extra>",
    }
    if rebuilt:
        line = {"width": 2.5, "color": ORANGE}
        yield {
            "type": "scatter",
            "x": columns,
            "y": coding.rebuilt[row, columns[0] : stop].numpy(),
            "mode": "markers",
            "marker": {"color": ORANGE, "symbol": "line-ew", "size": 9, "line": line},
            "customdata": coding.codes[row, places].numpy(),
            "name": "rebuilt",
            "hovertemplate": "rebuilt %{y:.4f}<br>code %{customdata}<extra></extra>",
            "showlegend": False,
        }


def value_traces(coding: LayerCoding, row: int, position: int) -> Iterator[Trace]:
    """Return the weights of the sub-vector."""
    values = coding.subvector(row, position).numpy()
    text = {"text": [f"{value:.3f}" for value in values]} if len(values) <= 8 else {}
    yield {
        "type": "bar",
        "x": _ordinals(coding),
        "y": values,
        "marker": {"color": BLUE},
        **text,
        "textposition": "outside",
        "cliponaxis": False,
        "name": "weights",
        "hovertemplate": "%{y:.4f}<extra></extra>",
    }


def word_traces(coding: LayerCoding, row: int, position: int) -> Iterator[Trace]:
    """Return the codewords it may use, and the nearest of them."""
    words = (coding.codebook(position) * coding.scale[row]).numpy()
    x = _ordinals(coding)
    every = words[:: -(-len(words) // MOST_WORDS)]
    gap = np.full((len(every), 1), np.nan)
    yield {
        "type": "scatter",
        "x": [*x, None] * len(every),
        "y": np.concatenate([every, gap], 1).ravel(),
        "mode": "lines+markers" if len(x) == 1 else "lines",
        "line": {"color": FAINT, "width": 1},
        "name": "codewords",
        "hoverinfo": "skip",
    }
    yield from _pair(coding, row, position, "nearest")


def rebuilt_traces(coding: LayerCoding, row: int, position: int) -> Iterator[Trace]:
    """Return the sub-vector, what its code stands for, and the difference."""
    theirs = coding.subvector(row, position).numpy()
    mine = coding.replacement(row, position).numpy()
    yield {
        "type": "bar",
        "x": _ordinals(coding),
        "y": mine - theirs,
        "marker": {"color": GREY},
        "name": "error",
        "hovertemplate": "error %{y:.4f}<extra></extra>",
    }
    yield from _pair(coding, row, position, "rebuilt")


def _pair(coding: LayerCoding, row: int, position: int, name: str) -> Iterator[Trace]:
    """Draw the sub-vector and what its code stands for as two lines."""
    pairs: tuple[tuple[str, Any, str, str], ...] = (
        ("sub-vector", coding.subvector(row, position), BLUE, "circle"),
        (name, coding.replacement(row, position), ORANGE, "diamond"),
    )
    for label, values, colour, symbol in pairs:
        yield {
            "type": "scatter",
            "x": _ordinals(coding),
            "y": values.numpy(),
            "mode": "lines+markers",
            "line": {"color": colour, "width": 3},
            "marker": {"size": 9, "symbol": symbol},
            "name": label,
            "hovertemplate": f"{label} %{{y:.4f}}<extra></extra>",
        }


def distance_traces(coding: LayerCoding, row: int, position: int) -> Iterator[Trace]:
    """Return the distance to every codeword."""
    distances = coding.distances(row, position).numpy()
    code = int(coding.codes[row, position])
    yield {
        "type": "scatter",
        "x": np.arange(len(distances)),
        "y": distances,
        "mode": "markers",
        "marker": {"color": GREY, "size": 5},
        "name": "codewords",
        "hovertemplate": "codeword %{x}: %{y:.4g}<extra></extra>",
    }
    yield {
        "type": "scatter",
        "x": [code],
        "y": [float(distances[code])],
        "mode": "markers",
        "marker": {"color": ORANGE, "size": 12, "symbol": "diamond"},
        "name": "nearest",
        "hovertemplate": "code %{x}: %{y:.4g}<extra></extra>",
    }


def _ordinals(coding: LayerCoding) -> list[int]:
    return list(range(1, coding.codec.d + 1))
