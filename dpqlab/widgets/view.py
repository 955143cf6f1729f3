"""What the five views have in common: knobs, one figure, its sentence, its code, its data."""

from __future__ import annotations

import asyncio
import csv
import html
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import ipywidgets as widgets
import plotly.graph_objects as go
import traitlets

from dpqlab.errors import BackendError, ConfigError, DPQError
from dpqlab.widgets.plot import Plot
from dpqlab.widgets.state import State

Control = TypeVar("Control", bound=widgets.Widget)

BURST = 0.02  # s in which changes of knobs make one redraw, while one follows the other
_PRE = "overflow-x: auto; line-height: 1.35; font-family: var(--jp-code-font-family, monospace)"


class View(ABC):
    """Base of the views: a state, the pure functions that it is given to, and what they return.

    A view says what is on screen (:meth:`figure`, :meth:`sentence`, :meth:`code`, :meth:`data`),
    which :meth:`controls` move its state, and where other things than its one plot have a place
    (:meth:`body`, :meth:`show`). The base does the rest: it redraws once for a burst of changes,
    shows errors, and offers code, data, picture and reset. Everything works without a browser.

    Attributes
    ----------
    name
        Of the files that are saved, such as ``"vq-against-pq"``.
    state
        The knobs.
    plot
        The figure.
    status
        Where results of buttons and errors appear.
    """

    name: ClassVar[str] = "view"

    def __init__(self, state: State) -> None:
        self.state = state
        self.plot = Plot()
        self.status = widgets.HTML()
        self._words = widgets.HTML()
        self._code = widgets.HTML()
        self._lock = threading.RLock()
        self._due: asyncio.TimerHandle | None = None
        self._drawn_at = 0.0
        self._root: widgets.VBox | None = None
        state.observe(self._changed, names=state.names())

    # What a view is: to be written for each.

    @abstractmethod
    def figure(self) -> go.Figure:
        """Return the figure for the state: one call of a function of ``dpqlab.viz``."""

    @abstractmethod
    def sentence(self) -> str:
        """Return what is on screen, in words and numbers."""

    @abstractmethod
    def code(self) -> str:
        """Return Python that makes the same figure with the pure functions; it ends in ``figure``.

        It runs by itself in a fresh interpreter.
        """

    @abstractmethod
    def data(self) -> dict[str, list[Any]]:
        """Return the numbers on screen as columns of equal length."""

    def controls(self) -> Sequence[widgets.Widget]:
        """Return the controls, in order of use; made once, with :meth:`bind`."""
        return ()

    def body(self) -> Sequence[widgets.Widget]:
        """Return what stands between the controls and the sentence."""
        return (self.plot,)

    def show(self) -> None:
        """Bring the body up to the state. The base draws :meth:`figure` in ``plot``."""
        self.plot.update(self.figure())

    # What the base does with it.

    @property
    def widget(self) -> widgets.VBox:
        """The whole view, made and drawn when first asked for."""
        if self._root is None:
            controls = widgets.Box(
                tuple(self.controls()),
                layout=widgets.Layout(flex_flow="row wrap", align_items="center"),
            )
            parts = (controls, *self.body(), self._words, self._tools(), self.status, self._code)
            self._root = widgets.VBox(parts)
            self.redraw()
        return self._root

    def bind(self, control: Control, knob: str) -> Control:
        """Tie a control's value to a knob, both ways; return the control."""
        traitlets.link((self.state, knob), (control, "value"))
        return control

    def redraw(self) -> None:
        """Draw the state now. Errors raised on purpose appear in ``status``, others also rise."""
        with self._lock:
            self._due = None
            try:
                self.show()
                words = self.sentence()
            except DPQError as error:
                self.say(str(error), trouble=True)
                return
            except Exception as error:
                self.say(f"This is a bug: {type(error).__name__}: {error}", trouble=True)
                raise
            finally:
                self._drawn_at = time.monotonic()
            self._words.value = f'<p style="margin: 0; line-height: 1.4">{html.escape(words)}</p>'
            self.plot.label = words
            self.say("")
            if self._code.value:
                self._show_code()

    def say(self, text: str, *, trouble: bool = False) -> None:
        """Show a line under the view."""
        mark = "⚠ " if trouble else ""
        line = f'<span role="status">{mark}{html.escape(text)}</span>'
        self.status.value = line if text else ""

    def to_csv(self, path: str | Path) -> None:
        """Write :meth:`data` as CSV."""
        columns = self.data()
        with Path(path).open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(columns)
            table.writerows(zip(*columns.values(), strict=True))

    def export(self, path: str | Path) -> None:
        """Write what is on screen; the ending of the name decides how.

        Parameters
        ----------
        path
            ``.csv``: the data; ``.json``: the state; ``.html``: figure, sentence and code in one
            page that needs no network; ``.png``, ``.svg``: the figure, which takes kaleido and a
            Chromium or Chrome.

        Raises
        ------
        ConfigError
            If the ending is none of these.
        BackendError
            If a picture is asked for and cannot be made here.
        """
        path = Path(path)
        if path.suffix == ".csv":
            self.to_csv(path)
        elif path.suffix == ".json":
            self.state.save(path)
        elif path.suffix == ".html":
            path.write_text(self._page(), encoding="utf-8")
        elif path.suffix in (".png", ".svg"):
            _write_picture(self.figure(), path)
        else:
            raise ConfigError(
                f"cannot export to {path.name}: expected .csv, .json, .html, .png or .svg"
            )

    def close(self) -> None:
        """Let go of the state and of the widgets."""
        self.state.unobserve(self._changed, names=self.state.names())
        if self._root is not None:
            self._root.close()
        self.plot.close()

    def _ipython_display_(self) -> None:
        from IPython.display import display

        display(self.widget)

    def _changed(self, _change: Any) -> None:
        """Redraw soon, once for a burst of changes; at once where no event loop runs.

        A change after a pause is drawn as soon as the message that brought it is dealt with.
        """
        if self._root is None:
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self.redraw()
            return
        if self._due is None:
            follows = time.monotonic() - self._drawn_at < 5 * BURST
            self._due = loop.call_later(BURST if follows else 0, self.redraw)

    def _tools(self) -> widgets.Box:
        actions = {
            "Show code": ("Python that makes this figure", self._toggle_code),
            "Save data": ("The numbers on screen, as CSV", lambda: self._save("csv")),
            "Save picture": ("The figure, as PNG", lambda: self._save("png")),
            "Reset": ("Everything as it was at first", self.state.reset),
        }
        buttons: list[widgets.Button] = []
        for text, (tooltip, action) in actions.items():
            button = widgets.Button(description=text, tooltip=tooltip)
            button.on_click(lambda _button, action=action: self._act(action))
            buttons.append(button)
        return widgets.Box(buttons, layout=widgets.Layout(flex_flow="row wrap"))

    def _act(self, action: Any) -> None:
        """Do what a button says; say what went wrong."""
        try:
            action()
        except (DPQError, OSError) as error:
            self.say(str(error), trouble=True)

    def _save(self, suffix: str) -> None:
        path = _unused(self.name, suffix)
        self.export(path)
        self.say(f"Saved {path.name} ({path.stat().st_size:,} bytes) beside the notebook.")

    def _toggle_code(self) -> None:
        if self._code.value:
            self._code.value = ""
        else:
            self._show_code()

    def _show_code(self) -> None:
        self._code.value = f'<pre style="{_PRE}">{html.escape(self.code())}</pre>'

    def _page(self) -> str:
        plot = self.figure().to_html(full_html=False, include_plotlyjs=True)
        words, code = html.escape(self.sentence()), html.escape(self.code())
        return (
            f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{self.name}</title>'
            '<meta name="color-scheme" content="light dark"><body style="font-family: system-ui">'
            f"{plot}<p>{words}</p><pre>{code}</pre></body></html>\n"
        )


def _unused(name: str, suffix: str) -> Path:
    """Return a file name in the current folder that nothing has yet."""
    path, number = Path(f"{name}.{suffix}"), 2
    while path.exists():
        path, number = Path(f"{name}-{number}.{suffix}"), number + 1
    return path


def _write_picture(figure: go.Figure, path: Path) -> None:
    try:
        figure.write_image(path, width=1000, scale=2)
    except (ImportError, ValueError, RuntimeError, OSError) as error:
        raise BackendError(
            f"cannot write {path.name}: a picture takes kaleido and a Chromium or Chrome "
            f"({str(error).strip().splitlines()[0]}); the camera above the figure saves one too, "
            "and export to .html always works"
        ) from None
