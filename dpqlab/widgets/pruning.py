"""Pruning the pool: slide the budget, and see bytes, errors and pictures follow."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import ipywidgets as widgets
import plotly.graph_objects as go

from dpqlab.errors import ConfigError
from dpqlab.studies.pruned_checkpoint import PruneTask
from dpqlab.studies.pruning_runs import (
    ERRORS,
    PruningRun,
    RunPoint,
    bundled_run,
    bundled_runs,
    front,
)
from dpqlab.viz.pruning_path import (
    ERROR_NAMES,
    Place,
    fraction,
    pruning_path,
    sample_rows,
    stored_parts,
)
from dpqlab.widgets.plot import Plot, Point
from dpqlab.widgets.pruning_save import PrunedCheckpoint
from dpqlab.widgets.pruning_state import PruningState
from dpqlab.widgets.view import View

HERE = "here"
EQUAL = 0.02  # true bits may differ by so much where two codecs are compared


@lru_cache(maxsize=1)
def recorded() -> tuple[PruningRun, ...]:
    """Return the recorded runs, read once a kernel."""
    return tuple(bundled_run(name) for name in bundled_runs())


class PoolPruning(View):
    """Walk a recorded pruning path: a model with fewer and fewer codewords.

    Parameters
    ----------
    runs
        Recorded runs; None for those that ship.

    Attributes
    ----------
    saver
        Makes the chosen point for real, and saves it.

    Examples
    --------
    >>> view = PoolPruning()
    >>> view.state.point = 3
    >>> view.now.codewords < view.run.points[0].codewords
    True
    """

    name = "pool-pruning"
    state: PruningState  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, runs: Sequence[PruningRun] | None = None) -> None:
        self.runs = tuple(recorded() if runs is None else runs)
        if not self.runs:
            raise ConfigError(
                "no pruning runs: none ships with this installation; make some with "
                "python -m recipes.prune_fashion"
            )
        super().__init__(PruningState({run.name: len(run.points) for run in self.runs}))
        self._known = {run.name: run for run in self.runs}
        self.parts = Plot(label="what is stored")
        self.pictures = Plot(label="pictures")
        self.saver = PrunedCheckpoint(self.task)
        self.plot.on_click(self._clicked)
        self._budget = widgets.SelectionSlider(
            options=self._stops(),
            description="Budget",
            continuous_update=False,
            layout=widgets.Layout(width="420px"),
        )
        self._budget.observe(self._slid, names="value")
        self.state.observe(self._moved, names=["run", "point"])

    @property
    def run(self) -> PruningRun:
        """The run that the slider moves along."""
        return self._known[self.state.run]

    @property
    def index(self) -> int:
        """The point that the slider stands at."""
        return min(self.state.point, len(self.run.points) - 1)

    @property
    def now(self) -> RunPoint:
        """The model at that point."""
        return self.run.points[self.index]

    @property
    def marks(self) -> dict[str, Place]:
        """Pinned points and the present one, by label."""
        pins = {"A": self.state.a, "B": self.state.b}
        pinned: dict[str, Place] = {label: (p[0], p[1]) for label, p in pins.items() if p}
        return pinned | {HERE: (self.run.name, self.index)}

    def figure(self) -> go.Figure:
        """Return the paths; see :func:`dpqlab.viz.pruning_path.pruning_path`."""
        return pruning_path(self.runs, error=self.state.error, marks=self.marks)

    def show(self) -> None:
        """Bring all figures up to the state."""
        self.plot.update(self.figure())
        models = {label: self._at(place) for label, place in self.marks.items()}
        self.parts.update(stored_parts(models), label="; ".join(map(_stored, models.values())))
        rows = {"teacher": self.run.teacher}
        rows |= {name: self._known[run].samples[i] for name, (run, i) in self.marks.items()}
        self.pictures.update(sample_rows(rows), label=f"pictures of {', '.join(rows)}")

    def sentence(self) -> str:
        """Return what is on screen, in words and numbers."""
        point, whole = self.now, self.run.points[0]
        words = (
            f"{self.run.name}, {_budget(point)}: {point.codewords:,} of {whole.codewords:,} "
            f"codewords, {point.true_bits:.2f} true bits a weight, {point.stored_bytes / 1e6:.2f} "
            f"MB in all ({whole.stored_bytes / 1e6:.2f} MB with all codewords). The predicted "
            f"noise is off by {point.noise_error:.2%} of its power, the pictures by "
            f"{point.image_error:.4f}."
        )
        return " ".join([words, *self._contest()])

    def _contest(self) -> list[str]:
        """Say how A and B differ, and whether that is a comparison of codecs."""
        if not (self.state.a and self.state.b):
            return []
        a, b = (self._at(self.marks[label]) for label in "AB")
        low, high = sorted((a, b), key=lambda point: getattr(point, self.state.error))
        better = "A" if low is a else "B"
        apart = abs(a.true_bits - b.true_bits) / min(a.true_bits, b.true_bits)
        errors = [getattr(point, self.state.error) for point in (low, high)]
        words = f"{better} has the lower error ({errors[0]:.3g} against {errors[1]:.3g})"
        if apart <= EQUAL:
            return [f"A and B take equal true bits, within {apart:.1%}: {words}."]
        other = f"A takes {a.true_bits:.2f} and B {b.true_bits:.2f} true bits: {words}, but at "
        return [other + "other bits, so this says what bits buy, not which codec is better."]

    def code(self) -> str:
        """Return Python that makes the same figure."""
        names = [run.name for run in self.runs]
        marks = {label: tuple(place) for label, place in self.marks.items()}
        return (
            "from dpqlab.studies.pruning_runs import bundled_run\n"
            "from dpqlab.viz.pruning_path import pruning_path\n\n"
            f"runs = [bundled_run(name) for name in {names}]\n"
            f"figure = pruning_path(runs, error={self.state.error!r}, marks={marks})\n"
        )

    def data(self) -> dict[str, list[Any]]:
        """Return all points of all runs."""
        points = [(run, i, point) for run in self.runs for i, point in enumerate(run.points)]
        best = {run.name: set(front(run.points, self.state.error)) for run in self.runs}
        columns: dict[str, list[Any]] = {
            "run": [run.name for run, _, _ in points],
            "budget": [point.budget for _, _, point in points],
            "on_front": [i in best[run.name] for run, i, _ in points],
        }
        for name in ("share", "codewords", "true_bits", "stored_bytes", *ERRORS):
            columns[name] = [getattr(point, name) for _, _, point in points]
        return columns

    def controls(self) -> Sequence[widgets.Widget]:
        """Return the controls."""
        runs = widgets.Dropdown(options=list(self._known), description="Model")
        errors = widgets.Dropdown(
            options=[(ERROR_NAMES[name], name) for name in ERRORS],
            description="Error",
            layout=widgets.Layout(width="460px"),
        )
        return (
            self.bind(runs, "run"),
            self._budget,
            self.bind(errors, "error"),
            *(self._pin_button(label) for label in "AB"),
            self._button("Clear pins", "Take A and B away", lambda: self.pin("", "")),
        )

    def body(self) -> Sequence[widgets.Widget]:
        """Return the figures, and what saves."""
        return (self.plot, self.pictures, self.parts, self.saver.panel)

    def pin(self, *labels: str) -> None:
        """Pin the present point as ``"A"`` or ``"B"``; two empty names take both pins away."""
        for label in labels:
            if label not in ("A", "B", ""):
                raise ConfigError(f"no pin {label!r}: expected 'A' or 'B'")
        here = [self.run.name, self.index]
        pins = {label.lower(): here for label in labels if label}
        self.state.set(pins or {"a": [], "b": []})

    def task(self) -> PruneTask:
        """Return what it takes to make the present point for real."""
        pruning = self.run.about["pruning"]
        return PruneTask(
            source=str(self.run.about["source"]),
            preset=self.run.name,
            budget=self.now.budget,
            form=pruning["form"],
        )

    def close(self) -> None:
        """Stop what runs, and let go of the widgets."""
        self.saver.stop()
        self.parts.close()
        self.pictures.close()
        super().close()

    def _at(self, place: Place) -> RunPoint:
        return self._known[place[0]].points[place[1]]

    def _stops(self) -> list[tuple[str, int]]:
        return [(fraction(point.budget), i) for i, point in enumerate(self.run.points)]

    def _slid(self, change: Any) -> None:
        if change["new"] is not None:
            self.state.point = change["new"]

    def _moved(self, _change: Any) -> None:
        """Bring the slider to the state; its stops are those of the run."""
        stops = self._stops()
        if list(self._budget.options) != stops:
            self._budget.unobserve(self._slid, names="value")
            self._budget.options = stops
            self._budget.observe(self._slid, names="value")
        self._budget.value = self.index

    def _clicked(self, point: Point) -> None:
        place = point.get("customdata")
        if isinstance(place, list) and len(place) == 2:
            self.state.set({"run": place[0], "point": place[1]})

    def _pin_button(self, label: str) -> widgets.Button:
        tip = f"Keep this point as {label}, to compare others with it"
        return self._button(f"Pin {label}", tip, lambda: self.pin(label))

    def _button(self, text: str, tip: str, action: Any) -> widgets.Button:
        button = widgets.Button(description=text, tooltip=tip, layout={"width": "auto"})
        button.on_click(lambda _button: self._act(action))
        return button


def _budget(point: RunPoint) -> str:
    if point.budget is None:
        return "all codewords"
    return f"codebooks within {fraction(point.budget)} of the bits of the codes"


def _stored(point: RunPoint) -> str:
    return f"{point.stored_bytes / 1e6:.2f} MB, {point.parts['pool'] / 8e6:.3f} MB of it codebooks"
