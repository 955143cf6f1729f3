"""Where the bytes of compressed models go."""

from __future__ import annotations

from collections.abc import Mapping

import plotly.graph_objects as go

from dpqlab.core.ledger import ModelLedger
from dpqlab.errors import ConfigError
from dpqlab.evaluation.sizes import ledger_parts
from dpqlab.viz.theme import PARTS, themed

BITS_PER_MB = 8e6


def ledger_bars(ledgers: Mapping[str, ModelLedger], *, title: str = "") -> go.Figure:
    """Draw one stacked bar a model, in megabytes by part, the first model on top.

    Parameters
    ----------
    ledgers
        Ledgers by the name to show.

    Raises
    ------
    ConfigError
        If there are none.
    """
    if not ledgers:
        raise ConfigError("no ledgers to draw: expected at least one")
    names = list(ledgers)
    parts = {name: ledger_parts(ledger) for name, ledger in ledgers.items()}
    figure = go.Figure()
    for part, (colour, label) in PARTS.items():
        bits = [parts[name][part] for name in names]
        if not any(bits):
            continue
        figure.add_bar(
            y=names,
            x=[value / BITS_PER_MB for value in bits],
            customdata=[
                value / max(1, ledgers[n].compressed_weights)
                for n, value in zip(names, bits, strict=True)
            ],
            name=label,
            orientation="h",
            marker={"color": colour, "line_width": 0},
            hovertemplate=f"%{{y}}, {label}<br>%{{x:.3f}} MB, %{{customdata:.3f}} bits a weight"
            "<extra></extra>",
        )
    for name, ledger in ledgers.items():
        size = ledger.stored_bytes / 1e6
        figure.add_annotation(
            x=size, y=name, text=f"{size:.2f}", showarrow=False, xanchor="left", xshift=4
        )
    figure.update_layout(barmode="stack", bargap=0.35, legend_traceorder="normal")
    themed(
        figure,
        title=title or "What is stored",
        x="megabytes (10⁶ bytes)",
        y="",
        height=150 + 34 * len(names),
    )
    figure.update_yaxes(autorange="reversed", showgrid=False)
    return figure
