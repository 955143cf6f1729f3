"""The part of the calibration view that runs a calibration here: Run, Stop, what came of it."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import fields
from pathlib import Path

import ipywidgets as widgets

from dpqlab.calibration import CalibrationRecord
from dpqlab.calibration.recording import Recording
from dpqlab.errors import ConfigError
from dpqlab.studies.live_calibration import (
    LiveConfig,
    LiveMoment,
    LivePair,
    live_calibration,
    live_pair,
    recording_of,
    save_live,
)
from dpqlab.widgets.run_panel import RunPanel

FOLDER = "calibrated-student"


class LiveRun(RunPanel[LiveMoment]):
    """A live calibration in a thread beside the kernel, with its buttons and its line of words.

    Parameters
    ----------
    on_start, on_records
        Called when a run begins, and whenever new records are there.

    Attributes
    ----------
    config
        Settings of the run that is going on, or of the last one.
    moments
        What it yielded so far.
    pair
        Its student and teacher; None before they are loaded.
    save_button
        Can be pressed when there is a student to save; who makes the panel says what it does.
    """

    stopping = "Stopping after the steps that are under way."

    def __init__(self, *, on_start: Callable[[], None], on_records: Callable[[], None]) -> None:
        self.config = LiveConfig()
        self.moments: list[LiveMoment] = []
        self.pair: LivePair | None = None
        self._on_start, self._on_records = on_start, on_records
        self.save_button = widgets.Button(description="Save student")
        super().__init__(widgets.Button(description="Run", button_style="primary"), rate=2.0)
        self.panel.children = (self.run_button, self.stop_button, self.save_button, self.words)

    @property
    def records(self) -> tuple[CalibrationRecord, ...]:
        """The records so far."""
        return tuple(moment.record for moment in self.moments[:])

    @property
    def recording(self) -> Recording | None:
        """The run so far in the form of a recorded one; None before its first record."""
        moments = self.moments[:]
        return recording_of(self.config, moments) if moments else None

    def start(self, config: LiveConfig) -> bool:
        """Begin a run; False, and nothing happens, while one is going on."""
        if self.job.running:
            return False
        self.config, self.moments, self.pair = config, [], None
        started = self._begin("Loading the model and compressing a copy of it: some seconds.")
        self._on_start()
        return started

    def save(self, folder: str | Path | None = None) -> Path:
        """Save the student of the last run, in its best state, as a model folder.

        Parameters
        ----------
        folder
            None for a new one in the folder of the notebook.

        Raises
        ------
        ConfigError
            If there is no student, or its run is not over.
        CheckpointError
            If the folder exists, or cannot be written.
        """
        if self.pair is None or not self.moments or self.job.running:
            raise ConfigError("no calibrated student here: press Run, and wait or press Stop")
        path = _unused(FOLDER) if folder is None else Path(folder)
        save_live(self.pair, self.config, self.records, path)
        self.tell(f'Saved as the folder {path.name}: load_pipeline("{path.name}") opens it.')
        return path

    def _steps(self) -> Generator[LiveMoment, None, None]:
        self.pair = live_pair(self.config)
        yield from live_calibration(self.pair, self.config)

    def _arrived(self, records: list[LiveMoment]) -> None:
        self.moments.extend(records)
        self._progress(progress_words(records[-1], self.config.steps, self.job.seconds))
        self._on_records()

    def _end_words(self) -> str:
        """Say how the run ended, and which state the student keeps."""
        records = self.records
        if not records:
            return "Stopped before the first record."
        best = min(records, key=lambda record: record.total)
        how = "Stopped" if self.job.status == "stopped" else "Done"
        return (
            f"{how} after step {records[-1].step} of {self.config.steps}, {self.job.seconds:.0f} s."
            f" The student keeps its best state, that of step {best.step}: held-out error "
            f"{best.total:.4f}, {records[0].total:.4f} before."
        )

    def _enable(self, *, running: bool) -> None:
        super()._enable(running=running)
        self.save_button.disabled = running or not self.moments


def progress_words(moment: LiveMoment, steps: int, seconds: float) -> str:
    """Say how far a run is."""
    record = moment.record
    left = "" if moment.remaining is None else f", about {moment.remaining:.0f} s left"
    return (
        f"Step {record.step} of {steps}, {seconds:.0f} s passed{left}. Held-out error "
        f"{record.total:.4f}; {record.changed:.1%} of the codes changed, {record.revived} revived."
    )


def config_code(config: LiveConfig) -> str:
    """Write the settings that differ from the defaults as Python."""
    usual = LiveConfig()
    names = [field.name for field in fields(LiveConfig)]
    given = [
        f"{name}={getattr(config, name)!r}"
        for name in names
        if getattr(config, name) != getattr(usual, name)
    ]
    return f"LiveConfig({', '.join(given)})"


def _unused(name: str) -> Path:
    """Return a folder name that does not exist yet."""
    number = 1
    while (path := Path(name if number == 1 else f"{name}-{number}")).exists():
        number += 1
    return path
