"""One sub-vector of a real weight row, step by step: split, nearest codeword, code, rebuild."""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go

from dpqlab.core import code_bits
from dpqlab.errors import ConfigError
from dpqlab.studies.layer_coding import LayerCoding
from dpqlab.viz.codec_traces import (
    distance_traces,
    rebuilt_traces,
    row_traces,
    row_window,
    value_traces,
    word_traces,
)
from dpqlab.viz.theme import AXIS, RULE, look, template

STEPS = ("split", "nearest", "code", "rebuild")
STEP_NAMES = {
    "split": "1. split the row",
    "nearest": "2. find the nearest codeword",
    "code": "3. keep its number: the code",
    "rebuild": "4. rebuild the row from codes",
}
_DRAW = {
    "split": value_traces,
    "nearest": word_traces,
    "code": distance_traces,
    "rebuild": rebuilt_traces,
}
LEFT, RIGHT = (0.0, 0.54), (0.64, 1.0)  # of the width: the row, and what happens to its sub-vector


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
    return go.Figure(steps_spec(coding, row=row, position=position, step=step))


def steps_spec(
    coding: LayerCoding, *, row: int = 0, position: int = 0, step: str = "split"
) -> dict[str, Any]:
    """Return :func:`codec_steps` as plotly's JSON with numpy arrays, which nothing has checked.

    It takes 1 ms, a checked figure 40 ms: too long for what follows a slider.
    """
    if step not in STEPS:
        raise ConfigError(f"no step {step!r}: expected one of {', '.join(STEPS)}")
    coding.subvector(row, position)
    right = ({**one, "xaxis": "x2", "yaxis": "y2"} for one in _DRAW[step](coding, row, position))
    left = row_traces(coding, row, position, rebuilt=step == "rebuild")
    return {"data": [*left, *right], "layout": _layout(coding, row, position, step)}


def span_of(coding: LayerCoding) -> float:
    """Return the largest weight but for one in a thousand: the one scale of all pictures."""
    values = np.abs(coding.weight.numpy()).ravel()
    return float(np.quantile(values[:: max(1, values.size // 200_000)], 0.999)) or 1.0


def _spelled(coding: LayerCoding, code: int) -> str:
    """Write a code out in as many bits as codes of the layer take."""
    width = code_bits(max(2, max(coding.pool.sizes)))
    return f"code {code} = <b>{code:0{width}b}</b>: {width} bit" + "s" * (width > 1)


def _layout(coding: LayerCoding, row: int, position: int, step: str) -> dict[str, Any]:
    """Return the look and the axes; both panels of weights have the same range, that of the row."""
    d, window = coding.codec.d, row_window(coding, position)
    edge = 1.15 * float(coding.weight[row].abs().max()) or 1.0
    weights = {"range": [-edge, edge], "zeroline": True, "zerolinecolor": RULE}
    borders = {"tick0": -0.5, "dtick": d, "showgrid": True, "gridcolor": RULE, "ticks": ""}
    along = {"range": [0.4, d + 0.6], "dtick": 1, "showgrid": False}
    names = ("number within the sub-vector", "weight", along, weights)
    if step == "code":
        names = ("codeword", "squared distance", {}, {"rangemode": "tozero"})
    across = {"showgrid": False, "minor": borders, "range": [window.start * d - 1, window.stop * d]}
    titles = (
        f"row {row} of {coding.kind}, block {coding.block}",
        _heading(coding, row, position, step),
    )
    base = look(title=f"{STEP_NAMES[step]} · {coding.codec.describe()}", height=360)
    return base | {
        "template": template(),
        "margin": base["margin"] | {"t": 76},
        "annotations": [_over(*panel) for panel in zip((LEFT, RIGHT), titles, strict=True)],
        "bargap": 0.15,
        "barmode": "overlay",
        "showlegend": True,
        "xaxis": _axis("column of the matrix", "y", across | {"domain": LEFT}),
        "yaxis": _axis("weight", "x", weights | {"domain": (0.0, 1.0)}),
        "xaxis2": _axis(names[0], "y2", names[2] | {"domain": RIGHT}),
        "yaxis2": _axis(names[1], "x2", names[3] | {"domain": (0.0, 1.0)}),
    }


def _heading(coding: LayerCoding, row: int, position: int, step: str) -> str:
    """Say what the right panel shows."""
    return {
        "split": f"sub-vector {position}: {coding.codec.d} weights",
        "nearest": f"the {len(coding.codebook(position))} codewords it may use",
        "code": _spelled(coding, int(coding.codes[row, position])),
        "rebuild": "before, and rebuilt",
    }[step]


def _axis(title: str, anchor: str, more: dict[str, Any]) -> dict[str, Any]:
    return AXIS | {"title": AXIS["title"] | {"text": title}, "anchor": anchor} | more


def _over(domain: tuple[float, float], text: str) -> dict[str, Any]:
    """Return the title of a panel."""
    return {
        "text": text,
        "font": {"size": 13},
        "showarrow": False,
        "x": sum(domain) / 2,
        "xref": "paper",
        "xanchor": "center",
        "y": 1.0,
        "yref": "paper",
        "yanchor": "bottom",
    }
