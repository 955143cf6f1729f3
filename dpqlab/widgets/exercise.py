"""A short exercise that checks itself, with a solution that stays folded until wanted."""

from __future__ import annotations

import ast
import html
from collections.abc import Callable
from typing import Any

import ipywidgets as widgets

Check = Callable[[Any], str | None]


class Exercise:
    """Shows a task with a field for the answer; or takes the answer from a cell.

    Parameters
    ----------
    prompt
        The task.
    check
        Gets the answer (a number or another Python literal where the text is one, else the text);
        returns None if it is right, else a hint that does not give the answer away.
    solution
        How to get there; code or prose.

    Examples
    --------
    >>> exercise = Exercise(
    ...     "Bits of a code when k = 32?",
    ...     lambda bits: None if bits == 5 else "2 to which power is 32?",
    ...     "math.log2(32)",
    ... )
    >>> exercise.check(6)
    'Not yet: 2 to which power is 32?'
    >>> exercise.check(5)
    'Right.'
    """

    def __init__(self, prompt: str, check: Check, solution: str) -> None:
        self.prompt = prompt
        self._check = check
        self.solution = solution
        self._field = widgets.Text(placeholder="your answer", description="Answer")
        self._button = widgets.Button(description="Check")
        self._shown = widgets.HTML()
        self._button.on_click(lambda _button: self._submit())
        self._field.on_msg(self._entered)

    @property
    def widget(self) -> widgets.VBox:
        """Task, field, button and the folded solution."""
        folded = (
            "<details><summary>Solution</summary>"
            f'<pre style="white-space: pre-wrap">{html.escape(self.solution)}</pre></details>'
        )
        return widgets.VBox(
            [
                widgets.HTML(f"<b>Exercise.</b> {html.escape(self.prompt)}"),
                widgets.HBox([self._field, self._button]),
                self._shown,
                widgets.HTML(folded),
            ]
        )

    def check(self, value: Any) -> str:
        """Say whether an answer is right, and show it; a check that fails on it counts as no."""
        try:
            hint = self._check(value)
        except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
            hint = f"this answer cannot be checked ({error})."
        text = "Right." if hint is None else f"Not yet: {hint}"
        self._shown.value = f'<p role="status">{html.escape(text)}</p>'
        return text

    def _submit(self) -> None:
        self.check(_literal(self._field.value.strip()))

    def _entered(self, _widget: object, content: Any, _buffers: object) -> None:
        """Enter in the field checks too."""
        if isinstance(content, dict) and content.get("event") == "submit":
            self._submit()

    def _ipython_display_(self) -> None:
        from IPython.display import display

        display(self.widget)


def _literal(text: str) -> Any:
    """Return the number or other literal that a text is, else the text."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
