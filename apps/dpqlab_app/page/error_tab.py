"""The tab "Where the error goes": block by timestep, for the run that is on the first tab."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gradio as gr

from dpqlab.errors import DPQError
from dpqlab_app.drawing.engine import Engine
from dpqlab_app.page.handlers import GPU, sentence
from dpqlab_app.page.markup import text
from dpqlab_app.page.page_work import NUMBERED, PageWork
from dpqlab_app.page.result_view import status_html, stopped_html
from dpqlab_app.page.stops import Ended, never
from dpqlab_app.page.trace_runs import (
    FIGURE_SECONDS,
    WORDS,
    Progress,
    Traces,
    Wanted,
    figure_of,
    recorded,
    settings_in,
    trace_run,
    what_to_see,
)

if TYPE_CHECKING:
    import plotly.graph_objects as go

INTRO = (
    "Each block of a compressed model is a little wrong, and hands that on: to the next block, and "
    "through the picture to the next step. The map shows how far its outputs are from those of "
    "full precision, while both draw the same pictures."
)
MEASURES = [
    ("all that adds up", "accumulated"),
    ("within one pass", "pass"),
    ("each block", "local"),
]


@dataclass(frozen=True, kw_only=True)
class Mapped:
    """What changes on the tab; None leaves a part as it is."""

    figure: go.Figure | None = None
    words: str | None = None
    status: str | None = None
    key: Wanted | None = None


def trace(
    engine: Engine, traces: Traces, wanted: Wanted, measure: str, ended: Ended = never
) -> Generator[Mapped, None, None]:
    """Trace the run of the first tab, and show the map as it grows.

    ``ended`` is asked before the first step and after every one but the last.
    """
    if (end := ended()) is not None:
        # Gradio empties the page after a handler that says nothing at all
        yield Mapped(status=stopped_html(0, 0)) if end == "stopped" else Mapped()
        return
    yield Mapped(status=status_html("Getting both models ready …", share=0.0, busy=True))
    try:
        known = traces.get(wanted)
        if known is not None:
            yield _mapped(known, measure, wanted, "Traced before: nothing was computed again.")
            return
        drawn = 0.0
        with closing(trace_run(engine, wanted)) as steps:
            for progress in steps:
                if not progress.done and (end := ended()) is not None:
                    if end == "stopped":
                        figure = figure_of(progress.trace, measure, pictures=False)
                        words = stopped_html(progress.step, progress.total)
                        yield Mapped(figure=figure, status=words)
                    return
                if progress.done:
                    traces.put(wanted, progress.trace)
                    yield _mapped(progress.trace, measure, wanted, progress.words)
                elif time.monotonic() - drawn > FIGURE_SECONDS:
                    drawn = time.monotonic()
                    figure = figure_of(progress.trace, measure, pictures=False)
                    yield Mapped(figure=figure, status=_progress(progress))
                else:
                    yield Mapped(status=_progress(progress))
    except DPQError as error:
        yield Mapped(status=status_html(sentence(error), bad=True))


def show(
    engine: Engine, traces: Traces, key: Wanted | None, query: str | None, measure: str
) -> Mapped:
    """Show a trace from another side: the one traced here, or else the recorded one."""
    found = None if key is None else traces.get(key)
    if found is not None:
        return Mapped(figure=figure_of(found, measure), words=_words(found, measure))
    trace = recorded(engine, query)
    if trace is None:
        return Mapped(words="", status=status_html("Press Trace to see the map."))
    images = len(trace.about.labels)
    return Mapped(
        figure=figure_of(trace, measure),
        words=_words(trace, measure),
        status=status_html(f"Recorded with {images} images. Press Trace for your own."),
    )


def choices(engine: Engine, query: str | None) -> tuple[list[tuple[str, str]], str]:
    """Return the versions of the run on the first tab, as titles and keys, and a word about it."""
    try:
        settings = settings_in(query, engine)
    except DPQError:
        settings = settings_in("", engine)
    model = engine.catalogue.model(settings.model)
    keys = settings.versions or tuple(version.key for version in model.versions[:1])
    found = [(model.version(key).title, key) for key in keys]
    names = ", ".join(model.classes[label] for label in settings.labels)
    words = (
        f"The run: {text(names)}; seed {settings.seed}, {settings.steps} steps, guidance "
        f"{settings.guidance:g}."
    )
    return found, f'<p class="dq-note">{words}</p>'


def error_tab(engine: Engine, query: gr.State, tab: gr.Tab) -> None:
    """Lay the tab out, within ``tab``.

    Parameters
    ----------
    engine
        Has the models.
    query
        Of the drawing on the first tab.
    tab
        Says when it is opened.
    """
    traces = Traces()
    key = gr.State(None)
    gr.HTML(f'<p class="dq-intro">{text(INTRO)}</p>')
    run = gr.HTML("", elem_id="dq-run")
    with gr.Row(elem_id="dq-error-controls"):
        version = gr.Radio([], label="Compressed version", elem_id="dq-error-version")
        measure = gr.Radio(
            MEASURES, value="accumulated", label="What is compared", elem_id="dq-measure"
        )
        with gr.Row(elem_classes="dq-buttons"):
            button = gr.Button("Trace", variant="primary", elem_id="dq-trace-button", min_width=110)
            stop = gr.Button("Stop", elem_id="dq-trace-stop", min_width=70)
    status = gr.HTML("", elem_id="dq-error-status")
    words = gr.HTML("", elem_id="dq-error-words")
    plot = gr.Plot(
        show_label=False, container=False, elem_id="dq-error-map", elem_classes="dq-wide"
    )
    shown = [plot, words, status, key]

    work = PageWork()

    def start(
        request: gr.Request, number: float, query: str, version: str, measure: str
    ) -> Iterator[list[Any]]:
        wanted = Wanted(query=query, version=version)
        with work.of(request, number) as ended:
            for mapped in trace(engine, traces, wanted, measure, ended):
                yield _parts(mapped)

    def look(key: Wanted | None, query: str, measure: str) -> list[Any]:
        mapped = show(engine, traces, key, query, measure)
        # without a figure the one of another model must not stay
        return [mapped.figure, *_parts(mapped)[1:]]

    def opened(key: Wanted | None, query: str, measure: str, chosen: str | None) -> list[Any]:
        found, about = choices(engine, query)
        keys = [one for _, one in found]
        picked = chosen if chosen in keys else keys[0] if keys else None
        # a map of another run would be taken for this one's
        fresh = key is not None and key.query == query
        seen = look(key if fresh else None, query, measure)
        return [gr.update(choices=found, value=picked), about, *seen[:3], key if fresh else None]

    number = work.wire(button, stop, status)
    button.click(
        start,
        [number, query, version, measure],
        shown,
        js=NUMBERED,
        trigger_mode="multiple",
        concurrency_id=GPU,
        concurrency_limit=1,
        show_progress="minimal",
        show_progress_on=status,
        api_visibility="private",
    )
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    measure.input(look, [key, query, measure], shown, **quiet)
    tab.select(opened, [key, query, measure, version], [version, run, *shown], **quiet)


def _mapped(trace: Any, measure: str, key: Wanted, words: str) -> Mapped:
    return Mapped(
        figure=figure_of(trace, measure),
        words=_words(trace, measure),
        status=status_html(words, share=1.0),
        key=key,
    )


def _words(trace: Any, measure: str) -> str:
    compared = WORDS[measure]
    return (
        f'<p class="dq-says"><strong>What to see.</strong> {text(what_to_see(trace, measure))} '
        f"<small>Compared here: {text(compared)}.</small></p>"
    )


def _progress(progress: Progress) -> str:
    return status_html(progress.words, share=progress.step / progress.total, busy=True)


def _parts(mapped: Mapped) -> list[Any]:
    every = (mapped.figure, mapped.words, mapped.status, mapped.key)
    return [gr.skip() if part is None else part for part in every]
