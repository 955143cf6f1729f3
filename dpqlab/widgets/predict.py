"""A question before the answer: predict first, then reveal what was computed."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence

import ipywidgets as widgets

from dpqlab.errors import ConfigError

Text = str | Callable[[], str]


class Prediction:
    """Asks for a guess, and shows the answer only after one was made.

    Parameters
    ----------
    question
        One sentence.
    options
        What may be chosen.
    answer
        The right option, or a function that computes it when it is revealed: what can be measured
        is measured.
    why
        What was measured and what follows from it, or a function that says it.

    Examples
    --------
    >>> p = Prediction("1 + 1?", ["2", "3"], lambda: str(1 + 1), "Count.")
    >>> p.choose("3")
    >>> p.reveal()
    'You said 3. It is 2. Count.'
    """

    def __init__(self, question: str, options: Sequence[str], answer: Text, why: Text) -> None:
        if len(set(options)) < 2 or len(set(options)) != len(options):
            raise ConfigError(f"a prediction needs two or more different options: got {options}")
        if isinstance(answer, str) and answer not in options:
            raise ConfigError(f"the answer {answer!r} is not among the options {list(options)}")
        self.question = question
        self._answer, self._why = answer, why
        self._radio = widgets.RadioButtons(
            options=list(options),
            value=None,
            layout=widgets.Layout(width="auto"),
        )
        self._button = widgets.Button(description="Reveal", disabled=True)
        self._shown = widgets.HTML()
        self._radio.observe(self._chosen, names="value")
        self._button.on_click(lambda _button: self.reveal())

    @property
    def widget(self) -> widgets.VBox:
        """Question, options, button and, later, the answer."""
        question = widgets.HTML(f"<b>{html.escape(self.question)}</b>")
        return widgets.VBox([question, self._radio, self._button, self._shown])

    @property
    def revealed(self) -> bool:
        """Whether the answer has been shown."""
        return bool(self._shown.value)

    def choose(self, option: str) -> None:
        """Make a guess."""
        if option not in self._radio.options:
            raise ConfigError(
                f"{option!r} cannot be chosen: expected one of {', '.join(self._radio.options)}"
            )
        self._radio.value = option

    def reveal(self) -> str:
        """Show the answer beside the guess, and return the text.

        Raises
        ------
        ConfigError
            If no guess was made.
        """
        guess = self._radio.value
        if guess is None:
            raise ConfigError("choose an option first, then reveal")
        answer, why = (one if isinstance(one, str) else one() for one in (self._answer, self._why))
        if answer not in self._radio.options:
            raise ConfigError(
                f"the answer came out as {answer!r}, which is not among the options "
                f"{', '.join(self._radio.options)}"
            )
        first = (
            f"You said {guess}: right." if guess == answer else f"You said {guess}. It is {answer}."
        )
        self._radio.disabled = self._button.disabled = True
        self._shown.value = f'<p role="status">{html.escape(f"{first} {why}")}</p>'
        return f"{first} {why}"

    def _chosen(self, _change: object) -> None:
        self._button.disabled = self._radio.value is None

    def _ipython_display_(self) -> None:
        from IPython.display import display

        display(self.widget)
