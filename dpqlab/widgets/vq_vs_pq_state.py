"""Knobs of the view of VQ against PQ, and the controls that move them."""

from __future__ import annotations

from typing import Any

import ipywidgets as widgets
import traitlets

from dpqlab.core import CodebookCodec
from dpqlab.studies.layer_weights import LayerWeights
from dpqlab.viz.codec_contest import LAYER_NAMES
from dpqlab.viz.codec_steps import STEPS
from dpqlab.widgets.state import State

LENGTHS = (1, 2, 3, 4, 6, 8, 12, 16)
SIZES = (2, 4, 8, 16, 32, 64, 128, 256)
GROUPS = (2, 4, 8, 16, 32)
SHARES = ("position", *(str(group) for group in GROUPS), "layer")
"""The dial: positions that share a codebook, from PQ to VQ."""
ROUNDS = 8  # of k-means: 20 lower the error by up to 3 % and take twice as long


class CodecState(State):
    """Knobs of :class:`dpqlab.widgets.vq_vs_pq.VQAgainstPQ`.

    Attributes
    ----------
    block, kind
        The layer.
    d, k
        Weights in a sub-vector; codewords in a codebook.
    share
        The dial; one of ``SHARES``.
    across
        Whether the same layer of all blocks shares codebooks.
    row_scale
        Whether every row has a scale.
    row, column
        A weight of the sub-vector that is walked; the last one if the layer is smaller.
    step
        One of ``dpqlab.viz.codec_steps.STEPS``.
    whole
        Whether the pictures show the whole matrix.
    """

    block = traitlets.Int(3, min=0).tag(sync_state=True)
    kind = traitlets.Unicode("attn1.to_q").tag(sync_state=True)
    d = traitlets.Enum(LENGTHS, 4).tag(sync_state=True)
    k = traitlets.Enum(SIZES, 16).tag(sync_state=True)
    share = traitlets.Enum(SHARES, "position").tag(sync_state=True)
    across = traitlets.Bool(False).tag(sync_state=True)
    row_scale = traitlets.Bool(False).tag(sync_state=True)
    row = traitlets.Int(20, min=0).tag(sync_state=True)
    column = traitlets.Int(20, min=0).tag(sync_state=True)
    step = traitlets.Enum(STEPS, "split").tag(sync_state=True)
    whole = traitlets.Bool(False).tag(sync_state=True)

    def __init__(self, layers: LayerWeights, **knobs: Any) -> None:
        self._layers = layers
        first: dict[str, Any] = {"block": min(3, layers.blocks - 1)}
        if "attn1.to_q" not in layers.kinds:
            first["kind"] = layers.kinds[0]
        super().__init__(**first | knobs)

    @property
    def codec(self) -> CodebookCodec:
        """The codec that the knobs describe."""
        group = int(self.share) if self.share.isdecimal() else 1
        return CodebookCodec(
            d=self.d,
            k=self.k,
            scope="group" if group > 1 else "layer" if self.share == "layer" else "position",
            group=group,
            across="kind" if self.across else "layer",
            row_scale=self.row_scale,
            iterations=ROUNDS,
        )

    @traitlets.validate("block", "kind")
    def _known_layer(self, proposal: Any) -> Any:
        value, name = proposal["value"], proposal["trait"].name
        known = range(self._layers.blocks) if name == "block" else self._layers.kinds
        if value not in known:
            words = ", ".join(str(one) for one in known)
            raise traitlets.TraitError(f"no {name} {value!r}: expected one of {words}")
        return value


def layer_choices(layers: LayerWeights) -> list[tuple[str, str]]:
    """Return the kinds of layers with their names, in the order of a block."""
    order = list(LAYER_NAMES)
    known = sorted(layers.kinds, key=lambda kind: order.index(kind) if kind in order else 99)
    return [(f"{LAYER_NAMES.get(kind, kind)} ({kind})", kind) for kind in known]


def dial_choices() -> list[tuple[str, str]]:
    """Return the stops of the dial with their names."""
    middle = [(f"{group} positions", str(group)) for group in GROUPS]
    return [("1 position: PQ", "position"), *middle, ("whole layer: VQ", "layer")]


def slider(name: str, options: Any, tip: str, width: str = "300px") -> widgets.SelectionSlider:
    """Return a slider over the stops of a knob, that tells when it is let go."""
    return widgets.SelectionSlider(
        options=options,
        description=name,
        tooltip=tip,
        continuous_update=False,
        layout=widgets.Layout(width=width),
        style={"description_width": "70px" if len(name) > 1 else "24px"},
    )
