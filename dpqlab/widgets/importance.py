"""Codebook importance: what a codeword is worth, where it is used, and what removing costs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any, cast, get_args

import ipywidgets as widgets
import plotly.graph_objects as go
import torch
import traitlets

from dpqlab.core import Measure
from dpqlab.diffusion.models import load_pipeline
from dpqlab.errors import ConfigError
from dpqlab.nn.plan import kind_of
from dpqlab.nn.presets import preset
from dpqlab.nn.targets import targets_of
from dpqlab.studies.bare_linears import linears_of
from dpqlab.studies.codeword_inputs import Activations, activations_of, bundled_inputs
from dpqlab.studies.codewords import (
    MEASURES,
    CodewordStudy,
    CodewordUse,
    Manner,
    Removal,
    least,
    output_error,
    race_steps,
    sharing_of,
    study_of,
    use_of,
)
from dpqlab.studies.layer_weights import LayerWeights
from dpqlab.studies.removal_pictures import RemovalTask
from dpqlab.studies.removal_records import RemovalRecords, bundled_removals
from dpqlab.viz.importance import (
    MEASURE_NAMES,
    codeword_map,
    codeword_use,
    promise_and_damage,
    removal_race,
    scope_view,
)
from dpqlab.widgets.job import Job
from dpqlab.widgets.plot import Plot, Point
from dpqlab.widgets.removal_run import RemovalRun, Removing
from dpqlab.widgets.state import State
from dpqlab.widgets.threads import one_thread
from dpqlab.widgets.view import View

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


class CodebookImportance(View):
    """The codewords of one kind of layer: their worth by three measures, their use, their removal.

    Parameters
    ----------
    kind
        Of the layers, such as ``"attn1.to_q"`` or ``"ff.net.2"``.
    preset_name
        Whose codec makes the codebooks.
    source
        The full-precision model: a bundled name or a folder.
    recompute
        Draw images to measure what flows into the layers, also where that is on record: some
        seconds more.

    Attributes
    ----------
    linears
        The matrices of the model's blocks.
    removal
        Removes codewords, and draws.
    race
        Measures removals here, where none are recorded.
    """

    name = "codebook-importance"
    state: ImportanceState  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(
        self,
        kind: str = "attn1.to_q",
        *,
        preset_name: str = "dpq-4bit",
        source: str = "fashion-dit",
        recompute: bool = False,
    ) -> None:
        self.source, self.plan = source, preset(preset_name)
        self.linears = linears_of(LayerWeights.open(source))
        self._recorded = None if recompute else bundled_inputs(source)
        names = [target.name for target in targets_of(self.linears, self.plan)]
        self._layers = {kind_of(name): name for name in reversed(names)}
        kinds = list(reversed(self._layers))
        super().__init__(ImportanceState(kinds, kind=kind))
        self._studies: dict[str, CodewordStudy] = {}
        self._removals: dict[str, tuple[Removal, ...]] = {}
        self._errors: dict[str, float] = {}
        self._take(bundled_removals(preset_name) if source == "fashion-dit" else None)
        self.use_plot = Plot(label="where a codeword is used")
        self.answer_plot = Plot(label="not revealed yet")
        self.removal = RemovalRun(self._asked)
        self.race: Job[Removal] = Job(
            self._measure, on_records=self._measured, on_end=self._raced, rate=2.0
        )
        self._opening = ""
        self._opener: Job[str] = Job(self._open, on_end=self._opened)
        self.plot.on_click(self._clicked)
        self._make_controls()
        self.state.observe(self._follow, names=["scope", "revealed", "kind"])

    @cached_property
    def model(self) -> Any:
        """The model that draws, loaded when first asked for: importing diffusers takes seconds."""
        return load_pipeline(self.source).transformer.requires_grad_(False)

    @property
    def measure(self) -> Measure:
        """The measure that was chosen."""
        return cast(Measure, self.state.measure)

    @property
    def study(self) -> CodewordStudy:
        """The pool on screen, made when first asked for: some seconds."""
        return self._study(self.state.kind)

    @property
    def scope(self) -> int:
        """The scope on screen."""
        return min(self.state.scope, len(self.study.pool.sizes) - 1)

    @property
    def use(self) -> CodewordUse:
        """The selected codeword: what was chosen, or the most important of the scope."""
        study, scope = self.study, self.scope
        chosen = self.state.codeword
        if not (0 <= chosen < len(study.scope) and int(study.scope[chosen]) == scope):
            mine = (study.scope == scope).nonzero()[:, 0]
            chosen = int(mine[study.worth_by(self.measure)[mine].argmax()])
        return use_of(study, chosen)

    @property
    def count(self) -> int:
        """How many codewords are marked as removed."""
        total, scopes = len(self.study.scope), len(self.study.pool.sizes)
        return min(round(self.state.share * total), total - scopes)

    @property
    def gone(self) -> torch.Tensor:
        """Which codewords are marked as removed, bool (P,)."""
        return least(self.study, self.measure, self.count)

    @property
    def removals(self) -> tuple[Removal, ...]:
        """What was measured of this pool: recorded, or here."""
        return self._removals.get(self.state.kind, ())

    def figure(self) -> go.Figure:
        """Return the codewords on screen; see :func:`dpqlab.viz.importance.codeword_map`."""
        view = scope_view(self.study, self.scope, self.gone)
        return codeword_map(view, measure=self.measure, selected=self.use.entry)

    def answer(self) -> go.Figure:
        """Return the figure behind the reveal.

        Raises
        ------
        ConfigError
            If no removals of this pool were recorded, and none were measured here.
        """
        if not self.removals:
            raise ConfigError(
                f"no removals of {self.state.kind} are on record: press Measure to make them here"
            )
        if self.state.answer == "promise":
            return promise_and_damage(self.removals, marked=self.state.share)
        whole = self._errors.get(self.state.kind) or output_error(self.study)
        return removal_race(self.removals, whole=whole, marked=self.state.share)

    def redraw(self) -> None:
        """Draw the state now, with one thread: see :func:`dpqlab.widgets.threads.one_thread`."""
        with one_thread():
            super().redraw()

    def show(self) -> None:
        """Bring all figures up to the state."""
        self.plot.update(self.figure())
        study = self.study
        shape = tuple(study.members[0].encoded.codes.shape)
        self.use_plot.update(
            codeword_use(self.use, study.names, (shape[0], shape[1])), self._used()
        )
        self._count.value = f"{self.count:,} of {len(study.scope):,} codewords"
        if self.state.revealed and self.removals:
            self.answer_plot.update(self.answer(), self._found())

    def sentence(self) -> str:
        """Return what is on screen, in words and numbers."""
        words = [self._used(), self._marked()]
        if self.state.revealed:
            words.append(self._found())
        return " ".join(words)

    def _used(self) -> str:
        use, total = self.use, len(self.study.scope)
        values = ", ".join(f"{value:.3f}" for value in use.values)
        ranks = ", ".join(f"{use.rank[m]:,} by {MEASURE_NAMES[m]}" for m in MEASURES)
        blocks = len(set(use.blocks.tolist()))
        near = f"Its nearest neighbour, {use.neighbours[0]}, is {use.distances[0]:.4f} away."
        return (
            f"Codeword {use.entry} = ({values}), of {self._scope_word()} {use.scope}, is used by "
            f"{len(use.rows)} sub-vectors in {blocks} of {len(self.study.names)} layers. Of "
            f"{total:,} codewords its rank is {ranks}. " + (near if use.neighbours else "")
        ).strip()

    def _marked(self) -> str:
        mine = self.gone[self.study.scope == self.scope]
        return (
            f"Crosses: of the {self.count:,} that {MEASURE_NAMES[self.measure]} calls least "
            f"important in the whole pool, {int(mine.sum())} of the {len(mine)} here."
        )

    def _found(self) -> str:
        """Say who wins at the share that is set, as far as it was measured."""
        share = min({r.share for r in self.removals}, default=None, key=self._apart)
        if share is None:
            return f"No removals of {self.state.kind} are on record: press Measure."
        words: list[str] = []
        for manner in MANNERS:
            mine = [r for r in self.removals if r.manner == manner and r.share == share]
            ranked = sorted(mine, key=lambda r: r.output_error)
            if ranked:
                said = ", ".join(f"{MEASURE_NAMES[r.measure]} {r.output_error:.4f}" for r in ranked)
                words.append(f"{manner} {said}")
        return f"Held-out output error with {share:.0%} removed: {'; '.join(words)}."

    def _apart(self, share: float) -> float:
        return abs(share - self.state.share)

    def code(self) -> str:
        """Return Python that makes the same figure."""
        recorded = self._recorded is not None
        return (
            "from dpqlab.diffusion import load_pipeline\n"
            + "from dpqlab.studies.codeword_inputs import bundled_inputs\n" * recorded
            + "from dpqlab.studies.codewords import least, study_of\n"
            "from dpqlab.nn import preset\n"
            "from dpqlab.viz.importance import codeword_map, scope_view\n\n"
            f"model = load_pipeline({self.source!r}).transformer\n"
            f"layer = {self._layers[self.state.kind]!r}\n"
            + "inputs = bundled_inputs().activations(lambda: model)\n" * recorded
            + f"study = study_of(model, preset({self.plan.name!r}), layer"
            + ", activations=inputs" * recorded
            + ")\n"
            f"gone = least(study, {self.measure!r}, {self.count})\n"
            f"view = scope_view(study, {self.scope}, gone)\n"
            f"figure = codeword_map(view, measure={self.measure!r}, "
            f"selected={self.use.entry})\n"
        )

    def data(self) -> dict[str, list[Any]]:
        """Return the codewords of the scope on screen."""
        mine = (self.study.scope == self.scope).nonzero()[:, 0]
        columns: dict[str, list[Any]] = {"codeword": mine.tolist()}
        for j in range(self.study.codec.d):
            columns[f"value_{j}"] = self.study.pool.entries[mine, j].float().tolist()
        for measure in MEASURES:
            columns[measure] = self.study.worth[measure][mine].tolist()
        return columns | {"removed": self.gone[mine].tolist()}

    def controls(self) -> Sequence[widgets.Widget]:
        """Return the controls."""
        return (
            self._kind,
            self._measure_control,
            self._scope_control,
            self._share_control,
            self._count,
        )

    def body(self) -> Sequence[widgets.Widget]:
        """Return the figures, the reveal, and what draws."""
        row = widgets.Layout(flex_flow="row wrap", align_items="center")
        reveal = widgets.Box(
            (self._reveal, self._answer_control, self._race_button, self._race_words), layout=row
        )
        pictures = widgets.Box((self._pools_control, self._manner, self.removal.panel), layout=row)
        return (
            self.plot, self.use_plot, reveal, self.answer_plot, pictures, self.removal.plot,
        )  # fmt: skip

    def open(self, kind: str) -> None:
        """Show another kind of layer; one that was not measured yet is measured in a thread."""
        if kind in self._studies:
            self.state.set({"kind": kind, "codeword": -1})
        elif kind != self.state.kind and not self._opener.running:
            self._opening = kind
            self.say(
                f"Making the codebooks of {kind} and measuring their importance: some seconds."
            )
            self._opener.start()

    def close(self) -> None:
        """Stop what runs, and let go of the widgets."""
        for job in (self.race, self.removal.job, self._opener):
            job.stop()
        for plot in (self.use_plot, self.answer_plot, self.removal.plot):
            plot.close()
        super().close()

    def _study(self, kind: str, activations: Activations | None = None) -> CodewordStudy:
        if kind not in self._studies:
            layer = self._layers[kind]
            known = activations or self._inputs_of([kind])
            with one_thread():
                study = study_of(self.linears, self.plan, layer, activations=known)
                _ = study.worth  # what the figures need: measured here
            self._studies[kind] = study
        return self._studies[kind]

    def _inputs_of(self, kinds: Sequence[str]) -> Activations:
        """Return what flows into all layers of some kinds: recorded, or drawn at once for all."""
        if self._recorded is not None:
            return self._recorded.activations(lambda: self.model)
        sharing = [sharing_of(self.linears, self.plan, self._layers[kind]) for kind in kinds]
        names = [target.name for targets in sharing for target in targets]
        return activations_of(self.model, names)

    def _open(self) -> Iterable[str]:
        self._study(self._opening)
        yield self._opening

    def _opened(self, job: Job[str]) -> None:
        if job.error:
            self._kind.value = self.state.kind
            self.say(job.error, trouble=True)
        elif job.status == "done":
            self.open(self._opening)

    def _take(self, records: RemovalRecords | None) -> None:
        """Take over what is on record."""
        for pool in records.pools if records else ():
            self._removals[pool.kind] = pool.removals
            self._errors[pool.kind] = pool.output_error

    def _asked(self) -> Removing:
        kinds = list(reversed(self._layers)) if self.state.pools == POOLS[1] else [self.state.kind]
        task = RemovalTask(
            measure=self.measure,
            manner=cast(Manner, self.state.manner),
            share=self.state.share,
            request=self.removal.request,
        )
        return Removing(model=lambda: self.model, pools=lambda: self._pools_of(kinds), task=task)

    def _pools_of(self, kinds: Sequence[str]) -> Iterator[CodewordStudy]:
        """Make the pools of some kinds; images are drawn once for all that are missing."""
        missing = [kind for kind in kinds if kind not in self._studies]
        known = self._inputs_of(missing) if missing else None
        for kind in kinds:
            yield self._study(kind, known)

    def _measure(self) -> Iterable[Removal]:
        self._racing = self.state.kind
        self._removals[self._racing] = ()
        self._errors[self._racing] = output_error(self._study(self._racing))
        return race_steps(self._study(self._racing))

    def _measured(self, removals: list[Removal]) -> None:
        self._removals[self._racing] += tuple(removals)
        last = removals[-1]
        self._race_words.value = f"{last.measure}, {last.manner}, {last.share:.0%} removed"
        self.redraw()

    def _raced(self, job: Job[Removal]) -> None:
        self._race_button.description = "Measure here"
        self._race_words.value = f"⚠ {job.error}" if job.error else ""

    def _race_pressed(self) -> None:
        if self.race.running:
            self.race.stop()
            return
        self._race_button.description = "Stop"
        self.state.revealed = True
        self.race.start()

    def _follow(self, _change: Any) -> None:
        """Bring controls up to the state."""
        self._kind.value = self.state.kind
        shown = "" if self.state.revealed else "none"
        for widget in (self.answer_plot, self._answer_control):
            widget.layout.display = shown
        if self.state.kind in self._studies:
            self._scope_control.max = len(self.study.pool.sizes) - 1

    def _clicked(self, point: Point) -> None:
        chosen = point.get("customdata")
        if isinstance(chosen, int):
            self.state.codeword = chosen

    def _scope_word(self) -> str:
        return "position" if self.study.codec.scope == "position" else "scope"

    def _make_controls(self) -> None:
        wide = widgets.Layout(width="auto")
        self._kind = widgets.Dropdown(
            options=list(reversed(self._layers)), value=self.state.kind, description="Layers"
        )
        self._kind.observe(lambda change: self.open(change["new"]), names="value")
        self._measure_control = self.bind(
            widgets.ToggleButtons(
                options=[(MEASURE_NAMES[m], m) for m in MEASURES],
                description="Measure",
                style={"button_width": "auto"},
            ),
            "measure",
        )
        self._scope_control = self.bind(
            widgets.IntSlider(description="Position", continuous_update=False, min=0, max=191),
            "scope",
        )
        self._share_control = self.bind(
            widgets.FloatSlider(
                description="Remove", min=0, max=0.95, step=0.05, readout_format=".0%",
                continuous_update=False,
            ),
            "share",
        )  # fmt: skip
        self._count = widgets.Label()
        self._reveal = self.bind(
            widgets.ToggleButton(
                description="Reveal: which measure predicts the damage?", layout=wide
            ),
            "revealed",
        )
        self._answer_control = self.bind(
            widgets.Dropdown(
                options=[(text, name) for name, text in ANSWERS.items()],
                description="Show",
                layout=widgets.Layout(width="380px"),
            ),
            "answer",
        )
        self._race_button = widgets.Button(
            description="Measure here",
            tooltip="Remove more and more codewords of this pool on this machine: some minutes",
        )
        self._race_button.on_click(lambda _button: self._race_pressed())
        self._race_words = widgets.Label()
        self._pools_control = self.bind(
            widgets.Dropdown(options=POOLS, description="Remove in"), "pools"
        )
        self._manner = self.bind(widgets.Dropdown(options=MANNERS, description="How"), "manner")
        self._racing = self.state.kind
        self.answer_plot.layout.display = self._answer_control.layout.display = "none"
