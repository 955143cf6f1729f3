"""Pictures from the engine's arrays: pure functions of uint8 images (N, H, W, C), C is 1 or 3."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, PngImagePlugin

from dpqlab import __version__
from dpqlab.errors import ConfigError, ShapeError
from dpqlab_app.drawing.frames import Frame
from dpqlab_app.drawing.settings import DrawSettings

GAINS = (1, 2, 4, 8, 16)
"""By which differences may be multiplied."""
MIDDLE = 128
"""Grey of a pixel that is the same in both, and of the gaps: it suits light and dark pages."""
CLIPPED_SHARE = 0.01
"""Values that a gain chosen here may push beyond black or white."""
GAP = 2
"""Pixels between images, before zooming."""

_PREFIX = "dpqlab "
_QUERY = "settings"


def side_by_side(frame: Frame, *, zoom: int = 1) -> Image.Image:
    """Lay a frame out: a row of images for each version, full precision on top.

    Parameters
    ----------
    frame
        What the engine handed on.
    zoom
        Whole-number enlargement without smoothing, so that pixels stay visible.
    """
    return grid([version.images for version in frame.versions], zoom=zoom)


def grid(rows: Sequence[np.ndarray], *, zoom: int = 1) -> Image.Image:
    """Lay images out in rows, with grey gaps.

    Parameters
    ----------
    rows
        uint8 (N, H, W, C) for each row, all of one shape.
    zoom
        Whole-number enlargement without smoothing.

    Raises
    ------
    ShapeError
        If they are not images of one shape.
    """
    if not rows or any(row.shape != rows[0].shape for row in rows):
        raise ShapeError(f"rows have shapes {[r.shape for r in rows]}: expected one, all the same")
    for row in rows:
        _check(row)
    count, height, width, channels = rows[0].shape
    shape = (len(rows) * (height + GAP) - GAP, count * (width + GAP) - GAP, channels)
    canvas = np.full(shape, MIDDLE, np.uint8)
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            top, left = i * (height + GAP), j * (width + GAP)
            canvas[top : top + height, left : left + width] = image
    return picture(canvas, zoom=zoom)


def picture(image: np.ndarray, *, zoom: int = 1) -> Image.Image:
    """Turn one image (H, W, C) into a PIL image, enlarged without smoothing."""
    made = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    if zoom == 1:
        return made
    return made.resize((made.width * zoom, made.height * zoom), Image.Resampling.NEAREST)


def zoom_for(side: int, wanted: int) -> int:
    """Return the largest whole enlargement at which ``side`` pixels stay within ``wanted``."""
    return max(1, wanted // side)


def before_after(
    before: np.ndarray, after: np.ndarray, *, zoom: int = 1
) -> tuple[Image.Image, Image.Image]:
    """Return two rows of images of equal size, to be slid over each other.

    Raises
    ------
    ShapeError
        If they are not images of one shape.
    """
    _check_pair(before, after)
    return grid([before], zoom=zoom), grid([after], zoom=zoom)


def difference(
    a: np.ndarray, b: np.ndarray, *, gain: float | None = None
) -> tuple[np.ndarray, float]:
    """Return ``b`` less ``a`` as images: grey where they are equal, lighter where b is.

    Parameters
    ----------
    a, b
        uint8 (N, H, W, C) of one shape.
    gain
        What differences are multiplied by; None: the largest of 1, 2, 4, 8, 16 at which at most
        1 % of the values are pushed beyond black or white.

    Returns
    -------
    uint8 array of the same shape, and the gain.

    Raises
    ------
    ShapeError
        If they are not images of one shape.
    ConfigError
        If the gain is not a positive number.
    """
    _check_pair(a, b)
    change = b.astype(np.int16) - a
    if gain is None:
        gain = _visible_gain(change)
    if not 0 < gain < float("inf"):
        raise ConfigError(f"the gain is {gain}: expected a positive number")
    return np.clip(np.rint(MIDDLE + gain * change), 0, 255).astype(np.uint8), float(gain)


def _visible_gain(change: np.ndarray) -> int:
    room = np.abs(change)
    fitting = [gain for gain in GAINS if np.mean(room * gain > MIDDLE - 1) <= CLIPPED_SHARE]
    return max(fitting, default=GAINS[0])


def png_bytes(
    image: Image.Image, settings: DrawSettings, extra: Mapping[str, str] | None = None
) -> bytes:
    """Encode a picture as PNG with what it was made of in its metadata (tEXt, or iTXt).

    Parameters
    ----------
    image
        The picture.
    settings
        What was asked for; kept as the query of the page's address.
    extra
        Further entries, such as ``{"version": "best-1bit", "true bits": "1.088"}``.
    """
    info = PngImagePlugin.PngInfo()
    info.add_text("Software", f"dpqlab {__version__}")
    entries = {_QUERY: settings.to_query(), "model": settings.model, **(extra or {})}
    for name, value in entries.items():
        info.add_text(f"{_PREFIX}{name}", value)
    stream = io.BytesIO()
    image.save(stream, format="PNG", pnginfo=info)
    return stream.getvalue()


def read_png_settings(data: bytes) -> dict[str, str]:
    """Return what :func:`png_bytes` wrote beside the pixels.

    Returns
    -------
    dict
        ``"settings"`` is the query that :meth:`DrawSettings.from_query` reads once it is taken
        apart; ``"software"``, ``"model"`` and the further entries.

    Raises
    ------
    ConfigError
        If this is no PNG, or not one of the app's.
    """
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            image.load()  # text may stand behind the pixels
            text = getattr(image, "text", {})
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ConfigError(f"this is no PNG ({error}): expected a picture of the app") from error
    found = {
        name.removeprefix(_PREFIX): str(value)
        for name, value in text.items()
        if name.startswith(_PREFIX)
    }
    if _QUERY not in found:
        raise ConfigError("this PNG holds no settings: expected a picture that the app made")
    return {"software": str(text.get("Software", "")), **found}


def _check(images: np.ndarray) -> None:
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or images.dtype != np.uint8:
        raise ShapeError(
            f"images are {images.dtype} of shape {images.shape}: expected uint8 (N, H, W, 1 or 3)"
        )


def _check_pair(a: np.ndarray, b: np.ndarray) -> None:
    _check(a)
    _check(b)
    if a.shape != b.shape:
        raise ShapeError(f"images have shapes {a.shape} and {b.shape}: expected one shape")
