"""What the tab "Draw" and the API do, as plain functions and generators: no page is needed.

Every generator ends its work when it is closed. The engine brings its catalogue.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from dpqlab.errors import DPQError
from dpqlab_app.drawing.catalogue import Catalogue, Model, Version
from dpqlab_app.drawing.engine import Engine
from dpqlab_app.drawing.settings import DrawSettings, default_settings
from dpqlab_app.page.compare_view import compare_html
from dpqlab_app.page.example import example_of
from dpqlab_app.page.markup import image_uri, png_uri
from dpqlab_app.page.messages import UNKNOWN
from dpqlab_app.page.result_view import progress_html, result_html, status_html, stopped_html
from dpqlab_app.page.sheets import Sheet, sheet_of
from dpqlab_app.page.stops import Ended, never

GPU = "gpu"
"""The ``concurrency_id`` of all handlers that compute: one worker does them, one by one."""
FAMILIES = ("Best", "VQ", "DPQ", "own")
"""Groups in which versions are offered, in this order."""
OURS = frozenset({"model", "versions", "classes", "images", "seed", "steps", "guidance"})
"""Parts of an address that are settings; whatever else is there stays."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What changes on the page; None leaves a part as it is.

    Attributes
    ----------
    result, compare, status
        HTML.
    query
        Of the drawing that is shown, once it is complete.
    """

    result: str | None = None
    compare: str | None = None
    status: str | None = None
    query: str | None = None


def settings_of(fields: Sequence[Any]) -> DrawSettings:
    """Read the widgets: model, a list of versions for each family, and the rest."""
    model, *rest = fields
    groups, (classes, count, seed, steps, guidance) = rest[: len(FAMILIES)], rest[len(FAMILIES) :]
    versions: list[Any] = []
    for group in groups:
        versions += group if isinstance(group, list) else [] if group is None else [group]
    return DrawSettings.from_fields(model, versions, classes, count, seed, steps, guidance)


def draw(
    engine: Engine, fields: Sequence[Any], ended: Ended = never
) -> Generator[Shown, None, None]:
    """Draw what the widgets ask for, and show each step.

    What does not work is said in the line of the status: the picture stays, with its reason.

    Parameters
    ----------
    engine
        Draws.
    fields
        The widgets' values.
    ended
        Asked before the first step and after every one but the last.
    """
    if (end := ended()) is not None:
        # Gradio empties the page after a handler that says nothing at all
        yield _stopped(0, 0) if end == "stopped" else Shown()
        return
    yield Shown(status=status_html("Getting the model ready …", share=0.0, busy=True))
    try:
        settings = settings_of(fields)
        model = engine.catalogue.model(settings.model)
        with closing(engine.draw(settings)) as frames:
            for frame in frames:
                end = None if frame.done else ended()
                if end == "replaced":
                    return
                sheet = sheet_of(frame, model)
                yield Shown(
                    result=result_html(sheet, engine.catalogue),
                    compare=compare_html(sheet) if frame.done else "",
                    status=progress_html(frame),
                    query=settings.to_query() if frame.done else None,
                )
                if end is not None:
                    yield _stopped(frame.index + 1, frame.total)
                    return
    except DPQError as error:
        yield Shown(status=status_html(sentence(error), bad=True))
    except Exception:
        yield Shown(status=status_html(UNKNOWN, bad=True))
        raise


def _stopped(step: int, total: int) -> Shown:
    what = ": this is what the models expected to draw"
    return Shown(status=stopped_html(step, total, what))


def opened(engine: Engine, query: Mapping[str, str]) -> tuple[DrawSettings | None, str | None]:
    """Read the address that a page was opened with.

    Returns
    -------
    settings, status
        What the address asks for, None if nothing; and what to say if it cannot be read.
    """
    if not OURS & set(query):
        return None, None
    try:
        return DrawSettings.from_query(query, engine.catalogue), None
    except DPQError as error:
        words = f"The link does not fit: {sentence(error)} These are the usual settings."
        return None, status_html(words, bad=True)


def first_look(model: Model, catalogue: Catalogue) -> Shown:
    """What a visitor sees of a model before anything is drawn."""
    sheet: Sheet | None = example_of(model, catalogue)
    ready = status_html("Ready: press Draw.")
    if sheet is None:
        empty = '<p class="dq-empty">The pictures will appear here.</p>'
        return Shown(
            result=empty, compare="", status=ready, query=default_settings(model).to_query()
        )
    return Shown(
        result=result_html(sheet, catalogue),
        compare=compare_html(sheet),
        status=ready,
        query=sheet.settings.to_query(),
    )


def grouped(versions: Sequence[Version]) -> dict[str, list[Version]]:
    """Sort versions into :data:`FAMILIES`."""
    return {family: [v for v in versions if v.family == family] for family in FAMILIES}


def api_draw(engine: Engine, fields: Sequence[Any]) -> Generator[dict[str, Any], None, None]:
    """Draw for a program: a record a step, with pictures as PNG in data addresses."""
    settings = DrawSettings.from_fields(*fields).checked(engine.catalogue)
    model = engine.catalogue.model(settings.model)
    with closing(engine.draw(settings)) as frames:
        for frame in frames:
            sheet = sheet_of(frame, model)
            yield {
                "step": frame.index + 1,
                "steps": frame.total,
                "done": frame.done,
                "seconds": round(frame.seconds, 3),
                "remaining": round(frame.remaining, 3),
                "notes": list(frame.notes),
                "settings": settings.to_query(),
                "versions": [_api_row(sheet, i) for i in range(len(sheet.rows))],
            }


def api_models(catalogue: Catalogue) -> list[dict[str, Any]]:
    """List models, versions and classes for a program."""
    return [
        {
            "model": model.key,
            "title": model.title,
            "classes": list(model.classes),
            "channels": model.channels,
            "side": model.side,
            "versions": [
                {"version": v.key, "true_bits": v.true_bits, "disk_bytes": v.disk_bytes}
                for v in (model.full, *model.versions)
            ],
        }
        for model in catalogue.models
    ]


def _api_row(sheet: Sheet, number: int) -> dict[str, Any]:
    row = sheet.rows[number]
    facts = row.facts
    assert facts is not None
    images = [
        png_uri(sheet.image_png(row, i)) if sheet.done else image_uri(image)
        for i, image in enumerate(row.images)
    ]
    return {
        "version": row.key,
        "true_bits": row.true_bits,
        "disk_bytes": facts.disk_bytes,
        "weight_bytes": facts.weight_bytes,
        "ms_per_step": row.ms_per_step,
        "backend": facts.backend,
        "images": images,
    }


def sentence(error: DPQError) -> str:
    """Return an error's own words as a sentence; they are escaped where they are shown."""
    words = " ".join(str(error).split())[:600]
    return f"{words[:1].upper()}{words[1:]}" + ("" if words.endswith((".", "!", "?")) else ".")
