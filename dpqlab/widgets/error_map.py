"""Error across blocks and timesteps: the view."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import plotly.graph_objects as go

from dpqlab.errors import ConfigError
from dpqlab.tracing import MEASURES, Measure, Trace, bundled_traces, load_trace
from dpqlab.tracing.bundled import DEFAULT_MODEL
from dpqlab.viz.error_curve import EQUAL_BITS, cell_distribution
from dpqlab.viz.error_map import Selection, clicked, error_map
from dpqlab.viz.trace_pictures import common_gain, step_pictures
from dpqlab.viz.trace_scale import NAMES, short_name
from dpqlab.widgets.error_map_controls import (
    BOTH,
    ErrorMapState,
    StudentControls,
    choices,
    limits_of,
)
from dpqlab.widgets.layout import row
from dpqlab.widgets.live_trace import LiveTrace, model_of, request_code
from dpqlab.widgets.pixels import Pixels
from dpqlab.widgets.plot import Plot
from dpqlab.widgets.view import View

FIRST = (("vq-1bit", "dpq-1bit"), ("vq-1bit", "pq-1bit"))
"""Pairs of students to open with: the first that is there."""
OWN_IMPORTS = """\
from dpqlab.diffusion import SampleRequest
from dpqlab.tracing import load_pair, trace
"""
CODE = """\
{extra}from dpqlab.tracing import load_trace
from dpqlab.viz.error_map import Selection, error_map

