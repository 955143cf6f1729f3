"""Where the error of a drawing goes: traced step by step, put into words, kept for a while."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from dpqlab.diffusion import SampleRequest
from dpqlab.errors import ConfigError, DPQError
from dpqlab_app.drawing.engine import Engine
from dpqlab_app.drawing.settings import DrawSettings
from dpqlab_app.page.markup import plural

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from dpqlab.tracing import Measure, Trace

MOST_KEPT = 12
"""Traces that are kept for all visitors together: 1 MB or less each."""
FIGURE_SECONDS = 0.7
"""At least so long between two figures of a trace that grows."""
WORDS: dict[str, str] = {
    "accumulated": "the compressed model draws its own picture",
    "pass": "full precision's noisy picture, the compressed model's own activations",
    "local": "each block is given full precision's input",
}


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which run of which version."""

    query: str
    version: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Progress:
    """How far a trace is: what is known so far, and what to say."""

    trace: Trace
    step: int
    total: int
    words: str
    done: bool = False


class Traces:
    """The traces made last, by what was asked for; the same run is not traced twice."""

    def __init__(self, most: int = MOST_KEPT) -> None:
        self._kept: OrderedDict[Wanted, Trace] = OrderedDict()
        self._most = most
        self._lock = threading.Lock()

    def get(self, wanted: Wanted) -> Trace | None:
        """Return a trace if it is still there."""
        with self._lock:
            found = self._kept.get(wanted)
            if found is not None:
                self._kept.move_to_end(wanted)
            return found

    def put(self, wanted: Wanted, trace: Trace) -> None:
        """Keep a trace; the one not asked for longest goes."""
        with self._lock:
            self._kept[wanted] = trace
            self._kept.move_to_end(wanted)
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)


def settings_in(query: str | None, engine: Engine) -> DrawSettings:
    """Read the query that the page remembers of its last drawing.

    Raises
    ------
    ConfigError
        If it is none.
    """
    return DrawSettings.from_query(dict(parse_qsl(str(query or "")[:1000])), engine.catalogue)


def trace_run(
    engine: Engine,
    wanted: Wanted,
    *,
    budget_s: float | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Generator[Progress, None, None]:
    """Trace a version beside full precision on the run of a query; a record a step.

    When the time is over, what was traced so far is the result, and is said to be.

    Raises
    ------
    ConfigError
        If the catalogue lacks something, or the version is full precision itself.
    """
    from dpqlab.tracing import TraceConfig, trace_steps

    settings = settings_in(wanted.query, engine)
    budget_s = engine.budget_s if budget_s is None else budget_s
    started = clock()
    pair = engine.pair(settings, wanted.version)
    request = SampleRequest(
        labels=settings.labels,
        seed=settings.seed,
        steps=settings.steps,
        guidance=settings.guidance,
    )
    config = TraceConfig(batch=len(settings.labels), shown=1)
    steps: list[Any] = []
    with closing(trace_steps(pair, request, config)) as records:
        for record in records:
            steps.append(record)
            done = len(steps) == record.total
            over = clock() - started > budget_s
            words = f"Step {len(steps)} of {record.total}"
            if done:
                words = f"Traced {plural(record.total, 'step')} in {clock() - started:.0f} s."
            elif over:
                words = f"The time is over: {len(steps)} of {record.total} steps were traced."
            elif len(steps) > 1:
                words += f", about {record.remaining:.0f} s left"
            yield Progress(
                trace=trace_so_far(pair, request, steps),
                step=len(steps),
                total=record.total,
                words=words,
                done=done or over,
            )
            if over:
                return


def trace_so_far(pair: Any, request: SampleRequest, steps: list[Any]) -> Trace:
    """Make a trace of the first steps of a batch, as if these were all."""
    from dpqlab.tracing import TraceBuilder

    builder = TraceBuilder(pair=pair, request=request)
    for step in steps:
        builder.add(replace(step, total=len(steps)))
    return builder.trace()


def recorded(engine: Engine, query: str | None) -> Trace | None:
    """Return a trace that ships with the model of a query; None if there is none.

    A student of the query is preferred.
    """
    from dpqlab.tracing import bundled_traces, load_trace

    try:
        settings = settings_in(query, engine)
        found = bundled_traces(settings.model)
        wanted = [key for key in settings.versions if key in found] or sorted(found)
        return load_trace(wanted[0], settings.model) if wanted else None
    except DPQError:
        return None


def figure_of(trace: Trace, measure: str, *, pictures: bool = True) -> go.Figure:
    """Return the map of a trace, with the first picture's steps below.

    Raises
    ------
    ConfigError
        If the measure is none.
    """
    from dpqlab.viz.error_map import Selection, error_map

    checked = checked_measure(measure)
    kept = pictures and trace.picture_steps
    selection = Selection(**_worst(trace, checked), image=0) if kept else None
    return error_map([trace], measure=checked, selection=selection)


def checked_measure(measure: str) -> Measure:
    """Return a measure that there is.

    Raises
    ------
    ConfigError
        If it is none.
    """
    if measure not in WORDS:
        raise ConfigError(f"the view is {str(measure)[:40]!r}: expected {', '.join(WORDS)}")
    return measure  # pyright: ignore[reportReturnType]


def what_to_see(trace: Trace, measure: str) -> str:
    """Say what the map shows: where the error is largest, and along what it grows."""
    chosen = checked_measure(measure)
    worst = _worst(trace, chosen)
    error = float(trace.error(chosen)[worst["block"], worst["step"]])
    if error == 0:
        return "There is no error: both models compute the same."
    timestep = trace.timesteps[worst["step"]]
    where = (
        f"The error is largest in block {worst['block']} at timestep {timestep} (framed): "
        f"{_percent(error)} of the output's power."
    )
    blocks, steps = trace.growth()
    if not blocks < float("inf") or not steps < float("inf"):
        return where
    more = "more" if blocks > steps else "less"
    return (
        f"{where} From block to block it grows {blocks:.1f} times, from step to step another "
        f"{steps:.1f} times: {more} is handed on between blocks than between steps."
    )


def _worst(trace: Trace, measure: Measure) -> dict[str, int]:
    errors = trace.error(measure)
    block, step = divmod(int(errors.argmax()), errors.shape[1])
    return {"block": block, "step": step}


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %" if value >= 0.1 else f"{100 * value:.2g} %"
