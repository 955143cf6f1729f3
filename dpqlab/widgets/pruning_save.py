"""Make a chosen point of a pruning path for real: prune the model here, and save its folder."""

from __future__ import annotations

import html
from collections.abc import Callable, Generator
from pathlib import Path

import ipywidgets as widgets

from dpqlab.errors import DPQError
from dpqlab.studies.pruned_checkpoint import PruneProgress, PruneTask, prune_checkpoint
from dpqlab.widgets.job import Job

STAGES = {
    "inputs": "measuring what flows into the layers",
    "compress": "k-means",
    "prune": "pruning",
    "save": "saving",
}


class PrunedCheckpoint:
    """Buttons Save model and Stop, a folder's name, and how far it is.

    Parameters
    ----------
    task
        Called when the work begins: what to make.

    Attributes
    ----------
    folder
        The text field with the folder's name.
    job
        The thread.
    panel
        All of it.
    """

    def __init__(self, task: Callable[[], PruneTask]) -> None:
        self._task = task
        self._now: PruneTask | None = None
        self.job: Job[PruneProgress] = Job(
            self._steps, on_records=self._arrived, on_end=self._ended, rate=2.0
        )
        self.folder = widgets.Text(value="pruned-model", description="Folder")
        self.save_button = widgets.Button(
            description="Save model", tooltip="Prune the model to this budget here, and write it"
        )
        self.stop_button = widgets.Button(description="Stop", icon="stop", disabled=True)
        self.words = widgets.HTML()
        self.save_button.on_click(lambda _button: self.start())
        self.stop_button.on_click(lambda _button: self.stop())
        self.panel = widgets.Box(
            (self.folder, self.save_button, self.stop_button, self.words),
            layout=widgets.Layout(flex_flow="row wrap", align_items="center"),
        )

    def start(self) -> bool:
        """Begin; False, and nothing happens, while it is going on or if it cannot work."""
        if self.job.running:
            return False
        self._now = self._task()
        try:
            prune_checkpoint(self._now, Path(self.folder.value)).close()
        except DPQError as error:
            self._tell(f"⚠ {error}")
            return False
        self._enable(running=True)
        self._tell("Loading the model.")
        return self.job.start()

    def stop(self) -> None:
        """Ask it to end; nothing is written then."""
        if self.job.running:
            self.job.stop()
            self.stop_button.disabled = True
            self._tell("Stopping after the step that is under way.")

    def _steps(self) -> Generator[PruneProgress, None, None]:
        assert self._now is not None
        return prune_checkpoint(self._now, Path(self.folder.value))

    def _arrived(self, records: list[PruneProgress]) -> None:
        last = records[-1]
        if last.ledger is not None:
            self._tell(
                f"Saved as the folder {self.folder.value}: "
                f"{last.ledger.true_bits_per_weight:.3f} true bits, "
                f"{last.ledger.stored_bytes / 1e6:.2f} MB. "
                f'load_pipeline("{self.folder.value}") opens it.'
            )
        elif not self.job.stopping:
            left = f", about {last.left:.0f} s left" if last.done > 0.02 else ""
            self._tell(f"{last.done:.0%}, {STAGES[last.stage]}{left}. {last.note}")

    def _ended(self, job: Job[PruneProgress]) -> None:
        self._enable(running=False)
        if job.error:
            self._tell(f"⚠ {job.error}")
        elif job.status == "stopped":
            self._tell("Stopped; nothing was written.")

    def _enable(self, *, running: bool) -> None:
        self.save_button.disabled, self.stop_button.disabled = running, not running

    def _tell(self, text: str) -> None:
        self.words.value = f'<span role="status">{html.escape(text)}</span>'
