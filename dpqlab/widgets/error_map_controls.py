"""The knobs of :class:`dpqlab.widgets.ErrorMap`, and the controls that turn them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ipywidgets as widgets
import traitlets

from dpqlab.diffusion.classes import class_name
from dpqlab.tracing import MEASURES, Trace
from dpqlab.viz.trace_scale import NAMES
from dpqlab.widgets.layout import row
from dpqlab.widgets.state import State

BOTH = "both"
"""The name of all branches of guidance together."""


class ErrorMapState(State):
    """Knobs of :class:`ErrorMap`.

    Attributes
    ----------
    students
        Names of the traces on screen, in order, each once.
    measure
        "local", "pass" or "accumulated".
    branch
        Of guidance, or "both".
    block, step
        The chosen cell; indices.
    student
        Place among ``students`` of the one whose images are shown; beyond the last: the last.
    image
        Which of the kept images the strip shows.
    known, limits
        No knobs: the names of all students there are, and how many blocks, steps and images and
        which branches the traces have. What lies outside is refused.
    """

    known = traitlets.List(traitlets.Unicode())
    limits = traitlets.Dict()
    students = traitlets.List(traitlets.Unicode(), minlen=1).tag(sync_state=True)
    measure = traitlets.Enum(MEASURES, "accumulated").tag(sync_state=True)
    branch = traitlets.Unicode(BOTH).tag(sync_state=True)
    block = traitlets.Int(3, min=0).tag(sync_state=True)
    step = traitlets.Int(12, min=0).tag(sync_state=True)
    student = traitlets.Int(0, min=0).tag(sync_state=True)
    image = traitlets.Int(0, min=0).tag(sync_state=True)

    @traitlets.validate("students")
    def _known_students(self, proposal: Any) -> list[str]:
        students = proposal["value"]
        if len(set(students)) < len(students):
            raise traitlets.TraitError(f"students are {students}: expected each once")
        unknown = [name for name in students if self.known and name not in self.known]
        if unknown:
            raise traitlets.TraitError(
                f"no student {unknown[0]!r}: expected some of {', '.join(self.known)}"
            )
        return students

    @traitlets.validate("block", "step", "image", "branch")
    def _within_the_limits(self, proposal: Any) -> Any:
        name, value = proposal["trait"].name, proposal["value"]
        allowed = self.limits.get(name)
        if allowed is not None and value not in allowed:
            raise traitlets.TraitError(f"{name} is {value!r}: expected one of {_told(allowed)}")
        return value


def limits_of(trace: Trace) -> dict[str, Sequence[Any]]:
    """Return what block, step, image and branch may be, for traces like this one."""
    return {
        "block": range(len(trace.blocks)),
        "step": range(trace.steps),
        # who keeps no pictures shows none, whatever the knob says
        "image": range(trace.pictures.shape[2] or 1),
        "branch": [BOTH, *trace.branches],
    }


def _told(allowed: Sequence[Any]) -> str:
    if isinstance(allowed, range):
        return f"{allowed[0]} to {allowed[-1]}"
    return ", ".join(map(str, allowed))


class StudentControls:
    """Boxes that choose the students on screen, and a list that says whose images are shown.

    Parameters
    ----------
    state
        Whose ``students`` and ``student`` they turn, and follow.
    names
        Of the students there are.
    """

    def __init__(self, state: ErrorMapState, names: Sequence[str]) -> None:
        self.state = state
        self.boxes: list[widgets.Checkbox] = []
        self.row = row()
        self.images_of = widgets.Dropdown(description="Images of")
        self._following = False
        for name in names:
            self.add(name)
        self.images_of.observe(self._chose, names="value")
        state.observe(self._follow, names=("students", "student"))
        self._follow()

    def add(self, name: str) -> None:
        """Offer a student, unless it is there."""
        if any(box.description == name for box in self.boxes):
            return
        box = widgets.Checkbox(description=name, indent=False, layout={"width": "auto"})
        self.boxes.append(box)
        box.observe(self._ticked, names="value")
        self.row.children = (widgets.Label("Students"), *self.boxes)

    def _ticked(self, _change: Any) -> None:
        """Take over the ticked students; the last one cannot be taken away."""
        if self._following:
            return
        ticked = [box.description for box in self.boxes if box.value]
        kept = [name for name in self.state.students if name in ticked]
        if ticked:
            self.state.students = kept + [name for name in ticked if name not in kept]
        else:
            self._follow()

    def _chose(self, change: Any) -> None:
        if not self._following and change["new"] is not None:
            self.state.student = change["new"]

    def _follow(self, _change: Any = None) -> None:
        """Bring boxes and list up to the state."""
        students = self.state.students
        self._following = True
        try:
            for box in self.boxes:
                box.value = box.description in students
            self.images_of.options = [(name, i) for i, name in enumerate(students)]
            self.images_of.value = min(self.state.student, len(students) - 1)
        finally:
            self._following = False


def choices(first: Trace) -> dict[str, widgets.Widget]:
    """Return the controls of the other knobs, by knob, for traces like ``first``."""
    found: dict[str, widgets.Widget] = {
        "measure": widgets.ToggleButtons(
            options=[(NAMES[m], m) for m in MEASURES], description="Error"
        ),
        "branch": widgets.Dropdown(options=[BOTH, *first.branches], description="Guidance"),
        "block": _slider("Block", len(first.blocks)),
        "step": _slider("Step", first.steps),
    }
    if first.picture_steps:
        found["image"] = widgets.Dropdown(options=_image_names(first), description="Image")
    return found


def _slider(description: str, count: int) -> widgets.IntSlider:
    return widgets.IntSlider(
        max=count - 1, description=description, continuous_update=False, layout={"width": "260px"}
    )


def _image_names(trace: Trace) -> list[tuple[str, int]]:
    labels = trace.about.labels[: trace.pictures.shape[2]]
    teacher = trace.about.teacher
    return [(f"{i}: {class_name(label, teacher)}", i) for i, label in enumerate(labels)]
