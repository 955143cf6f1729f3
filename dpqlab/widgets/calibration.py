"""Calibration, live: replay a recorded run, or calibrate a small one here and watch it."""

from __future__ import annotations

import html
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import ipywidgets as widgets
import numpy as np
import plotly.graph_objects as go

from dpqlab.calibration import CalibrationRecord
from dpqlab.calibration.recording import (
    DEFAULT_MODEL,
    TEACHER,
    Recording,
    bundled_recording,
    recorded_on,
    runs_of,
)
from dpqlab.studies.live_calibration import LiveConfig
from dpqlab.viz.calibration_run import (
    calibration_run,
    compare_runs,
    index_at,
    run_words,
    strip_picture,
)
from dpqlab.widgets.calibration_controls import (
    LIVE,
    CalibrationControls,
    CalibrationState,
    recorded,
)
from dpqlab.widgets.live_run import LiveRun, config_code
from dpqlab.widgets.pixels import Pixels
from dpqlab.widgets.view import View

CELL = 90  # pixels that an image is enlarged to, at most
GAP = 2  # between images, before they are enlarged
NOTHING_YET = (
    "Nothing has run here yet. Run compresses the bundled model, which is all noise then, and "
    "trains it on this machine."
)


class CalibrationView(View):
    """Watch a calibration: a recorded one by moving through it, a live one as it runs.

    Parameters
    ----------
    run
        The name of a recorded run, or ``"live"``; None for the first of the recorded ones.
    live
        Settings of live runs; preset, steps and moving codes can be changed in the view. The
        recorded runs are those of the same model.

    Attributes
    ----------
    live
        The calibration that runs here.

    Examples
    --------
    >>> view = CalibrationView("best-1bit")
    >>> view.state.moment = 4
    >>> view.step, len(view.data()["block_1"]) == len(view.records)
    (2000, True)
    """

    name = "calibration"
    still: ClassVar[dict[str, Any]] = {"moment": 10**6}
    """Knobs for a picture that nobody can move: the end of the run."""
    state: CalibrationState

    def __init__(self, run: str | None = None, *, live: LiveConfig | None = None) -> None:
        self._base = live or LiveConfig()
        names = ("preset", "steps", "move_codes")
        knobs = {name: getattr(self._base, name) for name in names}
        if run is not None:
            knobs["run"] = run
        super().__init__(CalibrationState(model=self._base.model, **knobs))
        self.strip = Pixels(label="samples", zoom=1, cell=(CELL, CELL))
        self.live = LiveRun(on_start=self._began, on_records=self._arrived)
        self.live.run_button.on_click(lambda _button: self._act(self.run))
        self.live.save_button.on_click(lambda _button: self._act(self.live.save))
        self._changing = threading.RLock()
        self._controls = CalibrationControls(recorded(self._base.model).values())
        self._fit()
        for knob, control in self._controls.by_knob.items():
            self.bind(control, knob)
        self._running = widgets.VBox([self._controls.settings, self.live.panel])
        self._caption = widgets.HTML()
        self.plot.on_click(self._clicked)

    @property
    def recording(self) -> Recording | None:
        """The run on screen; None for a live one that has not begun."""
        return (
            self.live.recording
            if self.state.run == LIVE
            else recorded(self._base.model)[self.state.run]
        )

    @property
    def records(self) -> tuple[CalibrationRecord, ...]:
        """The records of the run on screen."""
        recording = self.recording
        return () if recording is None else recording.records

    @property
    def step(self) -> int:
        """The step that the cursor stands at."""
        records = self.records
        return records[min(self.state.moment, len(records) - 1)].step if records else 0

    def run(self) -> bool:
        """Begin a live run with the chosen settings; False if one is going on."""
        return self.live.start(self.chosen())

    def chosen(self) -> LiveConfig:
        """Return the settings of the next live run."""
        every = min(self._base.every, self.state.steps)
        return replace(
            self._base,
            preset=self.state.preset,
            steps=self.state.steps,
            move_codes=self.state.move_codes,
            every=every,
            strip_every=max(1, self._base.strip_every // every) * every,
        )

    def figure(self) -> go.Figure:
        """Return the course of the run, or all runs together."""
        if self.state.compare:
            return compare_runs(self._compared())
        return calibration_run(self.records, step=self.step) if self.records else _empty()

    def sentence(self) -> str:
        """Return the numbers at the cursor, or those that the runs ended with."""
        if self.state.compare:
            ends = (
                f"{r.name} at {r.true_bits:.3f} true bits {min(x.total for x in r.records):.4f}"
                for r in self._compared()
            )
            return f"Lowest held-out error: {'; '.join(ends)}."
        recording = self.recording
        if recording is None:
            return NOTHING_YET
        where = "" if self.state.run == LIVE else recorded_on(recording.name, self._base.model)
        place = f", recorded on {where}" if where else ""
        return f"{recording.name}{place}. {run_words(recording.records, self.step)}"

    def code(self) -> str:
        """Return Python that makes the same figure, or a live run with the same settings."""
        if self.state.compare:
            return COMPARE_CODE.format(**self._source())
        if self.state.run != LIVE:
            return REPLAY_CODE.format(name=self.state.run, step=self.step, **self._source())
        config = self.live.config if self.live.moments else self.chosen()
        return LIVE_CODE.format(config=config_code(config))

    def data(self) -> dict[str, list[Any]]:
        """Return the records of the run as columns."""
        records = self.records
        names = ("step", "total", "output", "features", "changed", "revived", "best", "true_bits")
        columns = {name: [getattr(r, name) for r in records] for name in (*names, "seconds")}
        blocks = range(len(records[0].blocks) if records else 0)
        return columns | {f"block_{b}": [r.blocks[b] for r in records] for b in blocks}

    def controls(self) -> Sequence[widgets.Widget]:
        """Return the row of the replay, and the rows of live runs."""
        return (self._controls.replay, self._running)

    def body(self) -> Sequence[widgets.Widget]:
        """Return the samples over the figure."""
        return (self._caption, self.strip, self.plot)

    def show(self) -> None:
        """Draw the figure and the samples at the cursor, and fit the controls to the run."""
        with self._changing:
            self._fit()
            self._running.layout.display = None if self.state.run == LIVE else "none"
            super().show()
            self._show_strip()

    def close(self) -> None:
        """Stop what runs, and let go of the widgets."""
        self.live.stop()
        super().close()

    def _began(self) -> None:
        """Turn to the live run."""
        self.state.set({"run": LIVE, "moment": 0, "compare": False})

    def _arrived(self) -> None:
        """Show new records; the cursor goes with them unless somebody moved it back."""
        with self._changing:
            follows = self.state.run == LIVE and self.state.moment >= self._controls.moment.max
            last = len(self.live.moments) - 1
            if follows and self.state.moment != last:
                self._fit()
                self.state.moment = last  # redraws
            else:
                self.redraw()

    def _fit(self) -> None:
        self._controls.fit(max(0, len(self.records) - 1))

    def _clicked(self, point: dict[str, Any]) -> None:
        """Move the cursor to the step that was clicked."""
        if self.records and not self.state.compare and isinstance(point.get("x"), int | float):
            self.state.moment = index_at(self.records, round(point["x"]))

    def _source(self) -> dict[str, str]:
        """Return the parts of the code that name another model than the default one."""
        model = self._base.model
        if model == DEFAULT_MODEL:
            return {"also": "", "folder": "", "next": ""}
        folder = f"runs_of({model!r})"
        return {"also": ", runs_of", "folder": folder, "next": f", {folder}"}

    def _compared(self) -> list[Recording]:
        live = self.live.recording
        return [*recorded(self._base.model).values(), *([] if live is None else [live])]

    def _show_strip(self) -> None:
        recording = self.recording
        hidden = recording is None or self.state.compare
        self.strip.layout.display = self._caption.layout.display = "none" if hidden else None
        if recording is None or hidden:
            return
        now, wanted = recording.strip_at(self.step), self._wanted()
        rows: list[np.ndarray] = [now] if wanted is None else [wanted, now]
        drawn = max(at for at in recording.strip_steps if at <= self.step)
        student = f"the best student up to step {drawn:,}" if drawn else "the student at first"
        text = f"Above: the teacher. Below, from the same noise: {student}."
        if wanted is None:
            text = f"{student[0].upper()}{student[1:]}."
        # about as large on the page, whatever the images are
        zoom = max(1, CELL // now.shape[-1])
        side = zoom * (now.shape[-1] + GAP)
        self.strip.cell = [side, side]
        self._caption.value = f'<p style="margin: 0">{html.escape(text)}</p>'
        self.strip.label = text
        self.strip.show(strip_picture(rows, zoom=zoom))

    def _wanted(self) -> np.ndarray | None:
        """Return what the teacher draws from the same noise, in as many steps."""
        if self.state.run != LIVE:
            folder = runs_of(self._base.model)
            if not (folder / f"{TEACHER}.npz").is_file():
                return None
            return bundled_recording(TEACHER, folder).strips[0]
        return None if self.live.pair is None else self.live.pair.wanted


COMPARE_CODE = """\
from dpqlab.calibration.recording import bundled_recordings{also}
from dpqlab.viz.calibration_run import compare_runs

figure = compare_runs(bundled_recordings({folder}))
"""
REPLAY_CODE = """\
from dpqlab.calibration.recording import bundled_recording{also}
from dpqlab.viz.calibration_run import calibration_run

recording = bundled_recording({name!r}{next})
figure = calibration_run(recording.records, step={step})
"""
LIVE_CODE = """\
from dpqlab.studies.live_calibration import LiveConfig, live_calibration, live_pair
from dpqlab.viz.calibration_run import calibration_run

config = {config}
pair = live_pair(config)
records = [moment.record for moment in live_calibration(pair, config)]
figure = calibration_run(records)
"""


def _empty() -> go.Figure:
    """Return the place where a live run will be drawn."""
    figure = go.Figure()
    figure.update_layout(height=80, paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)")
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    return figure
