"""What teacher and student draw at a step, and their difference, as arrays of pixels."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from dpqlab.errors import ConfigError
from dpqlab.tracing import Trace

GAINS = (1, 2, 4, 8, 16, 32, 64)
ROWS = ("teacher", "student", "difference")
_GREY = 128  # of a pixel without a difference


def common_gain(traces: Sequence[Trace]) -> int:
    """Return the largest gain at which hardly any late difference leaves the range of a picture.

    One gain for all traces, so that their differences can be compared by eye. What counts is the
    second half of the pictures: in the first steps the image that a model expects is little more
    than amplified noise. Half a percent of the pixels may be cut off.
    """
    largest = 1.0
    for trace in traces:
        if trace.pictures.size:
            late = trace.pictures[:, len(trace.picture_steps) // 2 :].astype(np.int16)
            theirs, mine = late
            largest = max(largest, float(np.quantile(np.abs(mine - theirs), 0.98)))
    return max((gain for gain in GAINS if gain * largest <= _GREY), default=1)


def difference(teacher: np.ndarray, student: np.ndarray, gain: int) -> np.ndarray:
    """Return mid-grey plus ``gain`` times student less teacher, uint8 of the same shape."""
    raised = _GREY + gain * (student.astype(np.int32) - teacher.astype(np.int32))
    return raised.clip(0, 255).astype(np.uint8)


def step_pictures(trace: Trace, step: int, *, gain: int, gap: int = 1) -> np.ndarray:
    """Lay out a step's images: teacher above student above amplified difference.

    Parameters
    ----------
    trace
        With pictures.
    step
        Index of a step; the nearest one with pictures is shown.
    gain
        Of the difference.
    gap
        Pixels of grey between the images.

    Returns
    -------
    uint8 array (3 * (H + gap) - gap, K * (W + gap) - gap, 3).
    """
    at = trace.nearest_picture(step)
    theirs, mine = trace.pictures[0, at], trace.pictures[1, at]
    rows = (theirs, mine, difference(theirs, mine, gain))
    return np.concatenate(
        [part for row in rows for part in (_gap_below(row, gap), _side_by_side(row, gap))][1:]
    )


def strip(trace: Trace, image: int, row: str, *, gain: int) -> np.ndarray:
    """Lay out one image at all steps from left to right, as wide as the time axis.

    Parameters
    ----------
    trace
        With pictures.
    image
        Which of the kept images.
    row
        "teacher", "student" or "difference".
    gain
        Of the difference.

    Returns
    -------
    uint8 array (H, S * W, 4); steps without a picture are transparent.
    """
    check_image(trace, image)
    theirs, mine = trace.pictures[:, :, image]
    if row not in ROWS:
        raise ConfigError(f"row is {row!r}: expected one of {', '.join(ROWS)}")
    rows = dict(zip(ROWS, (theirs, mine, difference(theirs, mine, gain)), strict=True))
    height, width = theirs.shape[-2:]
    canvas = np.zeros((height, trace.steps * width, 4), dtype=np.uint8)
    for step, picture in zip(trace.picture_steps, rows[row], strict=True):
        place = canvas[:, step * width : (step + 1) * width]
        place[..., :3] = picture.transpose(1, 2, 0)
        place[..., 3] = 255
    return canvas


def check_image(trace: Trace, image: int) -> None:
    """Raise ConfigError unless the trace keeps pictures of an image."""
    kept = trace.pictures.shape[2] if trace.picture_steps else 0
    if not 0 <= image < kept:
        known = f"0 to {kept - 1}" if kept else "a trace that keeps pictures"
        raise ConfigError(f"picture {image} of {trace.name}: expected {known}")


def png_uri(pixels: np.ndarray, zoom: int = 1) -> str:
    """Return a PNG of uint8 pixels (H, W, 3 or 4), enlarged without smoothing, as a data URI."""
    large = pixels.repeat(zoom, 0).repeat(zoom, 1)
    buffer = io.BytesIO()
    Image.fromarray(large).save(buffer, format="PNG", compress_level=3)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _side_by_side(images: np.ndarray, gap: int) -> np.ndarray:
    """Lay out (K, C, H, W) as (H, K * (W + gap) - gap, 3)."""
    framed = np.pad(images, ((0, 0), (0, 0), (0, 0), (0, gap)), constant_values=_GREY)
    row = np.concatenate(list(framed.transpose(0, 2, 3, 1)), 1)[:, : framed.shape[-1] * len(images)]
    row = row[:, : row.shape[1] - gap] if gap else row
    return np.broadcast_to(row, (*row.shape[:2], 3))


def _gap_below(images: np.ndarray, gap: int) -> np.ndarray:
    width = len(images) * (images.shape[-1] + gap) - gap
    return np.full((gap, width, 3), _GREY, dtype=np.uint8)
