"""The tab "Blind test": its controls, and what they start."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import gradio as gr

from dpqlab.errors import DPQError
from dpqlab_app.drawing.catalogue import Model
from dpqlab_app.drawing.engine import Engine
from dpqlab_app.drawing.settings import FAVOURITES
from dpqlab_app.page.blind_pool import Pool, Visit, advance, cast, fill, is_low
from dpqlab_app.page.blind_test import SIDES, Side
from dpqlab_app.page.blind_view import INTRO, answer_html, question_html, score_html
from dpqlab_app.page.handlers import GPU, sentence
from dpqlab_app.page.markup import text
from dpqlab_app.page.result_view import status_html


@dataclass(frozen=True, kw_only=True)
class Turn:
    """What the tab shows after something happened; ``more``: pairs should be drawn now."""

    visit: Visit
    question: str
    answer: str
    score: str
    more: bool


def turn(engine: Engine, pool: Pool, visit: Visit, *, said: Side | None = None) -> Turn:
    """Count a vote if there is one, and go on to the next pair that is ready."""
    model = engine.catalogue.model(visit.model)
    if said is not None:
        visit = cast(visit, said)
    visit = advance(visit, pool, model.classes)
    return Turn(
        visit=visit,
        question=question_html(visit, pool, model),
        answer=answer_html(visit, pool, model),
        score=score_html(visit, model),
        more=is_low(visit, pool),
    )


def against(
    engine: Engine, visit: Visit | None, model: str | None, version: str | None = None
) -> Visit:
    """Go over to another model or version; votes are kept, the pair on the screen is not.

    Raises
    ------
    ConfigError
        If there is no such version.
    """
    chosen = engine.catalogue.models[0] if model is None else engine.catalogue.model(model)
    known = [one.key for one in chosen.versions]
    if not version:
        version = next((key for key in FAVOURITES if key in known), known[0] if known else "")
    key = chosen.version(version).key
    if visit is None:
        return Visit(model=chosen.key, version=key)
    if (visit.model, visit.version) == (chosen.key, key):
        return visit
    return replace(visit, model=chosen.key, version=key, trial=None, last=None)


def draw_ahead(engine: Engine, pool: Pool, visit: Visit) -> Generator[str, None, None]:
    """Draw pairs for a visitor, and say how far that is; loud only where somebody waits."""
    waiting = visit.trial is None
    try:
        with closing(fill(engine, pool, visit)) as frames:
            for frame in frames:
                step = f"step {frame.index + 1} of {frame.total}"
                words = f"Drawing pairs: {step}" if waiting else "Drawing the next pairs meanwhile"
                yield status_html(words, share=(frame.index + 1) / frame.total, busy=True)
        yield status_html("")
    except DPQError as error:
        yield status_html(sentence(error), bad=True)


def blind_tab(engine: Engine, tab: gr.Tab) -> None:
    """Lay the tab out, within ``tab``, and start to draw when it is opened."""
    pool, tickets = Pool(), count(1)
    model = engine.catalogue.models[0]
    usual = against(engine, None, None).version if model.versions else None
    visit, ticket = gr.State(None), gr.State(0)
    gr.HTML(f'<p class="dq-intro">{text(INTRO)}</p>')
    with gr.Row(elem_id="dq-blind-controls"):
        which = gr.Radio(
            [(one.title, one.key) for one in engine.catalogue.models if one.versions],
            value=model.key,
            label="Model",
            visible=len(engine.catalogue.models) > 1,
        )
        version = gr.Radio(
            _choices(model),
            value=usual,
            label="Full precision against",
            elem_id="dq-blind-version",
        )
    with gr.Row(elem_id="dq-blind"):
        with gr.Column(scale=3, min_width=300):
            question = gr.HTML(
                '<p class="dq-empty">The first pair is being drawn …</p>', elem_id="dq-question"
            )
            with gr.Row(elem_id="dq-votes"):
                buttons = [
                    gr.Button(
                        f"It is {side}",
                        variant="primary",
                        elem_id=f"dq-vote-{side.lower()}",
                        min_width=110,
                    )
                    for side in SIDES
                ]
            status = gr.HTML("", elem_id="dq-blind-status")
        with gr.Column(scale=2, min_width=280):
            score = gr.HTML("", elem_id="dq-score")
            answer = gr.HTML("", elem_id="dq-answer")
    shown = [visit, question, answer, score, ticket]
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}

    def parts(now: Turn) -> list[Any]:
        wish = next(tickets) if now.more else gr.skip()
        return [now.visit, now.question, now.answer, now.score, wish]

    def go_on(now: Visit | None, model: str, version: str) -> list[Any]:
        return parts(turn(engine, pool, against(engine, now, model, version)))

    def other_model(now: Visit | None, key: str) -> list[Any]:
        changed = against(engine, now, key)
        chosen = engine.catalogue.model(changed.model)
        radio = gr.update(choices=_choices(chosen), value=changed.version)
        return [radio, *parts(turn(engine, pool, changed))]

    def vote(side: Side) -> Any:
        def voted(now: Visit | None, model: str, version: str) -> list[Any]:
            return parts(turn(engine, pool, against(engine, now, model, version), said=side))

        return voted

    def more(now: Visit | None) -> Iterator[str]:
        if now is not None:
            yield from draw_ahead(engine, pool, now)

    where = [visit, which, version]
    tab.select(go_on, where, shown, **quiet)
    version.input(go_on, where, shown, **quiet)
    which.input(other_model, [visit, which], [version, *shown], **quiet)
    for side, button in zip(SIDES, buttons, strict=True):
        button.click(vote(side), where, shown, **quiet)
    drawing = ticket.change(more, visit, status, concurrency_id=GPU, concurrency_limit=1, **quiet)
    drawing.then(go_on, where, shown, **quiet)


def _choices(model: Model) -> list[tuple[str, str]]:
    return [(version.title, version.key) for version in model.versions]
