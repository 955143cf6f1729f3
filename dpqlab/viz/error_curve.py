"""Errors over the sampling steps at equal true bits, and how one cell's errors are spread."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import numpy as np
import plotly.graph_objects as go

from dpqlab.errors import ConfigError
from dpqlab.tracing import EDGES, Measure, Trace
from dpqlab.viz.log_axis import log_ticks, tick_labels
from dpqlab.viz.theme import themed
from dpqlab.viz.trace_scale import (
    NAMES,
    check_alike,
    colour_of,
    label,
    symbol_of,
)

Quantity = Literal["blocks", "noise", "latent", "image"]
EQUAL_BITS = 1.02
"""True bits whose ratio is at most this count as equal."""

AXES: dict[Quantity, str] = {
    "blocks": "relative squared error",
    "noise": "relative squared error",
    "latent": "relative squared error",
    "image": "mean squared error, pixels 0 to 1",
}
TITLES: dict[Quantity, str] = {
    "blocks": "Error of the blocks' outputs, mean over blocks",
    "noise": "Error of the predicted noise",
    "latent": "Distance of the noisy image from the teacher's",
    "image": "Distance of the expected image from the teacher's",
}
DASHES: dict[Measure, str] = {"accumulated": "solid", "pass": "dash", "local": "dot"}


def check_equal_bits(traces: Sequence[Trace]) -> None:
    """Raise ConfigError unless all true bits lie within two percent of each other."""
    bits = {trace.name: trace.about.true_bits for trace in traces}
    if max(bits.values()) > EQUAL_BITS * min(bits.values()):
        told = ", ".join(f"{name} {value:.3f}" for name, value in bits.items())
        raise ConfigError(
            f"true bits are {told}: they differ by more than 2 %; expected students that store "
            "as much as each other, or the comparison says nothing about the codecs"
        )


def error_curve(
    traces: Sequence[Trace],
    *,
    quantity: Quantity = "blocks",
    measures: Sequence[Measure] = ("accumulated", "pass"),
    branch: str | None = None,
) -> go.Figure:
    """Draw the error of students at equal true bits over the sampling steps.

    Parameters
    ----------
    traces
        Of students of one teacher, true bits within 2 % of each other.
    quantity
        "blocks": the mean over blocks; "noise": what the model predicts; "latent": the noisy image
        after the step; "image": the image that the model expects at the end.
    measures
        Lines of "blocks" and "noise": solid where the student draws its own image, dashed where it
        is given the teacher's at every step, dotted where every block is. The other quantities
        exist for the student's own image alone.
    branch
        Of guidance, for "blocks" and "noise"; None: all together.

    Raises
    ------
    ConfigError
        If true bits, blocks or steps differ.
    """
    check_alike(traces)
    check_equal_bits(traces)
    if quantity not in get_args(Quantity):
        raise ConfigError(f"quantity is {quantity!r}: expected one of {get_args(Quantity)}")
    figure = go.Figure()
    drawn: list[np.ndarray] = []
    for trace in traces:
        for measure, values in lines_of(trace, quantity, measures, branch).items():
            _line(figure, trace, measure, values)
            drawn.append(values[values > 0])
    themed(figure, title=TITLES[quantity], x="timestep; sampling goes from left to right",
           y=AXES[quantity], height=400)  # fmt: skip
    first = traces[0]
    every = max(1, round(first.steps / 10))
    figure.update_xaxes(
        tickvals=list(range(0, first.steps, every)),
        ticktext=[str(t) for t in first.timesteps[::every]],
    )
    positive = np.concatenate(drawn)
    low, high = (positive.min(), positive.max()) if len(positive) else (1e-4, 1.0)
    figure.update_yaxes(type="log", **tick_labels(log_ticks(low / 1.5, high * 1.5)))
    return figure


def lines_of(
    trace: Trace, quantity: Quantity, measures: Sequence[Measure], branch: str | None = None
) -> dict[Measure, np.ndarray]:
    """Return what :func:`error_curve` draws of a trace: an array (S,) by measure."""
    own: dict[Quantity, Callable[[], np.ndarray]] = {
        "latent": trace.latent_error,
        "image": trace.picture_error,
    }
    if quantity in own:
        return {"accumulated": own[quantity]()}
    if quantity == "noise":
        return {m: trace.output_error(m, branch) for m in measures if m != "local"}
    return {m: trace.by_step(m, branch) for m in measures}


def _line(figure: go.Figure, trace: Trace, measure: Measure, values: np.ndarray) -> None:
    own = measure == "accumulated"
    name = label(trace) if own else f"{label(trace)}, {NAMES[measure]}"
    figure.add_scatter(
        x=np.arange(trace.steps, dtype=np.float32),
        y=np.where(values > 0, values, np.nan).astype(np.float32),
        customdata=np.array(trace.timesteps, dtype=np.float32),
        name=name,
        mode="lines+markers" if own else "lines",
        line={"color": colour_of(trace.name), "dash": DASHES[measure], "width": 2 if own else 1.5},
        marker={"symbol": symbol_of(trace.name), "size": 7},
        hovertemplate=f"{name}<br>timestep %{{customdata}}: %{{y:.3g}}<extra></extra>",
    )


def cell_distribution(
    traces: Sequence[Trace],
    *,
    block: int,
    step: int,
    measures: Sequence[Measure] = ("local", "accumulated"),
    branch: str | None = None,
) -> go.Figure:
    """Draw how the errors of one block at one step are spread over tokens.

    Parameters
    ----------
    traces
        Of students of one teacher; one colour each.
    block, step
        The cell.
    measures
        Solid where accumulated, dashed within one pass, dotted where local.
    branch
        Of guidance; None: all together.

    Raises
    ------
    ConfigError
        If there is no such cell.
    """
    check_alike(traces)
    figure = go.Figure()
    middles = np.sqrt(EDGES[:-1] * EDGES[1:])
    ends = np.concatenate([[middles[0] / 1.5], middles, [middles[-1] * 1.5]])
    seen = np.zeros(len(ends), dtype=bool)
    for trace in traces:
        for measure in measures:
            counts = trace.distribution(measure, block, step, branch)
            seen |= counts > 0
            figure.add_scatter(
                x=ends.astype(np.float32),
                y=(100 * counts / max(1, counts.sum())).astype(np.float32),
                name=label(trace),
                # a line of the legend for each student is enough: the axis explains the dashes
                showlegend=measure == measures[-1],
                legendgroup=trace.name,
                mode="lines",
                line={
                    "color": colour_of(trace.name),
                    "dash": DASHES[measure],
                    "width": 2,
                    "shape": "hvh",
                },
                hovertemplate=f"{label(trace)}, {NAMES[measure]}<br>"
                "error about %{x:.2g}: %{y:.1f} % of the tokens<extra></extra>",
            )
    first = traces[0]
    dashes = ", ".join(f"{DASHES[m].replace('dot', 'dotted')}: {NAMES[m]}" for m in measures)
    themed(
        figure,
        title=f"Block {block} at timestep {first.timesteps[step]}: tokens by their error",
        x=f"relative squared error of a token ({dashes})",
        y="share of tokens (%)",
        height=320,
    )
    places = np.flatnonzero(seen)
    low, high = ends[max(0, places[0] - 1)], ends[min(len(ends) - 1, places[-1] + 1)]
    figure.update_xaxes(
        type="log", range=[np.log10(low), np.log10(high)], exponentformat="power", dtick=1
    )
    figure.update_yaxes(rangemode="tozero")
    return figure
