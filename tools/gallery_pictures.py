"""Still pictures in place of widgets: what the gallery shows, and the README.

:func:`install` is called in the kernel that executes a notebook; from then on views, plots,
pictures, predictions and exercises display themselves as HTML that needs neither kernel nor script.
"""

from __future__ import annotations

import base64
import html
import io
import os
import re
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
import plotly.graph_objects as go
from PIL import Image

WIDTH = 900  # of a figure, in CSS pixels
LARGEST_PICTURE = 150_000  # bytes
SCALE = 1.5  # picture pixels to a CSS pixel
INK, PAPER = "#3A3A3A", "white"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def plot_picture(figure: go.Figure) -> Image.Image:
    """Draw a figure on white, as kaleido and a Chromium do it."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is not None:
        os.environ.setdefault("BROWSER_PATH", found)
    drawn = go.Figure(figure)
    drawn.update_layout(font_color=INK, paper_bgcolor=PAPER, plot_bgcolor=PAPER)
    height = drawn.to_plotly_json()["layout"].get("height")
    data = drawn.to_image("png", width=WIDTH, height=height, scale=SCALE)
    return Image.open(io.BytesIO(data)).convert("RGB")


def pixels_picture(pixels: Any) -> Image.Image:
    """Draw what a :class:`dpqlab.widgets.Pixels` shows, enlarged by whole numbers."""
    height, width, channels = pixels.shape
    values = np.frombuffer(pixels.pixels, np.uint8).reshape(height, width, channels)
    if pixels.palette:
        values = np.frombuffer(pixels.palette, np.uint8).reshape(256, 3)[values[..., 0]]
    picture = Image.fromarray(values[..., 0] if values.shape[2] == 1 else values).convert("RGB")
    zoom = pixels.zoom or max(1, min(12, 360 // max(width, 1)))
    if zoom == 1:
        return picture
    return picture.resize((width * zoom, height * zoom), Image.Resampling.NEAREST)


def parts_of(widget: Any) -> Iterator[tuple[str, Any]]:
    """Walk a widget's visible children: ``("plot" | "pixels" | "words", what to show)``."""
    from dpqlab.widgets import Pixels, Plot

    layout = getattr(widget, "layout", None)
    if layout is not None and "none" in (layout.display, layout.visibility):
        return
    if isinstance(widget, Plot):
        if widget.spec.get("data"):
            yield "plot", (go.Figure(widget.spec, skip_invalid=True), widget.label)
    elif isinstance(widget, Pixels):
        yield "pixels", (widget, widget.label)
    elif type(widget).__name__ in ("HTML", "HTMLMath"):
        if re.sub(r"<[^>]*>", "", widget.value).strip():
            yield "words", widget.value
    else:
        for child in getattr(widget, "children", ()):
            yield from parts_of(child)


def widget_html(widget: Any, name: str = "") -> str:
    """Return the still form of a widget: its pictures and its words, without its controls."""
    shown: list[str] = []
    for kind, part in parts_of(widget):
        if kind == "words":
            shown.append(f'<div class="words">{part}</div>')
            continue
        thing, label = part
        picture = plot_picture(thing) if kind == "plot" else pixels_picture(thing)
        shown.append(image_html(picture, label, kind, name))
    return "\n".join(shown)


def image_html(picture: Image.Image, label: str, kind: str, name: str = "") -> str:
    """Return a picture inside its page; the gallery moves it to a file of its own."""
    data = base64.b64encode(png_bytes(picture)).decode()
    shrink = SCALE if kind == "plot" else 1
    return (
        f'<img class="{kind}" data-view="{html.escape(name)}" alt="{html.escape(label)}" '
        f'width="{round(picture.width / shrink)}" src="data:image/png;base64,{data}">'
    )


def png_bytes(picture: Image.Image) -> bytes:
    """Return a small PNG: with 256 colours where all of them would take too much."""
    data = _png(picture)
    if len(data) <= LARGEST_PICTURE:
        return data
    return _png(picture.quantize(256, dither=Image.Dither.NONE))


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def view_html(view: Any) -> str:
    """Return the still form of a view; one that says how it looks best, by ``still``, is set so."""
    widget = view.widget
    view.state.set(getattr(view, "still", {}))
    view.redraw()
    return widget_html(widget, view.name)


def prediction_html(prediction: Any) -> str:
    """Return the question with its options, the answer folded."""
    answer, why = (
        part if isinstance(part, str) else part()
        for part in (prediction._answer, prediction._why)  # the still form has no button
    )
    options = "".join(f"<li>{html.escape(option)}</li>" for option in prediction._radio.options)
    told = html.escape(f"{answer}. {why}")
    return (
        f'<div class="asked"><b>Predict: {html.escape(prediction.question)}</b><ul>{options}</ul>'
        f"<details><summary>Reveal</summary>{told}</details></div>"
    )


def exercise_html(exercise: Any) -> str:
    """Return the task, the solution folded."""
    return (
        f'<div class="asked"><b>Exercise.</b> {html.escape(exercise.prompt)}'
        f"<details><summary>Solution</summary><pre>{html.escape(exercise.solution)}</pre>"
        "</details></div>"
    )


def install() -> None:
    """Let everything that a notebook of dpqlab displays display its still form."""
    from dpqlab.widgets import Exercise, Pixels, Plot, Prediction, View

    makers: dict[type, Any] = {
        Plot: widget_html,
        Pixels: widget_html,
        Prediction: prediction_html,
        Exercise: exercise_html,
    }
    for kind, make in makers.items():
        _replace(kind, make)
    _replace(View, view_html)


def _replace(kind: type, make: Any) -> None:
    def show(self: Any, **_options: Any) -> None:
        from IPython.display import HTML, display

        display(HTML(make(self)))

    kind._ipython_display_ = show
