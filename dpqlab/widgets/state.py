"""The knobs of a view: typed, validated, saved to JSON and loaded from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn

import traitlets

from dpqlab.errors import ConfigError


class State(traitlets.HasTraits):
    """Base of every view's state: a knob is a trait tagged ``sync_state=True``.

    A state is complete by itself: whoever has its JSON sees the same screen. Traits without the tag
    are for passing results around, and are neither saved nor reset.

    Examples
    --------
    >>> class Knobs(State):
    ...     k = traitlets.Int(32, min=2).tag(sync_state=True)
    >>> state = Knobs(k=64)
    >>> state.to_json()
    '{"state": "Knobs", "knobs": {"k": 64}}'
    >>> state.k = 128
    >>> state.reset()
    >>> state.k
    64
    """

    def __init__(self, **knobs: Any) -> None:
        unknown = sorted(knobs.keys() - self.trait_names())
        if unknown:
            raise ConfigError(
                f"{type(self).__name__} has no knob {unknown[0]!r}: "
                f"expected one of {', '.join(self.names())}"
            )
        try:
            super().__init__(**knobs)
        except traitlets.TraitError as error:
            raise ConfigError(f"{type(self).__name__}: {error}") from None
        self._initial = self.knobs()

    @classmethod
    def names(cls) -> list[str]:
        """Return the names of the knobs, sorted."""
        return sorted(cls.class_trait_names(sync_state=True))

    def knobs(self) -> dict[str, Any]:
        """Return the value of every knob."""
        return {name: getattr(self, name) for name in self.names()}

    def set(self, knobs: dict[str, Any]) -> None:
        """Change several knobs at once; observers hear of it when all have changed.

        Raises
        ------
        ConfigError
            If a knob is unknown or a value not possible; then nothing has changed.
        """
        unknown = sorted(knobs.keys() - set(self.names()))
        if unknown:
            raise ConfigError(
                f"{type(self).__name__} has no knob {unknown[0]!r}: "
                f"expected one of {', '.join(self.names())}"
            )
        try:
            with self.hold_trait_notifications():
                for name, value in knobs.items():
                    if isinstance(value, bool) and not isinstance(getattr(self, name), bool):
                        raise traitlets.TraitError(f"{name} is no yes-or-no knob: got {value}")
                    self.set_trait(name, value)
        except traitlets.TraitError as error:
            raise ConfigError(f"{type(self).__name__}: {error}") from None

    def reset(self) -> None:
        """Return every knob to what it was when the state was made."""
        self.set(self._initial)

    def to_json(self) -> str:
        """Return the knobs as JSON."""
        return json.dumps({"state": type(self).__name__, "knobs": self.knobs()})

    def from_json(self, text: str) -> None:
        """Take over the knobs that :meth:`to_json` wrote.

        Raises
        ------
        ConfigError
            If the text is not the state of such a view; then nothing has changed.
        """
        try:
            given = json.loads(text, parse_constant=_refuse)
        except ValueError as error:
            raise ConfigError(f"not the state of a view, which is JSON: {error}") from None
        name = type(self).__name__
        if not isinstance(given, dict) or given.keys() != {"state", "knobs"}:
            raise ConfigError('not the state of a view: expected the keys "state" and "knobs"')
        if given["state"] != name or not isinstance(given["knobs"], dict):
            raise ConfigError(f"the state of another view: got {given['state']!r}, expected {name}")
        self.set(given["knobs"])

    def save(self, path: str | Path) -> None:
        """Write the knobs to a JSON file."""
        Path(path).write_text(self.to_json() + "\n", encoding="utf-8")

    def load(self, path: str | Path) -> None:
        """Take over the knobs from a file that :meth:`save` wrote."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"cannot read the state in {path}: {error}") from None
        self.from_json(text)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a number that a knob can have")
