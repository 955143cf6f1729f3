"""VQ against PQ, step by step: a real weight matrix, one row at a time, and one dial."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import ipywidgets as widgets
import plotly.graph_objects as go

from dpqlab.core import CodebookCodec
from dpqlab.studies.codec_contest import bundled_contest
from dpqlab.studies.layer_coding import PARTS, LayerCoding, code_layer
from dpqlab.studies.layer_weights import LayerWeights
from dpqlab.viz.codec_contest import LAYER_NAMES, Place, marks, rate_distortion_by_kind
from dpqlab.viz.codec_steps import STEPS, codec_steps, span_of, steps_spec
from dpqlab.viz.colours import diverging
from dpqlab.widgets.pixels import Cell, Pixels
from dpqlab.widgets.plot import Plot
from dpqlab.widgets.view import View
from dpqlab.widgets.vq_vs_pq_state import (
    LENGTHS,
    ROUNDS,
    SIZES,
    CodecState,
    dial_choices,
    layer_choices,
    slider,
)

SIDE = 96  # rows and, nearly, columns of a detail: cells large enough to be clicked
KEPT = 24  # codings kept in memory, a few MB each
TRAIL = 12  # places shown behind the star
RECORDED = "fashion-dit"  # whose records are drawn
PICTURES = {"original": "original", "rebuilt": "rebuilt", "error": "error: rebuilt less original"}
CODE = """\
from dpqlab.core import CodebookCodec
from dpqlab.studies.layer_coding import code_layer
from dpqlab.studies.layer_weights import LayerWeights
from dpqlab.viz.codec_steps import codec_steps

