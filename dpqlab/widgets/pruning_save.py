"""Make a chosen point of a pruning path for real: prune the model here, and save its folder."""

from __future__ import annotations

from collections.abc import Callable, Generator
from pathlib import Path

import ipywidgets as widgets

from dpqlab.errors import DPQError
from dpqlab.studies.pruned_checkpoint import PruneProgress, PruneTask, prune_checkpoint
from dpqlab.widgets.run_panel import RunPanel

STAGES = {
    "inputs": "measuring what flows into the layers",
    "compress": "k-means",
    "prune": "pruning",
    "save": "saving",
}


class PrunedCheckpoint(RunPanel[PruneProgress]):
    """Buttons Save model and Stop, a folder's name, and how far it is.

    Parameters
    ----------
    task
        Called when the work begins: what to make.

    Attributes
    ----------
    folder
        The text field with the folder's name.
    """

    def __init__(self, task: Callable[[], PruneTask]) -> None:
        button = widgets.Button(
            description="Save model", tooltip="Prune the model to this budget here, and write it"
        )
        super().__init__(button, rate=2.0)
        self._task = task
        self._now: tuple[PruneTask, Path] | None = None
        self._last: PruneProgress | None = None
        self.folder = widgets.Text(value="pruned-model", description="Folder")
        self.panel.children = (self.folder, *self.panel.children)
        self.run_button.on_click(lambda _button: self.start())

    def start(self) -> bool:
        """Begin; False, and nothing happens, while it is going on or if it cannot work."""
        if self.job.running:
            return False
        self._now, self._last = (self._task(), Path(self.folder.value)), None
        try:
            prune_checkpoint(*self._now).close()
        except DPQError as error:
            self.tell(f"⚠ {error}")
            return False
        return self._begin("Loading the model.")

    def _steps(self) -> Generator[PruneProgress, None, None]:
        assert self._now is not None
        return prune_checkpoint(*self._now)

    def _arrived(self, records: list[PruneProgress]) -> None:
        self._last = last = records[-1]
        if last.ledger is None:
            left = f", about {last.left:.0f} s left" if last.done > 0.02 else ""
            self._progress(f"{last.done:.0%}, {STAGES[last.stage]}{left}. {last.note}")

    def _end_words(self) -> str:
        ledger = None if self._last is None else self._last.ledger
        if ledger is None or self._now is None:
            return "Stopped; nothing was written."
        folder = self._now[1]
        return (
            f"Saved as the folder {folder}: {ledger.true_bits_per_weight:.3f} true bits, "
            f'{ledger.stored_bytes / 1e6:.2f} MB. load_pipeline("{folder}") opens it.'
        )
