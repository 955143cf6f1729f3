"""Codebook importance: what a codeword is worth, where it is used, and what removing costs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

import ipywidgets as widgets
import plotly.graph_objects as go
import torch

from dpqlab.core import Measure
from dpqlab.errors import ConfigError
from dpqlab.nn.presets import preset
from dpqlab.studies.codeword_use import CodewordUse, use_of
from dpqlab.studies.codewords import MEASURES, CodewordStudy, output_error
from dpqlab.studies.removal_pictures import RemovalTask
from dpqlab.studies.removal_records import bundled_removals
from dpqlab.studies.removals import Manner, Removal, least
from dpqlab.viz.importance import (
    codeword_map,
    codeword_use,
    promise_and_damage,
    removal_race,
    scope_view,
)
from dpqlab.widgets.importance_controls import POOLS, ImportanceControls, ImportanceState
from dpqlab.widgets.importance_pools import ImportancePools
from dpqlab.widgets.importance_words import found_words, marked_words, use_words
from dpqlab.widgets.job import Job
from dpqlab.widgets.layout import row
from dpqlab.widgets.plot import Plot, Point
from dpqlab.widgets.removal_race import RemovalRace
from dpqlab.widgets.removal_run import RemovalRun, Removing
from dpqlab.widgets.threads import one_thread
from dpqlab.widgets.view import View

CODE = """\
from dpqlab.studies.removals import least
from dpqlab.viz.importance import codeword_map, scope_view
{study}
gone = least(study, {measure!r}, {count})
view = scope_view(study, {scope}, gone)
figure = codeword_map(view, measure={measure!r}, selected={selected})
"""


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
    pools
        The pools of all kinds of layers.
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
        self.pools = ImportancePools(source, preset(preset_name), recompute=recompute)
        kinds = self.pools.kinds
        super().__init__(ImportanceState(kinds, kind=kind))
        self.use_plot = Plot(label="where a codeword is used")
        self.answer_plot = Plot(label="not revealed yet")
        self.answer_plot.layout.display = "none"
        self.removal = RemovalRun(self._asked)
        self.race = RemovalRace(
            self.pools.study,
            on_records=self.redraw,
            records=bundled_removals(preset_name) if source == "fashion-dit" else None,
        )
        self.race.run_button.on_click(lambda _button: self._measure())
        self._opening = ""
        self._opener: Job[str] = Job(self._open, on_end=self._opened)
        self.plot.on_click(self._clicked)
        self._controls = ImportanceControls(kinds, self.state.kind)
        for knob, control in self._controls.by_knob.items():
            self.bind(control, knob)
        self._controls.kind.observe(lambda change: self.open(change["new"]), names="value")
        self.state.observe(self._follow, names=["scope", "revealed", "kind"])

    @property
    def measure(self) -> Measure:
        """The measure that was chosen."""
        return cast(Measure, self.state.measure)

    @property
    def study(self) -> CodewordStudy:
        """The pool on screen, made when first asked for: some seconds."""
        return self.pools.study(self.state.kind)

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
        return self.race.removals.get(self.state.kind, ())

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
        whole = self.race.errors.get(self.state.kind) or output_error(self.study)
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
        self._controls.count.value = f"{self.count:,} of {len(study.scope):,} codewords"
        if self.state.revealed and self.removals:
            self.answer_plot.update(self.answer(), self._found())

    def sentence(self) -> str:
        """Return what is on screen, in words and numbers."""
        here = self.study.scope == self.scope
        words = [self._used(), marked_words(self.gone, here, self.measure)]
        if self.state.revealed:
            words.append(self._found())
        return " ".join(words)

    def _used(self) -> str:
        return use_words(self.study, self.use)

    def _found(self) -> str:
        return found_words(self.removals, self.state.kind, self.state.share)

    def code(self) -> str:
        """Return Python that makes the same figure."""
        return CODE.format(
            study=self.pools.code(self.state.kind),
            measure=self.measure,
            count=self.count,
            scope=self.scope,
            selected=self.use.entry,
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
        return self._controls.row

    def body(self) -> Sequence[widgets.Widget]:
        """Return the figures, the reveal, and what draws."""
        made = self._controls
        reveal = row(made.reveal, made.answer, self.race.panel)
        pictures = row(made.pools, made.manner, self.removal.panel)
        answer = (reveal, self.answer_plot)
        return (self.plot, self.use_plot, *answer, pictures, self.removal.plot)

    def open(self, kind: str) -> None:
        """Show another kind of layer; one that was not measured yet is measured in a thread."""
        if kind in self.pools.studies:
            self.state.set({"kind": kind, "codeword": -1})
        elif kind != self.state.kind and not self._opener.running:
            self._opening = kind
            self.say(
                f"Making the codebooks of {kind} and measuring their importance: some seconds."
            )
            self._opener.start()

    def close(self) -> None:
        """Stop what runs, and let go of the widgets."""
        for job in (self.race.job, self.removal.job, self._opener):
            job.stop()
        for plot in (self.use_plot, self.answer_plot, self.removal.plot):
            plot.close()
        super().close()

    def _open(self) -> Iterable[str]:
        self.pools.study(self._opening)
        yield self._opening

    def _opened(self, job: Job[str]) -> None:
        if job.error:
            self._controls.kind.value = self.state.kind
            self.say(job.error, trouble=True)
        elif job.status == "done":
            self.open(self._opening)

    def _asked(self) -> Removing:
        kinds = self.pools.kinds if self.state.pools == POOLS[1] else [self.state.kind]
        task = RemovalTask(
            measure=self.measure,
            manner=cast(Manner, self.state.manner),
            share=self.state.share,
            request=self.removal.request,
        )
        return Removing(
            model=lambda: self.pools.model, pools=lambda: self.pools.of(kinds), task=task
        )

    def _measure(self) -> None:
        self.state.revealed = True
        self.race.start(self.state.kind)

    def _follow(self, _change: Any) -> None:
        """Bring controls up to the state."""
        self._controls.kind.value = self.state.kind
        shown = "" if self.state.revealed else "none"
        for widget in (self.answer_plot, self._controls.answer):
            widget.layout.display = shown
        if self.state.kind in self.pools.studies:
            self._controls.scope.max = len(self.study.pool.sizes) - 1

    def _clicked(self, point: Point) -> None:
        chosen = point.get("customdata")
        if isinstance(chosen, int):
            self.state.codeword = chosen