traces = [
{traces}
]
selection = Selection({at})
figure = error_map(traces, measure={measure!r}, branch={branch!r}, selection=selection)
"""
GAP = 1  # px between the images of a step
LARGE = 32  # px; images of more are not enlarged


class ErrorMap(View):
    """Where students leave their teacher: a map of blocks and sampling steps for each.

    Parameters
    ----------
    students
        Bundled traces by name, or files that ``dpqlab trace`` wrote; default: VQ and PQ at one bit.
    traces
        Traces in memory, by the name that they get on screen.
    model
        Whose students the bundled traces are of.

    Examples
    --------
    >>> view = ErrorMap(["vq-1bit"])
    >>> view.state.measure = "local"
    >>> len(view.data()["timestep"])
    160
    """

    name = "error-map"
    state: ErrorMapState  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(
        self,
        students: Sequence[str | Path] | None = None,
        *,
        traces: Mapping[str, Trace] | None = None,
        model: str = DEFAULT_MODEL,
    ) -> None:
        self.model = model
        self._own = dict(traces or {})
        self._read: dict[str, Trace] = {}
        if students is None:
            students = list(self._own) or first_students(model)
        chosen = [str(student) for student in students]
        if not chosen:
            raise ConfigError("no student to show: name one or more")
        names = list(dict.fromkeys([*self._own, *chosen, *_of_bundled_students(chosen, model)]))
        first = self.trace(chosen[0])
        middle = {"block": len(first.blocks) * 3 // 8, "step": first.steps * 3 // 5}
        limits = limits_of(first)
        super().__init__(ErrorMapState(students=chosen, known=names, limits=limits, **middle))
        self.cell_plot = Plot(label="errors of the chosen cell")
        self.pictures = Pixels(label="images of the chosen step", zoom=2)
        self.caption = widgets.HTML()
        self.live = LiveTrace(self._traced)
        self.live.run_button.on_click(lambda _button: self._act(self.run))
        self._students = StudentControls(self.state, names)
        self.plot.on_click(self._clicked)
        self.pictures.on_click(self._picked)

    def trace(self, name: str) -> Trace:
        """Return the trace of a name; a file is read once."""
        if name in self._own:
            return self._own[name]
        if name not in self._read:
            self._read[name] = load_trace(name, self.model)
        return self._read[name]

    @property
    def traces(self) -> list[Trace]:
        """The traces on screen."""
        return [self.trace(name) for name in self.state.students]

    @property
    def shown(self) -> Trace:
        """The trace whose images are shown."""
        return self.traces[min(self.state.student, len(self.state.students) - 1)]

    @property
    def measure(self) -> Measure:
        """Which error the maps show."""
        return self.state.measure  # pyright: ignore[reportReturnType]

    @property
    def branch(self) -> str | None:
        """The branch of guidance; None for both."""
        return None if self.state.branch == BOTH else self.state.branch

    @property
    def selection(self) -> Selection:
        """What is marked, and the image below the maps."""
        first, kept = self.traces[0], self.shown.pictures.shape[2]
        return Selection(
            block=min(self.state.block, len(first.blocks) - 1),
            step=min(self.state.step, first.steps - 1),
            image=min(self.state.image, kept - 1) if self.shown.picture_steps else None,
            student=min(self.state.student, len(self.state.students) - 1),
        )

    def figure(self) -> go.Figure:
        """Return the maps."""
        return error_map(
            self.traces, measure=self.measure, branch=self.branch, selection=self.selection
        )

    def cell_figure(self) -> go.Figure:
        """Return how the errors of the chosen cell are spread over tokens."""
        at = self.selection
        measures: tuple[Measure, ...] = ("local", "accumulated")
        if self.state.measure == "pass":
            measures = ("local", "pass")
        return cell_distribution(
            self.traces, block=at.block, step=at.step, measures=measures, branch=self.branch
        )

    def sentence(self) -> str:
        """Return the errors of the chosen cell, and how the run ends."""
        at, measure = self.selection, self.measure
        first = self.traces[0]
        parts = [
            f"Block {at.block} at timestep {first.timesteps[at.step]}, relative squared error."
        ]
        for trace in self.traces:
            cell = (
                f"{NAMES[m]} {trace.error(m, self.branch)[at.block, at.step]:.2g}" for m in MEASURES
            )
            start, end = trace.by_step(measure, self.branch)[[0, -1]]
            parts.append(
                f"{short_name(trace)}: {', '.join(cell)}; mean over blocks, {NAMES[measure]}, from "
                f"{start:.2g} at the first step to {end:.2g} at the last."
            )
        bits = [trace.about.true_bits for trace in self.traces]
        if max(bits) > EQUAL_BITS * min(bits):
            parts.append("True bits differ: this is no comparison of codecs.")
        return " ".join(parts)

    def code(self) -> str:
        """Return Python that makes the same maps."""
        made = {
            name: request_code(self._own[name]) if name in self._own else self._load(name)
            for name in self.state.students
        }
        lines = [f"    {line}" for call in made.values() for line in f"{call},".splitlines()]
        at = self.selection
        return CODE.format(
            extra=OWN_IMPORTS if self._own.keys() & made.keys() else "",
            traces="\n".join(lines),
            at=f"block={at.block}, step={at.step}, image={at.image}, student={at.student}",
            measure=self.state.measure,
            branch=self.branch,
        )

    def _load(self, name: str) -> str:
        """Return Python that loads a trace."""
        of = "" if self.model == DEFAULT_MODEL else f", {self.model!r}"
        return f"load_trace({name!r}{of})"

    def data(self) -> dict[str, list[Any]]:
        """Return every cell of every map, with its three errors, as columns."""
        names = ("student", "true_bits", "block", "step", "timestep")
        columns: dict[str, list[Any]] = {name: [] for name in (*names, *MEASURES)}
        for trace in self.traces:
            for block, label in enumerate(trace.blocks):
                for step, timestep in enumerate(trace.timesteps):
                    where = (trace.name, trace.about.true_bits, label, step, timestep)
                    for name, value in zip(names, where, strict=True):
                        columns[name].append(value)
                    for measure in MEASURES:
                        errors = trace.error(measure, self.branch)
                        columns[measure].append(float(errors[block, step]))
        return columns

    def run(self) -> bool:
        """Trace the student whose images are shown on this machine; False if a run goes on."""
        about, model = self.shown.about, model_of(self.shown)
        return self.live.start(about.teacher, model, steps=about.steps, seed=about.seed)

    def close(self) -> None:
        """Stop what runs, and let go of the widgets."""
        self.live.stop()
        super().close()

    def controls(self) -> Sequence[widgets.Widget]:
        """Return the rows: students, what is shown, the cell, tracing here."""
        made = {name: self.bind(c, name) for name, c in choices(self.traces[0]).items()}
        what = row(made["measure"], made["branch"])
        images = [made["image"]] if "image" in made else []
        cell = row(made["block"], made["step"], self._students.images_of, *images)
        return (widgets.VBox([self._students.row, what, cell, self.live.panel]),)

    def body(self) -> Sequence[widgets.Widget]:
        """Return the maps over the chosen cell."""
        images = widgets.VBox([self.caption, self.pictures])
        self.cell_plot.layout.flex = "1 1 420px"
        below = row(self.cell_plot, images)
        below.layout.align_items = "flex-start"
        return (self.plot, below)

    def show(self) -> None:
        """Draw maps, cell and images."""
        super().show()
        self.cell_plot.update(self.cell_figure())
        self._show_pictures()

    def _show_pictures(self) -> None:
        at, trace = self.selection, self.shown
        hidden = at.image is None
        self.pictures.layout.display = self.caption.layout.display = "none" if hidden else None
        if at.image is None:
            return
        gain = common_gain(self.traces)
        timestep = trace.timesteps[trace.picture_steps[trace.nearest_picture(at.step)]]
        text = (
            f"What both expect to draw, at timestep {timestep}: teacher, {_plain(trace)}, "
            f"difference × {gain} (grey: none)."
        )
        self.caption.value = f'<p style="margin: 0">{html.escape(text)}</p>'
        self.pictures.label = text
        self.pictures.zoom = 2 if trace.pictures.shape[-1] <= LARGE else 1
        pixels = step_pictures(trace, at.step, gain=gain, gap=GAP)
        self.pictures.show(pixels)
        side = trace.pictures.shape[-1] + GAP
        self.pictures.cell = [pixels.shape[0], side]
        self.pictures.frame((0, at.image * side, pixels.shape[0], side - GAP))

    def _clicked(self, point: dict[str, Any]) -> None:
        found = clicked(point, len(self.state.students))
        if found:
            self.state.set(found)

    def _picked(self, cell: dict[str, Any]) -> None:
        side = self.shown.pictures.shape[-1] + GAP
        self.state.image = min(cell["column"] // side, self.shown.pictures.shape[2] - 1)

    def _traced(self, trace: Trace) -> None:
        """Show a trace that was made here."""
        name = _plain(trace)
        self._own[name] = trace
        self._students.add(name)
        if name not in self.state.known:
            self.state.known = [*self.state.known, name]
        if name not in self.state.students:
            self.state.students = [*self.state.students, name]
        else:
            self.redraw()


def first_students(model: str = DEFAULT_MODEL) -> list[str]:
    """Return the bundled traces that a view opens with."""
    there = bundled_traces(model)
    for pair in FIRST:
        if set(pair) <= there.keys():
            return list(pair)
    if not there:
        raise ConfigError(
            f"this installation has no recorded traces of {model}: make one with `dpqlab trace`, "
            "and name it"
        )
    return list(there)[:2]


def _of_bundled_students(chosen: Sequence[str], model: str) -> list[str]:
    """Return the other bundled traces, if bundled ones are shown."""
    there = list(bundled_traces(model))
    return there if set(there) & set(chosen) else []


def _plain(trace: Trace) -> str:
    return trace.name.removeprefix(f"{trace.about.teacher}-")
