"""The page: four tabs around one engine, the address it was opened with, and the API."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from dpqlab.viz.theme import FONT
from dpqlab_app.drawing.catalogue import Catalogue
from dpqlab_app.drawing.engine import Engine
from dpqlab_app.drawing.settings import default_settings
from dpqlab_app.page import handlers
from dpqlab_app.page.blind_tab import blind_tab
from dpqlab_app.page.draw_tab import DrawTab, draw_tab, parts, widget_values
from dpqlab_app.page.error_tab import error_tab
from dpqlab_app.page.handlers import GPU, Shown
from dpqlab_app.page.how_tab import how_tab
from dpqlab_app.page.markup import text

HERE = Path(__file__).parent
_log = logging.getLogger(__name__)
TITLE = "What is left of a picture when a weight may take one bit?"
LEAD = (
    "From the same noise, step by step: a model in full precision, and copies of it that keep one "
    "or two bits of each weight."
)


def _theme() -> gr.themes.Base:
    fonts = [name.strip().strip('"') for name in FONT.split(",")]
    mono = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"]
    return gr.themes.Base(
        primary_hue=gr.themes.colors.blue,
        neutral_hue=gr.themes.colors.gray,
        font=fonts,
        font_mono=mono,
        radius_size=gr.themes.sizes.radius_md,
    ).set(
        # white on Gradio's own blue is hard to read
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
    )


LAUNCH: dict[str, Any] = {
    "theme": _theme(),
    "css": (HERE / "style.css").read_text(encoding="utf-8"),
    "head": f"<script>{(HERE / 'page.js').read_text(encoding='utf-8')}</script>",
}
"""Arguments of ``launch`` that belong to the looks."""


def build(engine: Engine, catalogue: Catalogue) -> gr.Blocks:
    """Lay the page out, and begin to load what its first visitor will draw with.

    Parameters
    ----------
    engine
        Draws.
    catalogue
        The engine's.
    """
    with gr.Blocks(title="dpqlab: one bit a weight", analytics_enabled=False) as blocks:
        gr.HTML(
            f'<header class="dq-head"><h1>{text(TITLE)}</h1><p>{text(LEAD)}</p></header>',
            elem_id="dq-head",
        )
        with gr.Tabs(elem_id="dq-tabs", overflow_behavior="wrap"):
            with gr.Tab("Draw", id="draw"):
                drawing = draw_tab(engine)
            with gr.Tab("Where the error goes", id="error") as tab:
                error_tab(engine, drawing.query, tab)
            with gr.Tab("Blind test", id="blind") as tab:
                blind_tab(engine, tab)
            with gr.Tab("How it works", id="how") as tab:
                how_tab(tab)
        gr.Markdown(_footer(engine, catalogue), elem_id="dq-foot")
        _open(blocks, engine, drawing)
        _api(engine, catalogue)
    threading.Thread(target=_warm, args=(engine, catalogue), daemon=True).start()
    return blocks


def _open(blocks: gr.Blocks, engine: Engine, drawing: DrawTab) -> None:
    """Read the address; a link to a drawing draws it."""

    def opened(request: gr.Request) -> list[Any]:
        query = dict(request.query_params)
        settings, status = handlers.opened(engine, query)
        if settings is None:
            kept = [gr.skip()] * len(drawing.fields)
            return [*kept, *parts(Shown(status=status))]
        model = engine.catalogue.model(settings.model)
        look = handlers.first_look(model, engine.catalogue)
        return [*widget_values(engine, settings), *parts(look)]

    blocks.load(
        opened,
        None,
        [*drawing.fields, *drawing.shown],
        show_progress="hidden",
        api_visibility="private",
    ).then(None, js="() => dpqlab.drawLinked()", api_visibility="private")


def _api(engine: Engine, catalogue: Catalogue) -> None:
    """What programs may call: ``draw`` and ``models``."""

    def draw(
        model: str,
        versions: list[str],
        classes: list[int],
        count: int,
        seed: int,
        steps: int,
        guidance: float,
    ) -> Iterator[dict[str, Any]]:
        """Draw pictures with full precision and compressed versions; yields a record a step.

        model: a key of /models. versions: 0 to 3 keys of its compressed versions, each once.
        classes: numbers of classes, gone through again and again until there are count pictures.
        count: 1 to 8. seed: 0 to 4294967295. steps: 1 to 250. guidance: 1 to 20 (1: none).
        Each record has step, steps, done, seconds, remaining, notes, settings, and versions with
        true_bits, disk_bytes, weight_bytes, ms_per_step, backend, and images: PNG as data URIs.
        """
        fields = (model, versions, classes, count, seed, steps, guidance)
        yield from handlers.api_draw(engine, fields)

    def models() -> list[dict[str, Any]]:
        """List models with their classes (numbered from 0) and versions, with what these cost."""
        return handlers.api_models(catalogue)

    gr.api(draw, api_name="draw", concurrency_id=GPU, concurrency_limit=1)
    gr.api(models, api_name="models")


def _footer(engine: Engine, catalogue: Catalogue) -> str:
    thanks = "\n\n".join(f"**{m.title}**: {m.credit}" for m in catalogue.models if m.credit)
    return f"{engine.device_line}. Nothing that you do here is sent to anybody else.\n\n{thanks}"


def _warm(engine: Engine, catalogue: Catalogue) -> None:
    """Load what is drawn first; where that fails, the first visitor who draws is told why."""
    try:
        engine.prepare(default_settings(catalogue.models[0]))
    except Exception:
        _log.warning("the first model could not be made ready", exc_info=True)
