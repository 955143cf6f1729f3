"""Tracing a student on this machine, beside the kernel: Run, Stop, time left."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator
from dataclasses import replace

import ipywidgets as widgets
import torch

from dpqlab.diffusion.sampling import SampleRequest
from dpqlab.errors import ConfigError
from dpqlab.tracing import Trace, TraceBuilder, TraceConfig, TraceStep, load_pair, trace_steps
from dpqlab.widgets.job import Job

IMAGES, BATCH = 4, 2
HERE = " (here)"
"""What the name of a student that was traced here ends in, beside the recorded one."""


class LiveTrace:
    """A button that traces, one that stops, and a line that tells how far it is.

    Parameters
    ----------
    on_trace
        Called with the trace of the images so far whenever a batch of them is complete.

    Attributes
    ----------
    panel
        Both buttons and the line.
    job
        The work.
    """

    def __init__(self, on_trace: Callable[[Trace], None]) -> None:
        self.on_trace = on_trace
        self.run_button = widgets.Button(
            description="Trace here",
            tooltip=f"Trace the student of the strip on this machine, with {IMAGES} images",
        )
        self.stop_button = widgets.Button(description="Stop", disabled=True)
        self.line = widgets.HTML()
        self.panel = widgets.HBox([self.run_button, self.stop_button, self.line])
        self.stop_button.on_click(lambda _button: self.stop())
        self.job: Job[TraceStep] | None = None
        self._builder: TraceBuilder | None = None
        self._told = 0

    def start(self, teacher: str, student: str, *, steps: int, seed: int = 0) -> bool:
        """Begin to trace; False while another run goes on.

        Parameters
        ----------
        teacher, student
            Bundled names or folders.
        steps, seed
            Of sampling.
        """
        if self.job is not None and self.job.running:
            return False
        request = SampleRequest(labels=tuple(range(IMAGES)), steps=steps, seed=seed)
        self._builder, self._told = None, 0
        self.run_button.disabled, self.stop_button.disabled = True, False
        self._say(f"Loading {student} ...")
        self.job = Job(
            lambda: self._steps(teacher, student, request),
            on_records=self._arrived,
            on_end=self._ended,
        )
        return self.job.start()

    def stop(self) -> None:
        """Ask the run to end; complete batches stay."""
        if self.job is not None:
            self.job.stop()

    def _steps(self, teacher: str, student: str, request: SampleRequest) -> Iterator[TraceStep]:
        # two cores: one for the page
        torch.set_num_threads(1)
        pair = load_pair(teacher, student)
        pair = replace(pair, student_name=f"{pair.student_name}{HERE}")
        self._builder = TraceBuilder(pair=pair, request=request)
        yield from trace_steps(pair, request, TraceConfig(batch=BATCH, shown=IMAGES))

    def _arrived(self, records: list[TraceStep]) -> None:
        builder = self._builder
        assert builder is not None
        for record in records:
            builder.add(record)
        last = records[-1]
        self._say(
            f"images {last.first + 1} to {last.first + last.count}, step {last.index + 1} of "
            f"{last.total}; about {last.remaining:.0f} s left"
        )
        if builder.images > self._told:
            self._told = builder.images
            self.on_trace(builder.trace())

    def _ended(self, job: Job[TraceStep]) -> None:
        self.run_button.disabled, self.stop_button.disabled = False, True
        if job.status == "failed":
            self._say(f"⚠ {job.error}")
        else:
            self._say(f"{job.status}: {self._told} images in {job.seconds:.0f} s")

    def _say(self, text: str) -> None:
        self.line.value = f'<span role="status">{html.escape(text)}</span>'


def model_of(trace: Trace) -> str:
    """Return the name of the model that was traced, here or not."""
    return trace.about.student.removesuffix(HERE)


def request_code(trace: Trace) -> str:
    """Return Python that makes a trace anew, as an expression."""
    about = trace.about
    if about.sampler not in ("ddim", "dpm"):
        raise ConfigError(f"{trace.name} was drawn by a sampler of its own, {about.sampler!r}")
    scheduler = "" if about.sampler == "ddim" else f", scheduler={about.sampler!r}"
    return (
        f"trace(\n    load_pair({about.teacher!r}, {model_of(trace)!r}{scheduler}),\n"
        f"    SampleRequest(labels={about.labels}, seed={about.seed}, "
        f"first_index={about.first_index}, steps={about.steps}, guidance={about.guidance}),\n)"
    )
