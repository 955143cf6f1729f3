"""A picture of numbers or of an image, pixel by pixel, as one binary message to a canvas."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import anywidget
import numpy as np
import traitlets
from numpy.typing import NDArray

from dpqlab.errors import ConfigError, ShapeError

Cell = dict[str, Any]


class Pixels(anywidget.AnyWidget):
    """Shows an array as a picture without smoothing; tells what is pointed at and clicked.

    Attributes
    ----------
    label
        What the picture shows, in words, for those who do not see it.
    zoom
        Screen pixels to a pixel of the array; 0 fills the width there is. Never wider than that.
    group
        Pictures with the same group, not empty, show the cell that is pointed at in any of them.
    cell
        ``(rows, columns)`` that the cursor covers: what belongs together, such as one sub-vector or
        one image of a strip.
    outline
        Frames to draw, each ``[row, column, rows, columns]``.
    click, hover
        The cell last clicked (or chosen with Enter) and last pointed at: a dict with ``row``,
        ``column`` (of the pixel) and ``at`` (ms). Empty before.
    hovers
        Whether ``hover`` is wanted: every move is a message to the kernel, at most ten a second.

    Examples
    --------
    >>> picture = Pixels(np.zeros((28, 28), np.uint8), label="an empty image", zoom=4)
    >>> picture.shape
    [28, 28, 1]
    """

    _esm = Path(__file__).with_name("pixels.js")
    _css = Path(__file__).with_name("pixels.css")

    pixels = traitlets.Bytes(b"\0").tag(sync=True)
    shape = traitlets.List(traitlets.Int(), default_value=[1, 1, 1]).tag(sync=True)
    palette = traitlets.Bytes(b"").tag(sync=True)
    span = traitlets.List(traitlets.Float(), default_value=[]).tag(sync=True)
    label = traitlets.Unicode("picture").tag(sync=True)
    zoom = traitlets.Int(0, min=0).tag(sync=True)
    group = traitlets.Unicode("").tag(sync=True)
    cell = traitlets.List(traitlets.Int(), default_value=[1, 1]).tag(sync=True)
    outline = traitlets.List(traitlets.List(traitlets.Int()), default_value=[]).tag(sync=True)
    click = traitlets.Dict().tag(sync=True)
    hover = traitlets.Dict().tag(sync=True)
    hovers = traitlets.Bool(False).tag(sync=True)

    def __init__(
        self,
        image: NDArray[np.uint8] | None = None,
        *,
        label: str = "picture",
        zoom: int = 0,
        group: str = "",
        cell: tuple[int, int] = (1, 1),
    ) -> None:
        super().__init__(label=label, zoom=zoom, group=group, cell=list(cell))
        if image is not None:
            self.show(image)

    def show(self, image: NDArray[np.uint8]) -> None:
        """Show an image.

        Parameters
        ----------
        image
            uint8 of shape (H, W), (H, W, 3) or (H, W, 4).

        Raises
        ------
        ShapeError
            If it is anything else.
        """
        image = np.asarray(image)
        channels = image.shape[2] if image.ndim == 3 else 1
        usable = image.ndim in (2, 3) and channels in (1, 3, 4) and image.size > 0
        if image.dtype != np.uint8 or not usable:
            raise ShapeError(
                f"a picture is uint8 of shape (H, W), (H, W, 3) or (H, W, 4): "
                f"got {image.dtype} of shape {image.shape}"
            )
        with self.hold_sync():
            self.palette, self.span = b"", []
            self._put(image, channels)

    def show_values(
        self,
        values: NDArray[np.floating[Any]],
        span: tuple[float, float],
        palette: NDArray[np.uint8],
    ) -> None:
        """Show a matrix in colours; whoever points at a cell reads its value.

        256 steps of colour cross to the page, and the value is read off them: to 1/510 of the span.

        Parameters
        ----------
        values
            Shape (H, W).
        span
            Lowest and highest value of the scale; what lies beyond takes the colour of its end.
            Pictures to be compared need the same.
        palette
            uint8 (256, 3), such as :func:`dpqlab.viz.colours.diverging`.
        """
        values = np.asarray(values)
        low, high = span
        if values.ndim != 2 or not values.size or palette.shape != (256, 3):
            raise ShapeError(
                "values have shape (H, W) and a palette (256, 3): "
                f"got {values.shape} and {palette.shape}"
            )
        if not low < high:
            raise ConfigError(f"span must rise: got {low} to {high}")
        steps = np.clip((values - low) * (255 / (high - low)) + 0.5, 0, 255).astype(np.uint8)
        with self.hold_sync():
            self.palette, self.span = palette.astype(np.uint8).tobytes(), [float(low), float(high)]
            self._put(steps, 1)

    def frame(self, *frames: Sequence[int]) -> None:
        """Draw frames, each ``(row, column, rows, columns)``; none takes them away."""
        self.outline = [[int(number) for number in frame] for frame in frames]

    def on_click(self, callback: Callable[[Cell], None]) -> None:
        """Call ``callback`` with every cell that is clicked."""
        self.observe(lambda change: callback(change["new"]), names="click")

    def on_hover(self, callback: Callable[[Cell], None]) -> None:
        """Call ``callback`` with every cell that is pointed at."""
        self.hovers = True
        self.observe(lambda change: callback(change["new"]), names="hover")

    def _put(self, image: NDArray[np.uint8], channels: int) -> None:
        self.shape = [image.shape[0], image.shape[1], channels]
        self.pixels = np.ascontiguousarray(image).tobytes()
