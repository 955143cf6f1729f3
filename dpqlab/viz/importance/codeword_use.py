"""Where one codeword is used: rows, positions and blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from dpqlab.studies.codeword_use import CodewordUse
from dpqlab.viz.theme import BLUE, themed


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
