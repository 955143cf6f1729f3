"""Remove codewords and draw, in a thread: the part of the importance view with pictures."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass

import ipywidgets as widgets
import numpy as np
from torch import nn

from dpqlab.diffusion.sampling import SampleRequest
from dpqlab.studies.codewords import CodewordStudy
from dpqlab.studies.removal_pictures import (
    RemovalPicture,
    RemovalTask,
    picture_difference,
    removal_pictures,
)
from dpqlab.viz.importance import MEASURE_NAMES
from dpqlab.viz.pruning_path import sample_rows
from dpqlab.widgets.plot import Plot
from dpqlab.widgets.run_panel import RunPanel
from dpqlab.widgets.threads import one_thread

REQUEST = SampleRequest(labels=(0, 1, 3, 5, 7, 8), seed=0, steps=20, guidance=1.5)
TEACHER, ALL, LEFT = "teacher", "all codewords", "removed"


@dataclass(frozen=True, kw_only=True, eq=False)
class Removing:
    """What is asked for: a model, its pools, and what to remove of them.

    ``model`` and ``pools`` are called in the thread: it may take a while to make each of them.
    """

    model: Callable[[], nn.Module]
    pools: Callable[[], Iterable[CodewordStudy]]
    task: RemovalTask


@dataclass(frozen=True, kw_only=True, eq=False)
class Drawn:
    """One more record of a row of pictures; or, with ``made``, a pool that is ready."""

    row: str
    total: int
    picture: RemovalPicture | None
    made: str = ""


class RemovalRun(RunPanel[Drawn]):
    """Buttons Remove and draw, Stop; what it says; and rows of pictures.

    Parameters
    ----------
    ask
        Called when a run begins: what to do.

    Attributes
    ----------
    rows
        Pictures by row, uint8 (N, C, H, W): the teacher's, those with all codewords of the pools,
        and those without the removed ones.
    plot
        The pictures.
    """

    def __init__(self, ask: Callable[[], Removing], request: SampleRequest = REQUEST) -> None:
        button = widgets.Button(
            description="Remove and draw",
            tooltip="Remove the least important codewords, and draw with what is left",
            icon="play",
            layout=widgets.Layout(width="auto"),
        )
        super().__init__(button, rate=3.0)
        self._ask = ask
        self.request = request
        self.rows: dict[str, np.ndarray] = {}
        self._drawn: dict[tuple[str, ...], np.ndarray] = {}
        self._now: Removing | None = None
        self._removed = self._total = 0
        self.plot = Plot(label="no pictures yet")
        self.plot.layout.display = "none"
        self.run_button.on_click(lambda _button: self.start())

    def start(self) -> bool:
        """Begin; False, and nothing happens, while a run is going on."""
        if self.job.running:
            return False
        self._now = self._ask()
        self.rows.pop(LEFT, None)
        self._show()
        return self._begin("Measuring the pools.")

    def _steps(self) -> Generator[Drawn, None, None]:
        with one_thread():
            yield from self._draw()

    def _draw(self) -> Generator[Drawn, None, None]:
        assert self._now is not None
        model, task = self._now.model(), self._now.task
        everything = RemovalTask(
            measure=task.measure, manner="at once", share=0.0, request=task.request
        )
        if task.request != self.request:
            self._drawn.clear()
        yield from self._row(TEACHER, (), model, everything)
        studies: list[CodewordStudy] = []
        for study in self._now.pools():
            studies.append(study)
            yield Drawn(row=TEACHER, total=0, picture=None, made=study.kind)
        yield from self._row(ALL, studies, model, everything)
        total = sum(len(study.scope) for study in studies)
        for picture in removal_pictures(model, studies, task):
            yield Drawn(row=LEFT, total=total, picture=picture)

    def _row(
        self, row: str, studies: Sequence[CodewordStudy], model: nn.Module, task: RemovalTask
    ) -> Generator[Drawn, None, None]:
        """Draw a row that stays the same whatever is removed, once."""
        key = tuple(study.kind for study in studies)
        total = sum(len(study.scope) for study in studies)
        if key not in self._drawn:
            for picture in removal_pictures(model, studies, task):
                yield Drawn(row=row, total=total, picture=picture)
                if picture.done == 1 and picture.images is not None:
                    self._drawn[key] = picture.images
        self.rows[row] = self._drawn[key]
        yield Drawn(row=row, total=total, picture=None)

    def _arrived(self, records: list[Drawn]) -> None:
        last = records[-1]
        picture = last.picture
        if last.row == LEFT and picture is not None:
            self._removed, self._total = picture.removed, last.total
        if picture is not None and picture.images is not None:
            self.rows[last.row] = picture.images
        if last.made:
            self._progress(f"Making codebooks: those of {last.made} are ready.")
        if picture is not None:
            what = "Removing codewords" if picture.stage == "remove" else f"Drawing: {last.row}"
            self._progress(f"{what}, {picture.done:.0%}, about {picture.left:.0f} s left.")
        self._show()

    def _end_words(self) -> str:
        if self.job.status == "stopped":
            return "Stopped; what was drawn so far is not finished."
        return self.sentence()

    def sentence(self) -> str:
        """Say what was removed, and how far the pictures are from the teacher's."""
        if LEFT not in self.rows or self._now is None:
            return ""
        task = self._now.task
        off = [picture_difference(self.rows[row], self.rows[TEACHER]) for row in (ALL, LEFT)]
        return (
            f"{self._removed:,} of {self._total:,} codewords removed by "
            f"{MEASURE_NAMES[task.measure]}, {task.manner}. Mean squared difference from the "
            "teacher's pictures (white = 1): "
            f"{off[1]:.4f}; {off[0]:.4f} with all codewords."
        )

    def _show(self) -> None:
        rows = {row: self.rows[row] for row in (TEACHER, ALL, LEFT) if row in self.rows}
        if rows:
            self.plot.layout.display = ""
            self.plot.update(sample_rows(rows), label=f"pictures: {', '.join(rows)}")
