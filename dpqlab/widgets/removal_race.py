"""Measure here what removing codewords costs, where that is not on record."""

from __future__ import annotations

from collections.abc import Callable, Generator

import ipywidgets as widgets

from dpqlab.studies.codewords import CodewordStudy, output_error
from dpqlab.studies.removal_records import RemovalRecords
from dpqlab.studies.removals import Removal, race_steps
from dpqlab.widgets.run_panel import RunPanel
from dpqlab.widgets.threads import one_thread


class RemovalRace(RunPanel[Removal]):
    """Buttons Measure here and Stop, what they say, and the removals that are known.

    Parameters
    ----------
    study
        Gives the pool of a kind of layer; called in the thread.
    on_records
        Called when new removals are there.
    records
        Those that are known already.

    Attributes
    ----------
    removals
        What was measured, by kind.
    errors
        Output error with all codewords, by kind.
    """

    def __init__(
        self,
        study: Callable[[str], CodewordStudy],
        *,
        on_records: Callable[[], None],
        records: RemovalRecords | None = None,
    ) -> None:
        button = widgets.Button(
            description="Measure here",
            tooltip="Remove more and more codewords of this pool on this machine: some minutes",
        )
        super().__init__(button, rate=2.0)
        self._study, self._on_records = study, on_records
        self._kind = ""
        pools = records.pools if records else ()
        self.removals = {pool.kind: pool.removals for pool in pools}
        self.errors = {pool.kind: pool.output_error for pool in pools}

    def start(self, kind: str) -> bool:
        """Begin to measure the pool of a kind anew; False while a measurement goes on."""
        if self.job.running:
            return False
        self._kind = kind
        self.removals[kind] = ()
        return self._begin(f"Measuring {kind} with all codewords.")

    def _steps(self) -> Generator[Removal, None, None]:
        with one_thread():
            study = self._study(self._kind)
            self.errors[self._kind] = output_error(study)
            yield from race_steps(study)

    def _arrived(self, records: list[Removal]) -> None:
        self.removals[self._kind] += tuple(records)
        last = records[-1]
        self._progress(f"{last.measure}, {last.manner}, {last.share:.0%} removed")
        self._on_records()

    def _end_words(self) -> str:
        return ""  # the figure says it

    def _enable(self, *, running: bool) -> None:
        """Show Stop while there is something to stop only: the view has another one."""
        super()._enable(running=running)
        self.stop_button.layout.display = "" if running else "none"
