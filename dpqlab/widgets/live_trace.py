"""Tracing a student on this machine, beside the kernel: Run, Stop, time left."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import replace

import ipywidgets as widgets

from dpqlab.diffusion.sampling import SampleRequest
from dpqlab.errors import ConfigError
from dpqlab.tracing import Trace, TraceBuilder, TraceConfig, TraceStep, load_pair, trace_steps
from dpqlab.widgets.run_panel import RunPanel
from dpqlab.widgets.threads import one_thread

IMAGES, BATCH = 4, 2
HERE = " (here)"
"""What the name of a student that was traced here ends in, beside the recorded one."""


class LiveTrace(RunPanel[TraceStep]):
    """A button that traces, one that stops, and a line that tells how far it is.

    Parameters
    ----------
    on_trace
        Called with the trace of the images so far whenever a batch of them is complete.
    """

    def __init__(self, on_trace: Callable[[Trace], None]) -> None:
        button = widgets.Button(
            description="Trace here",
            tooltip=f"Trace the student of the strip on this machine, with {IMAGES} images",
        )
        super().__init__(button)
        self.on_trace = on_trace
        self._now: tuple[str, str, SampleRequest] | None = None
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
        if self.job.running:
            return False
        request = SampleRequest(labels=tuple(range(IMAGES)), steps=steps, seed=seed)
        self._now = (teacher, student, request)
        self._builder, self._told = None, 0
        return self._begin(f"Loading {student} ...")

    def _steps(self) -> Generator[TraceStep, None, None]:
        assert self._now is not None
        teacher, student, request = self._now
        # two cores: one for the page
        with one_thread():
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
        self._progress(
            f"images {last.first + 1} to {last.first + last.count}, step {last.index + 1} of "
            f"{last.total}; about {last.remaining:.0f} s left"
        )
        if builder.images > self._told:
            self._told = builder.images
            self.on_trace(builder.trace())

    def _end_words(self) -> str:
        return f"{self.job.status}: {self._told} images in {self.job.seconds:.0f} s"


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
