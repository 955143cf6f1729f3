"""Text and pictures as HTML. Whatever comes from outside goes through :func:`text`."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping

import numpy as np
from PIL import Image

from dpqlab.viz.theme import FAMILY_COLOURS, GREY, PURPLE
from dpqlab_app.drawing.pictures import picture

COLOURS: Mapping[str, str] = {**FAMILY_COLOURS, "full": GREY, "own": PURPLE}
"""Colour of each family of versions."""


def text(value: object) -> str:
    """Escape for HTML, and for the two template languages that Gradio applies to it."""
    escaped = html.escape(str(value), quote=True)
    for sign in "{}$`\\":
        escaped = escaped.replace(sign, f"&#{ord(sign)};")
    return escaped


def png_uri(data: bytes) -> str:
    """Return a PNG as an address that holds it: it needs no file, and no request."""
    return f"data:image/png;base64,{base64.b64encode(data).decode('ascii')}"


def image_uri(image: np.ndarray) -> str:
    """Return one image (H, W, C) as PNG, without anything beside its pixels."""
    return picture_uri(picture(image))


def picture_uri(image: Image.Image) -> str:
    """Return a PIL image as PNG, without anything beside its pixels."""
    stream = io.BytesIO()
    image.save(stream, format="PNG", compress_level=4)
    return png_uri(stream.getvalue())


def text_uri(content: str, kind: str) -> str:
    """Return a text as an address that holds it; ``kind`` such as ``"text/csv"``."""
    encoded = base64.b64encode(content.encode()).decode("ascii")
    return f"data:{kind};charset=utf-8;base64,{encoded}"


def megabytes(count: int) -> str:
    """Return bytes as MB (10^6), short.

    Examples
    --------
    >>> megabytes(4026432), megabytes(47206288)
    ('4.0 MB', '47 MB')
    """
    value = count / 1e6
    return f"{value:.1f} MB" if value < 10 else f"{value:.0f} MB"


def plural(count: int, word: str) -> str:
    """Return a count with its word.

    Examples
    --------
    >>> plural(1, "image"), plural(4, "image")
    ('1 image', '4 images')
    """
    return f"{count} {word}" + ("" if count == 1 else "s")
