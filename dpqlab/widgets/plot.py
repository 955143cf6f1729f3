"""A plotly figure as a widget that does not bring its own copy of plotly.js.

``plotly.graph_objects.FigureWidget`` sends its 5 MB of JavaScript with every instance. Here the
first :class:`Plot` of a kernel carries plotly.js, compressed, in the message that creates it, so
that nobody has to wait for an answer from a kernel that is still running cells. All others find it
on the page; one that does not within some seconds (a page opened anew) asks the kernel.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import anywidget
import numpy as np
import plotly.graph_objects as go
import traitlets
from plotly.offline import get_plotlyjs

Point = dict[str, Any]
Spec = Mapping[str, Any]
"""A figure as plotly's JSON; it may hold numpy arrays."""
FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


@lru_cache(maxsize=1)
def plotly_bundle() -> bytes:
    """Return plotly.js as gzip, about 1.4 MB."""
    return gzip.compress(get_plotlyjs().encode(), mtime=0)


class Plot(anywidget.AnyWidget):
    """Shows one plotly figure; follows the page's theme, works by mouse and keyboard.

    Attributes
    ----------
    spec
        The figure as plotly's JSON, arrays as base64; set it through :meth:`update`.
    label
        What the figure shows, in words, for those who do not see it.
    height
        In pixels; 0 takes the figure's own.
    click, hover
        The point last clicked (or chosen with Enter) and last pointed at: a dict with ``x``, ``y``,
        ``z``, ``curve`` (index of the trace), ``point`` (index in the trace, of a heatmap
        ``[row, column]``), ``customdata`` and ``at`` (ms, so that a second click on the same point
        is a change). Empty before.
    hovers
        Whether ``hover`` is wanted: every move is a message to the kernel, at most ten a second.
    bundle
        plotly.js, in the first Plot of a kernel.

    Examples
    --------
    >>> plot = Plot(go.Figure(go.Scatter(y=[1, 3, 2])), label="three points")
    >>> plot.spec["data"][0]["type"]
    'scatter'
    """

    _esm = Path(__file__).with_name("plot.js")
    _css = Path(__file__).with_name("plot.css")
    _carried: ClassVar[bool] = False

    spec = traitlets.Dict().tag(sync=True)
    label = traitlets.Unicode("figure").tag(sync=True)
    height = traitlets.Int(0).tag(sync=True)
    click = traitlets.Dict().tag(sync=True)
    hover = traitlets.Dict().tag(sync=True)
    hovers = traitlets.Bool(False).tag(sync=True)
    bundle = traitlets.Bytes(b"").tag(sync=True)

    def __init__(
        self,
        figure: go.Figure | None = None,
        *,
        label: str = "figure",
        height: int = 0,
        hovers: bool = False,
    ) -> None:
        bundle = b"" if Plot._carried else plotly_bundle()
        Plot._carried = True
        super().__init__(
            spec=_spec(figure or go.Figure()),
            label=label,
            height=height,
            hovers=hovers,
            bundle=bundle,
        )
        self.on_msg(self._answer)

    def update(self, figure: go.Figure | Spec, label: str | None = None) -> None:
        """Show another figure in place of this one; with ``label``, say what it shows.

        Parameters
        ----------
        figure
            A figure, or plotly's JSON with numpy arrays in it, which is sent as it is.
        label
            What the figure shows, in words.
        """
        with self.hold_sync():
            self.spec = _spec(figure)
            if label is not None:
                self.label = label

    def on_click(self, callback: Callable[[Point], None]) -> None:
        """Call ``callback`` with every point that is clicked."""
        self.observe(lambda change: callback(change["new"]), names="click")

    def on_hover(self, callback: Callable[[Point], None]) -> None:
        """Call ``callback`` with every point that is pointed at."""
        self.hovers = True
        self.observe(lambda change: callback(change["new"]), names="hover")

    def _answer(self, _widget: Any, content: Any, _buffers: Any) -> None:
        """Send a page what it misses: plotly.js, or the figure."""
        wanted = content.get("kind") if isinstance(content, dict) else None
        if wanted == "plotly":
            self.send({"kind": "plotly"}, buffers=[plotly_bundle()])
        elif wanted == "spec" and self.spec.get("data"):
            self.send_state("spec")


def _spec(figure: go.Figure | Spec) -> dict[str, Any]:
    if isinstance(figure, go.Figure):
        return json.loads(figure.to_json() or "{}")
    return _plain(figure)


def _plain(value: Any) -> Any:
    """Return a part of a spec without numpy: arrays of floats as plotly's base64."""
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, np.ndarray) and value.ndim == 1 and value.dtype in FLOATS:
        raw = value.astype(value.dtype.newbyteorder("<")).tobytes()
        return {"dtype": f"f{value.itemsize}", "bdata": base64.b64encode(raw).decode()}
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value
