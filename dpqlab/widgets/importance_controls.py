"""The knobs of :class:`dpqlab.widgets.CodebookImportance`, and the controls that turn them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

import ipywidgets as widgets
import traitlets

from dpqlab.studies.codewords import MEASURES
from dpqlab.studies.removals import Manner
from dpqlab.viz.importance import MEASURE_NAMES
from dpqlab.widgets.state import State

MANNERS: tuple[Manner, ...] = get_args(Manner)
POOLS = ("this kind of layer", "all kinds")
ANSWERS = {"race": "which measure predicts the damage", "promise": "whether the costs add up"}


class ImportanceState(State):
    """Knobs of :class:`CodebookImportance`.

    Attributes
    ----------
    kind
        Which layers: those of this kind in all blocks.
    measure
        What colours, ranks and removes.
    scope
        Whose codewords are shown: of product quantization, the position.
    codeword
        Number in the pool; -1 for the most important one of the scope.
    share
        Of the pool's codewords, the least important, that are marked as removed.
    revealed
        Whether the answer is shown.
    answer
        ``"race"`` or ``"promise"``.
    manner, pools
        Of the pictures: how codewords are removed, and of which layers.
    """

    kind = traitlets.Unicode("attn1.to_q").tag(sync_state=True)
    measure = traitlets.Enum(MEASURES, "usage").tag(sync_state=True)
    scope = traitlets.Int(0, min=0).tag(sync_state=True)
    codeword = traitlets.Int(-1, min=-1).tag(sync_state=True)
    share = traitlets.Float(0.2, min=0.0, max=0.95).tag(sync_state=True)
    revealed = traitlets.Bool(False).tag(sync_state=True)
    answer = traitlets.Enum(list(ANSWERS), "race").tag(sync_state=True)
    manner = traitlets.Enum(MANNERS, MANNERS[0]).tag(sync_state=True)
    pools = traitlets.Enum(POOLS, POOLS[0]).tag(sync_state=True)

    def __init__(self, kinds: Sequence[str], **knobs: Any) -> None:
        self._kinds = tuple(kinds)
        super().__init__(**knobs)

    @traitlets.validate("kind")
    def _known_kind(self, proposal: Any) -> str:
        if proposal["value"] not in self._kinds:
            raise traitlets.TraitError(
                f"no kind {proposal['value']!r}: expected one of {', '.join(self._kinds)}"
            )
        return proposal["value"]


class ImportanceControls:
    """The controls of the view, not tied to a state yet.

    Parameters
    ----------
    kinds
        Of layers to choose from.
    kind
        The one to begin with.

    Attributes
    ----------
    kind
        Choosing a kind may take seconds of measuring, so it is not tied to its knob: see
        :meth:`dpqlab.widgets.CodebookImportance.open`.
    count
        How many codewords are marked.
    """

    def __init__(self, kinds: Sequence[str], kind: str) -> None:
        self.kind = widgets.Dropdown(options=list(kinds), value=kind, description="Layers")
        self.measure = widgets.ToggleButtons(
            options=[(MEASURE_NAMES[m], m) for m in MEASURES],
            description="Measure",
            style={"button_width": "auto"},
        )
        self.scope = widgets.IntSlider(
            description="Position", continuous_update=False, min=0, max=191
        )
        self.share = widgets.FloatSlider(
            description="Remove", min=0, max=0.95, step=0.05, readout_format=".0%",
            continuous_update=False,
        )  # fmt: skip
        self.count = widgets.Label()
        self.reveal = widgets.ToggleButton(
            description="Reveal: which measure predicts the damage?", layout={"width": "auto"}
        )
        self.answer = widgets.Dropdown(
            options=[(text, name) for name, text in ANSWERS.items()],
            description="Show",
            layout={"width": "380px", "display": "none"},
        )
        self.pools = widgets.Dropdown(options=POOLS, description="Remove in")
        self.manner = widgets.Dropdown(options=MANNERS, description="How")

    @property
    def by_knob(self) -> dict[str, widgets.Widget]:
        """The controls that are tied to a knob each."""
        return {
            "measure": self.measure,
            "scope": self.scope,
            "share": self.share,
            "revealed": self.reveal,
            "answer": self.answer,
            "pools": self.pools,
            "manner": self.manner,
        }

    @property
    def row(self) -> tuple[widgets.Widget, ...]:
        """Those that stand over the view, in order of use."""
        return (self.kind, self.measure, self.scope, self.share, self.count)
