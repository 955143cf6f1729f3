"""The controls of long work beside the kernel: a run button, a stop button, and a line of words."""

from __future__ import annotations

import html
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import ClassVar, Generic

import ipywidgets as widgets

from dpqlab.widgets.job import Job, Record
from dpqlab.widgets.layout import row


class RunPanel(ABC, Generic[Record]):
    """Base of the panels that run a :class:`dpqlab.widgets.Job` and say how far it is.

    A subclass says what is done (:meth:`_steps`), what happens with the records (:meth:`_arrived`),
    how the end is told (:meth:`_end_words`), and what begins it: a ``start`` with arguments of its
    own that ends in :meth:`_begin`. The base keeps the buttons right, stops, and tells errors.

    Parameters
    ----------
    run_button
        What begins the work; who makes it, or the subclass, says what a press does.
    rate
        Most deliveries of records a second.

    Attributes
    ----------
    run_button, stop_button
        One of them can be pressed: that which means something now.
    words
        The line, announced by screen readers.
    panel
        All of it.
    job
        The thread.
    """

    stopping: ClassVar[str] = "Stopping after the step that is under way."
    """What is said from Stop until the end."""

    def __init__(self, run_button: widgets.Button, *, rate: float = 5.0) -> None:
        self.job: Job[Record] = Job(
            self._steps, on_records=self._arrived, on_end=self._ended, rate=rate
        )
        self.run_button = run_button
        self.stop_button = widgets.Button(description="Stop")
        self.stop_button.on_click(lambda _button: self.stop())
        self.words = widgets.HTML()
        self.panel = row(self.run_button, self.stop_button, self.words)
        self._enable(running=False)

    def stop(self) -> None:
        """Ask the work to end after the step that it is in; nothing happens if none goes on."""
        if self.job.running:
            self.job.stop()
            self.stop_button.disabled = True
            self.tell(self.stopping)

    def tell(self, text: str) -> None:
        """Say something in the line; "" empties it."""
        line = f'<span role="status" style="line-height: 1.4">{html.escape(text)}</span>'
        self.words.value = line if text else ""

    # What a panel is: to be written for each.

    @abstractmethod
    def _steps(self) -> Iterable[Record]:
        """Return the work; called in its thread, once a run."""

    @abstractmethod
    def _arrived(self, records: list[Record]) -> None:
        """Take new records; called in another thread than the work's."""

    @abstractmethod
    def _end_words(self) -> str:
        """Say how a run ended that raised nothing: ``job.status`` is "done" or "stopped"."""

    # What the base does with it.

    def _begin(self, text: str) -> bool:
        """Begin a run and say so; False, and nothing happens, while one goes on."""
        if self.job.running:
            return False
        self._enable(running=True)
        self.tell(text)
        return self.job.start()

    def _progress(self, text: str) -> None:
        """Say how far it is, unless it is about to stop."""
        if not self.job.stopping:
            self.tell(text)

    def _ended(self, job: Job[Record]) -> None:
        self._enable(running=False)
        self.tell(f"⚠ {job.error}" if job.error else self._end_words())

    def _enable(self, *, running: bool) -> None:
        """Let those buttons be pressed that mean something now."""
        self.run_button.disabled, self.stop_button.disabled = running, not running
