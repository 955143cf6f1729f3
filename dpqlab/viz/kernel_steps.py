"""What a kernel does with one row of codes: bits, codes, codewords, and two ways to a product."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
import torch
from numpy.typing import NDArray
from plotly.subplots import make_subplots
from torch import Tensor

from dpqlab.errors import ShapeError
from dpqlab.kernels.coded import CodedWeight
from dpqlab.viz.colours import SIGNED
from dpqlab.viz.theme import BLUE, GREEN, GREY, INK, ORANGE, PURPLE, RULE, themed

COLOURS = (BLUE, ORANGE, GREEN, PURPLE)  # of neighbouring positions, in turns
MOST = 6  # positions; more cannot be told apart
Values = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, eq=False)
class RowSteps:
    """The first positions of a row, on the way from stored bits to their part of a product.

    Attributes
    ----------
    start
        Where the row's first code begins, counted in bits of the layer's stream.
    bits
        0 or 1 (positions * code_bits,), as stored: the lowest bit of a code comes first.
    codes
        (positions,).
    scale
        Of the row; 1 where the codec has none.
    words
        (positions, d): the codewords, before scaling.
    x
        (positions, d): the input.
    sums
        (positions, k): the table, input times each codeword of the position's codebook; NaN beyond
        the end of a shorter codebook.
    """

    start: int
    bits: NDArray[np.uint8]
    codes: NDArray[np.int64]
    scale: float
    words: Values
    x: Values
    sums: Values

    @property
    def products(self) -> Values:
        """Weight times input (positions, d), as decoding and multiplying makes them."""
        return np.float32(self.scale) * self.words * self.x

    @property
    def found(self) -> Values:
        """What the codes find in the table (positions,)."""
        return self.sums[np.arange(len(self.codes)), self.codes]


def row_steps(weight: CodedWeight, x: Tensor, *, row: int = 0, positions: int = 4) -> RowSteps:
    """Follow the first positions of a row of ``weight``.

    Parameters
    ----------
    weight
        Of a layer, on the CPU.
    x
        (in,): one input.
    row, positions
        Which row, and how many of its first sub-vectors, 1 to ``MOST``.

    Raises
    ------
    ShapeError
        If there is no such row, position or input.
    """
    out, columns = weight.shape
    most = min(MOST, columns // weight.d)
    if not (0 <= row < out and 1 <= positions <= most) or x.shape != (columns,):
        raise ShapeError(
            f"row {row}, {positions} positions, x {tuple(x.shape)}: expected a row below {out}, "
            f"1 to {most} positions, and x of shape ({columns},)"
        )
    width = weight.code_bits
    start = row * weight.positions * width
    end = start + positions * width
    stream = np.unpackbits(weight.codes[start // 8 : -(-end // 8)].numpy(), bitorder="little")
    bits = stream[start % 8 :][: end - start]
    read = bits.reshape(positions, width).astype(np.int64) @ (1 << np.arange(width))
    codes = np.minimum(read, weight.size[:positions].numpy() - 1)
    inputs = x.detach().float()[: positions * weight.d].reshape(positions, weight.d)
    books = [_codebook(weight, position) for position in range(positions)]
    sums = np.full((positions, max(map(len, books))), np.nan, dtype=np.float32)
    for position, book in enumerate(books):
        sums[position, : len(book)] = (book @ inputs[position]).numpy()
    words = torch.stack([book[code] for book, code in zip(books, codes.tolist(), strict=True)])
    return RowSteps(
        start=start,
        bits=bits,
        codes=codes,
        scale=1.0 if weight.scale is None else float(weight.scale[row]),
        words=words.numpy(),
        x=inputs.numpy(),
        sums=sums,
    )


def kernel_steps(steps: RowSteps, *, title: str = "What a kernel does with a code") -> go.Figure:
    """Draw a row's bits, its codewords, and the two ways to the same number.

    Decoding makes each weight and multiplies it with its input; the table holds the input's
    product with every codeword, made once for all rows, and a code only looks one up.

    Parameters
    ----------
    steps
        Of :func:`row_steps`.
    title
        Of the figure.
    """
    positions, d = steps.words.shape
    partial, looked_up = steps.products.sum(), steps.scale * steps.found.sum()
    figure = make_subplots(
        rows=3,
        cols=2,
        specs=[[{"colspan": 2}, None], [{"colspan": 2}, None], [{}, {}]],
        row_heights=[0.14, 0.38, 0.48],
        vertical_spacing=0.17,
        horizontal_spacing=0.12,
        subplot_titles=[
            f"1. {len(steps.bits)} bits are read: {positions} codes, lowest bit first",
            f"2. each code is a codeword; times the row's scale, {steps.scale:.3g}: {d} weights",
            f"3a. decode, then multiply: {positions * d} products, sum {partial:+.4f}",
            f"3b. or look up: {positions} sums × {steps.scale:.3g} = {looked_up:+.4f}",
        ],
    )
    themed(figure, title=title, x="", y="", height=640)
    figure.update_annotations(font_size=13)
    _draw_bits(figure, steps)
    for row, values, name in ((2, steps.scale * steps.words, "weight"), (3, steps.products, "")):
        _draw_columns(figure, row, values, name or "weight × input")
    figure.add_scatter(
        x=np.arange(positions * d),
        y=np.cumsum(steps.products),
        mode="lines",
        line={"color": INK, "width": 2, "shape": "hv"},
        name="sum so far",
        hovertemplate="sum to column %{x}: %{y:.4f}<extra></extra>",
        row=3,
        col=1,
    )
    _draw_table(figure, steps)
    figure.update_layout(margin_t=84, bargap=0.15, legend={"y": -0.13})
    return figure


def _codebook(weight: CodedWeight, position: int) -> Tensor:
    """Return the codewords that a position may use, float32 (k, d)."""
    first, size = int(weight.first[position]), int(weight.size[position])
    entries = slice(first, first + size)
    if weight.table is None:
        return weight.pool[entries].detach().float()
    return weight.pool[weight.table[entries].long()].detach().float()


def _colour(position: int) -> str:
    return COLOURS[position % len(COLOURS)]


def _draw_bits(figure: go.Figure, steps: RowSteps) -> None:
    """Draw bits as squares, a filled one for 1, with their codes and the borders of bytes."""
    positions, count = len(steps.codes), len(steps.bits)
    width = count // positions
    for position, code in enumerate(steps.codes.tolist()):
        places = np.arange(position * width, (position + 1) * width)
        figure.add_scatter(
            x=places,
            y=np.zeros(width),
            text=[str(bit) for bit in steps.bits[places]],
            mode="markers",
            marker={
                "symbol": ["square" if bit else "square-open" for bit in steps.bits[places]],
                "color": _colour(position),
                "size": 14,
                "line": {"width": 2, "color": _colour(position)},
            },
            showlegend=False,
            hovertemplate=f"code {code}, bit %{{text}}<extra></extra>",
            row=1,
            col=1,
        )
        spelled = "".join(str(bit) for bit in steps.bits[places][::-1])
        figure.add_annotation(
            x=places.mean(),
            y=-1.1,
            text=f"{spelled} = <b>{code}</b>",
            showarrow=False,
            row=1,
            col=1,
        )
    for place in range(count + 1):
        if (steps.start + place) % 8 == 0:
            figure.add_shape(
                type="line",
                x0=place - 0.5,
                x1=place - 0.5,
                y0=-0.6,
                y1=0.8,
                line={"color": GREY, "dash": "dot"},
                row=1,
                col=1,
            )
    figure.update_xaxes(visible=False, range=[-0.8, count - 0.2], row=1, col=1)
    figure.update_yaxes(visible=False, range=[-1.7, 0.9], row=1, col=1)


def _draw_columns(figure: go.Figure, row: int, values: Values, name: str) -> None:
    """Draw one bar a column of the matrix, in the colour of its position."""
    positions, d = values.shape
    for position in range(positions):
        figure.add_bar(
            x=np.arange(position * d, (position + 1) * d),
            y=values[position],
            marker={"color": _colour(position), "line": {"width": 0}},
            name=f"position {position}",
            showlegend=row == 2,  # once
            hovertemplate=f"column %{{x}}: {name} %{{y:.4f}}<extra></extra>",
            row=row,
            col=1,
        )
    figure.update_xaxes(title_text="column of the matrix", showgrid=False, row=row, col=1)
    figure.update_yaxes(title_text=name, zeroline=True, zerolinecolor=RULE, row=row, col=1)


def _draw_table(figure: go.Figure, steps: RowSteps) -> None:
    """Draw the table of partial sums, a line a position, and what the codes find in it."""
    positions = np.arange(len(steps.codes))
    edge = float(np.nanmax(np.abs(steps.sums))) or 1.0
    figure.add_heatmap(
        z=steps.sums,
        zmin=-edge,
        zmax=edge,
        colorscale=SIGNED,
        ygap=6,
        colorbar={"title": {"text": "sum"}, "thickness": 10, "len": 0.42, "y": 0.2},
        hovertemplate="position %{y}, codeword %{x}: %{z:.4f}<extra></extra>",
        row=3,
        col=2,
    )
    figure.add_scatter(
        x=steps.codes,
        y=positions,
        mode="markers",
        marker={"symbol": "square-open", "size": 13, "color": "black", "line": {"width": 2}},
        text=[f"{value:+.3f}" for value in steps.found],
        name="looked up",
        hovertemplate="position %{y}, code %{x}: %{text}<extra></extra>",
        row=3,
        col=2,
    )
    labels = [f"{p}: {value:+.3f}" for p, value in zip(positions, steps.found, strict=True)]
    figure.update_xaxes(title_text="codeword", showgrid=False, row=3, col=2)
    figure.update_yaxes(
        title_text="position: what is found",
        autorange="reversed",
        tickvals=positions,
        ticktext=labels,
        showgrid=False,
        row=3,
        col=2,
    )