layers = LayerWeights.open({model!r})
codec = {codec!r}
coding = code_layer(layers, {block}, {kind!r}, codec)
print(coding.true_bits, coding.relative_error, coding.bits)
figure = codec_steps(coding, row={row}, position={position}, step={step!r})
"""


class VQAgainstPQ(View):
    """Code a layer of a real model, walk one sub-vector of it, and turn the dial from PQ to VQ.

    Parameters
    ----------
    model
        Bundled full-precision model, or folder of one.

    Attributes
    ----------
    pictures
        Original, rebuilt and error, on one scale.
    contest
        The figure of recorded codecs, with the present one as a star.

    Examples
    --------
    >>> view = VQAgainstPQ()
    >>> view.state.share = "layer"
    >>> view.coding.codec.describe()
    'VQ d=4 k=16'
    """

    name = "vq-against-pq"
    state: CodecState  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, model: str = "fashion-dit") -> None:
        self.layers = LayerWeights.open(model)
        super().__init__(CodecState(self.layers))
        self.records = bundled_contest()
        self._coded = lru_cache(maxsize=KEPT)(self._make)
        self._trail: list[Place] = []
        self._drawn: tuple[Any, ...] = ()
        self.pictures = {
            name: Pixels(label=name, zoom=0, group=f"matrix-{id(self)}") for name in PICTURES
        }
        for picture in self.pictures.values():
            picture.on_click(self._clicked)
        # complete from the first message on: a page that misses updates still shows the records
        recorded = rate_distortion_by_kind(self.records, RECORDED)
        self.contest = Plot(recorded, label="recorded errors against true bits")
        self._recorded = self.contest.spec
        self.numbers = widgets.HTML()

    @property
    def coding(self) -> LayerCoding:
        """The layer as the knobs code it."""
        return self._coded(self.state.block, self.state.kind, self.state.codec)

    @property
    def place(self) -> tuple[int, int]:
        """Row and position of the sub-vector that is walked."""
        rows, columns = self.coding.weight.shape
        row, column = min(self.state.row, rows - 1), min(self.state.column, columns - 1)
        return row, column // self.state.d

    @property
    def window(self) -> tuple[slice, slice]:
        """Rows and columns that the pictures show: a page, so that it stands still."""
        rows, columns = self.coding.weight.shape
        if self.state.whole:
            return slice(0, rows), slice(0, columns)
        row, position = self.place
        high, wide = min(SIDE, rows), max(1, min(SIDE, columns) // self.state.d) * self.state.d
        top = min(row // high * high, rows - high)
        left = position * self.state.d // wide * wide
        return slice(top, top + high), slice(left, min(left + wide, columns))

    def figure(self) -> go.Figure:
        """Return the walk; see :func:`dpqlab.viz.codec_steps.codec_steps`."""
        row, position = self.place
        return codec_steps(self.coding, row=row, position=position, step=self.state.step)

    def show(self) -> None:
        """Bring figures, pictures and numbers up to the state."""
        coding, (row, position) = self.coding, self.place
        # figure() makes the same, checked by plotly: a slider should not wait for that
        self.plot.update(steps_spec(coding, row=row, position=position, step=self.state.step))
        self._show_pictures(coding)
        here = (coding.kind, coding.true_bits, coding.relative_error)
        drawn = (here, coding.codec)
        if drawn == self._drawn:
            return
        self._drawn = drawn
        label, kinds = f"here: {coding.codec.describe()}", self.records.kinds(RECORDED)
        stars = marks(kinds, here, label=label, trail=self._trail)
        self.contest.update(self._recorded | {"data": self._recorded["data"] + stars})
        self._trail = [*(one for one in self._trail[-TRAIL:] if one != here), here]
        self.numbers.value = _table(coding)

    def sentence(self) -> str:
        """Return what is on screen, in words and numbers."""
        coding, (row, position) = self.coding, self.place
        codec, d = coding.codec, self.state.d
        books = len(coding.pool.sizes)
        who = "one codebook" if books == 1 else f"{books} codebooks"
        blocks = f", shared by {coding.sharers} blocks" if coding.sharers > 1 else ""
        code = int(coding.codes[row, position])
        lost = coding.replacement(row, position) - coding.subvector(row, position)
        of = "" if self.layers.model == RECORDED else f"are those of {RECORDED}, "
        return (
            f"{LAYER_NAMES.get(coding.kind, coding.kind)} of block {coding.block}, "
            f"{codec.describe()}: {who} of {max(coding.pool.sizes)} codewords{blocks}. "
            f"{coding.true_bits:.3f} true bits a weight, relative squared error "
            f"{coding.relative_error:.4f}. Row {row}, weights {position * d} to "
            f"{min(position * d + d, coding.weight.shape[1]) - 1}: code {code}, squared error "
            f"{float(lost.square().sum()):.4g}. ({ROUNDS} rounds of k-means; the recorded lines "
            f"{of}have 20, and an error lower by up to 3 %.)"
        )

    def code(self) -> str:
        """Return Python that makes the same figure."""
        row, position = self.place
        return CODE.format(
            model=self.layers.model,
            codec=self.state.codec,
            block=self.state.block,
            kind=self.state.kind,
            row=row,
            position=position,
            step=self.state.step,
        )

    def data(self) -> dict[str, list[Any]]:
        """Return the row that is walked: a line a weight, and the layer's numbers beside it."""
        coding, (row, _) = self.coding, self.place
        columns = range(coding.weight.shape[1])
        places = [column // coding.codec.d for column in columns]
        same = {
            "codec": coding.codec.describe(),
            "true_bits": coding.true_bits,
            "relative_error": coding.relative_error,
        } | {f"{name}_bits": coding.bits[name] for name in PARTS}
        return {
            "row": [row] * len(columns),
            "column": list(columns),
            "position": places,
            "codebook": coding.scope_of[places].tolist(),
            "code": coding.codes[row, places].tolist(),
            "weight": coding.weight[row].tolist(),
            "rebuilt": coding.rebuilt[row].tolist(),
        } | {name: [value] * len(columns) for name, value in same.items()}

    def controls(self) -> Sequence[widgets.Widget]:
        """Return the controls: what is coded, how, and the walk."""
        blocks = widgets.Dropdown(
            options=list(range(self.layers.blocks)), description="Block", layout={"width": "140px"}
        )
        kinds = widgets.Dropdown(
            options=layer_choices(self.layers), description="Layer", layout={"width": "340px"}
        )
        dial = slider("Shared by", dial_choices(), "Who shares a codebook: from PQ to VQ", "360px")
        return (
            self.bind(blocks, "block"),
            self.bind(kinds, "kind"),
            self.bind(dial, "share"),
            self.bind(slider("d", LENGTHS, "Weights in a sub-vector", "260px"), "d"),
            self.bind(slider("k", SIZES, "Codewords in a codebook", "260px"), "k"),
            self._check("Share across blocks", "across", "Can take some seconds for large layers"),
            self._check("Row scales", "row_scale", "One more number of 16 bits for every row"),
            self._check("Whole matrix", "whole", "Pictures of all weights, not of a detail"),
            self._button("◀ Back", "The step before", lambda: self.walk(-1)),
            self._button("Step ▶", "The next step; after the last, the next sub-vector",
                         lambda: self.walk(1)),
        )  # fmt: skip

    def body(self) -> Sequence[widgets.Widget]:
        """Return the walk, the pictures, the numbers, the records."""
        frames = [
            widgets.VBox(
                [widgets.HTML(f"<b>{PICTURES[name]}</b>"), picture],
                layout=widgets.Layout(width="32%", margin="0 1% 0 0"),
            )
            for name, picture in self.pictures.items()
        ]
        return (self.plot, widgets.HBox(frames), self.numbers, self.contest)

    def walk(self, by: int) -> None:
        """Go ``by`` steps on; behind the last step comes the next sub-vector of the row."""
        _, position = self.place
        count, last = len(STEPS), self.coding.positions - 1
        at = position * count + STEPS.index(self.state.step) + by
        at = min(max(at, 0), last * count + count - 1)
        self.state.set({"column": at // count * self.state.d, "step": STEPS[at % count]})

    def close(self) -> None:
        """Let go of the widgets and of what is kept in memory."""
        for picture in self.pictures.values():
            picture.close()
        self.contest.close()
        self._coded.cache_clear()
        super().close()

    def _make(self, block: int, kind: str, codec: CodebookCodec) -> LayerCoding:
        return code_layer(self.layers, block, kind, codec)

    def _show_pictures(self, coding: LayerCoding) -> None:
        rows, columns = self.window
        row, position = self.place
        d, span = coding.codec.d, span_of(coding)
        values = {
            "original": coding.weight,
            "rebuilt": coding.rebuilt,
            "error": coding.rebuilt - coding.weight,
        }
        where = f"rows {rows.start} to {rows.stop - 1}, columns {columns.start} to "
        for name, picture in self.pictures.items():
            with picture.hold_sync():
                picture.show_values(values[name][rows, columns].numpy(), (-span, span), diverging())
                picture.cell = [1, d]
                picture.label = f"{name}, {where}{columns.stop - 1}; colours from ±{span:.3g}"
                picture.frame((row - rows.start, position * d - columns.start, 1, d))

    def _clicked(self, cell: Cell) -> None:
        if "row" in cell:
            rows, columns = self.window
            self.state.set(
                {"row": rows.start + cell["row"], "column": columns.start + cell["column"]}
            )

    def _check(self, name: str, knob: str, tip: str) -> widgets.Checkbox:
        box = widgets.Checkbox(
            description=name, tooltip=tip, indent=False, layout={"width": "160px"}
        )
        return self.bind(box, knob)

    def _button(self, text: str, tip: str, action: Any) -> widgets.Button:
        button = widgets.Button(description=text, tooltip=tip, layout={"width": "auto"})
        button.on_click(lambda _button: self._act(action))
        return button


def _table(coding: LayerCoding) -> str:
    """Return the layer's ledger as a small table: bits a weight of every part."""
    names = {"codes": "codes", "table": "tables", "pool": "codebooks", "scale": "row scales",
             "bias": "bias"}  # fmt: skip
    weights = coding.weight.numel()
    parts = [(names[name], coding.bits[name] / weights) for name in PARTS if coding.bits[name]]
    cells = [*parts, ("<b>true bits</b>", coding.true_bits)]
    head = "".join(f'<th scope="col" style="padding: 0 1em">{name}</th>' for name, _ in cells)
    row = "".join(f'<td style="padding: 0 1em">{bits:.4f}</td>' for _, bits in cells)
    error = f'<td style="padding: 0 1em"><b>{coding.relative_error:.4f}</b></td>'
    return (
        '<table style="text-align: right"><caption style="text-align: left">Bits a weight</caption>'
        f'<tr>{head}<th scope="col" style="padding: 0 1em">relative error</th></tr>'
        f"<tr>{row}{error}</tr></table>"
    )
