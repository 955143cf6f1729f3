"""The tab "Draw": its controls, and what they start."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from dpqlab_app.drawing.catalogue import Model, Version
from dpqlab_app.drawing.engine import Engine
from dpqlab_app.drawing.settings import (
    GUIDANCE,
    MOST_IMAGES,
    MOST_SEED,
    MOST_STEPS,
    MOST_VERSIONS,
    DrawSettings,
    default_settings,
)
from dpqlab_app.page import handlers
from dpqlab_app.page.handlers import FAMILIES, GPU, Shown
from dpqlab_app.page.page_work import NUMBERED, PageWork

LABELS = {
    "Best": "Best: codes are trained too",
    "VQ": "VQ: one codebook a layer",
    "DPQ": "DPQ: one for each position",
    "own": "Yours",
}
NEW_SEED = f"() => Math.floor(Math.random() * {MOST_SEED + 1})"


@dataclass(frozen=True, kw_only=True)
class DrawTab:
    """What other parts of the page need of the tab.

    Attributes
    ----------
    fields
        The widgets, in the order of :func:`dpqlab_app.page.handlers.settings_of`.
    shown
        Result, comparison, status, and the query of the drawing that is shown.
    button
        Draw.
    query
        The last of ``shown``.
    """

    fields: list[Any]
    shown: list[Any]
    button: gr.Button
    query: gr.State


def draw_tab(engine: Engine) -> DrawTab:
    """Lay the tab out, within a ``gr.Tab``."""
    model = engine.catalogue.models[0]
    settings, look = default_settings(model), handlers.first_look(model, engine.catalogue)
    with gr.Row(elem_id="dq-draw", equal_height=False):
        with gr.Column(scale=0, min_width=310, elem_id="dq-controls"):
            with gr.Row(elem_id="dq-go"):
                button = gr.Button(
                    "Draw", variant="primary", elem_id="dq-draw-button", min_width=120, scale=2
                )
                stop = gr.Button("Stop", elem_id="dq-stop-button", min_width=70, scale=1)
            fields = _controls(engine, model, settings)
        with gr.Column(scale=1, min_width=300, elem_id="dq-results"):
            status = gr.HTML(look.status or "", elem_id="dq-status")
            result = gr.HTML(look.result or "", elem_id="dq-result")
            compare = gr.HTML(look.compare or "", elem_id="dq-compare")
            query = gr.State(look.query)
    tab = DrawTab(fields=fields, shown=[result, compare, status, query], button=button, query=query)
    _wire(engine, tab, stop)
    return tab


def widget_values(engine: Engine, settings: DrawSettings) -> list[Any]:
    """Return updates of the widgets for settings, in the order of :attr:`DrawTab.fields`."""
    model = engine.catalogue.model(settings.model)
    groups = handlers.grouped(model.versions)
    return [
        settings.model,
        *(_group_update(groups[family], settings.versions) for family in FAMILIES),
        gr.update(choices=_class_choices(model), value=list(settings.classes)),
        len(settings.labels),
        settings.seed,
        settings.steps,
        settings.guidance,
    ]


def parts(shown: Shown) -> list[Any]:
    """Turn what a handler shows into values for :attr:`DrawTab.shown`."""
    every = (shown.result, shown.compare, shown.status, shown.query)
    return [gr.skip() if part is None else part for part in every]


def _controls(engine: Engine, model: Model, settings: DrawSettings) -> list[Any]:
    models = [(one.title, one.key) for one in engine.catalogue.models]
    which = gr.Radio(
        models, value=model.key, label="Model", visible=len(models) > 1, elem_id="dq-model"
    )
    gr.HTML(
        f'<p class="dq-heading" id="dq-versions">Full precision against '
        f"<small>(up to {MOST_VERSIONS})</small></p>"
    )
    groups = handlers.grouped(model.versions)
    with gr.Group(elem_id="dq-families"):
        families = [_family(family, groups[family], settings) for family in FAMILIES]
    classes = gr.Dropdown(
        _class_choices(model),
        value=list(settings.classes),
        multiselect=True,
        label="What to draw",
        elem_id="dq-classes",
    )
    count = gr.Slider(
        1,
        MOST_IMAGES,
        value=len(settings.labels),
        step=1,
        label="Pictures",
        buttons=[],
        elem_id="dq-count",
    )
    with gr.Row(elem_id="dq-seed-row"):
        seed = gr.Number(
            settings.seed,
            label="Seed of the noise",
            precision=0,
            minimum=0,
            maximum=MOST_SEED,
            elem_id="dq-seed",
            min_width=120,
            scale=2,
        )
        dice = gr.Button("⚄ Roll", size="sm", elem_id="dq-dice", min_width=90, scale=1)
    dice.click(None, outputs=seed, js=NEW_SEED, api_visibility="private")
    with gr.Accordion("More", open=False, elem_id="dq-more"):
        steps = gr.Slider(
            1,
            MOST_STEPS,
            value=settings.steps,
            step=1,
            label="Steps",
            info="More take longer",
            buttons=[],
        )
        guidance = gr.Slider(
            *GUIDANCE,
            value=settings.guidance,
            step=0.1,
            label="Guidance",
            info="How strongly the class is asked for; 1 is not at all",
            buttons=[],
        )
    return [which, *families, classes, count, seed, steps, guidance]


def _family(family: str, versions: list[Version], settings: DrawSettings) -> gr.CheckboxGroup:
    return gr.CheckboxGroup(
        _version_choices(versions),
        value=[v.key for v in versions if v.key in settings.versions],
        label=LABELS[family],
        visible=bool(versions),
        elem_classes=["dq-family", f"dq-family-{family.lower()}"],
    )


def _group_update(versions: list[Version], chosen: tuple[str, ...]) -> Any:
    return gr.update(
        choices=_version_choices(versions),
        value=[v.key for v in versions if v.key in chosen],
        visible=bool(versions),
    )


def _version_choices(versions: list[Version]) -> list[tuple[str, str]]:
    """The group says the family; only the rest of a title is left to say."""
    return [(v.title.removeprefix(f"{v.family}, "), v.key) for v in versions]


def _class_choices(model: Model) -> list[tuple[str, int]]:
    return [(name, label) for label, name in enumerate(model.classes)]


def _wire(engine: Engine, tab: DrawTab, stop: gr.Button) -> None:
    work = PageWork()

    def draw_here(request: gr.Request, number: float, *fields: Any) -> Iterator[list[Any]]:
        with work.of(request, number) as ended:
            for shown in handlers.draw(engine, fields, ended):
                yield parts(shown)

    def other_model(request: gr.Request, key: str) -> list[Any]:
        work.drop(request)
        model = engine.catalogue.model(key)
        values = widget_values(engine, default_settings(model))
        return [*values[1:], *parts(handlers.first_look(model, engine.catalogue))]

    number = work.wire(tab.button, stop, tab.shown[2])
    drawing = tab.button.click(
        draw_here,
        [number, *tab.fields],
        tab.shown,
        js=NUMBERED,
        trigger_mode="multiple",
        concurrency_id=GPU,
        concurrency_limit=1,
        show_progress="minimal",
        show_progress_on=tab.shown[2],
        api_visibility="private",
    )
    drawing.then(None, js="() => dpqlab.remember()", api_visibility="private")
    tab.fields[0].input(
        other_model,
        tab.fields[0],
        [*tab.fields[1:], *tab.shown],
        show_progress="hidden",
        api_visibility="private",
    )
