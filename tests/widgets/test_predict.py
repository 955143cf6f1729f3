"""Predict, then reveal."""

from __future__ import annotations

import pytest

from dpqlab.errors import ConfigError
from dpqlab.widgets import Prediction


def test_the_answer_is_computed_only_when_revealed():
    asked = []

    def answer() -> str:
        asked.append(True)
        return "PQ"

    guess = Prediction("Which one?", ["VQ", "PQ"], answer, lambda: "Measured: 0.2 against 0.3.")
    _, _, button, shown = guess.widget.children
    assert button.disabled
    with pytest.raises(ConfigError, match="choose"):
        guess.reveal()
    guess.choose("VQ")
    assert not button.disabled
    assert not asked
    assert not guess.revealed
    button.click()
    assert asked == [True]
    assert guess.revealed
    assert "You said VQ. It is PQ. Measured: 0.2 against 0.3." in shown.value


def test_a_right_guess_is_told_so():
    guess = Prediction("Which one?", ["a", "b"], "b", "")
    guess.choose("b")
    assert guess.reveal().startswith("You said b: right.")


def test_impossible_questions_are_refused():
    with pytest.raises(ConfigError, match="two or more"):
        Prediction("?", ["a"], "a", "")
    with pytest.raises(ConfigError, match="not among"):
        Prediction("?", ["a", "b"], "c", "")
    guess = Prediction("?", ["a", "b"], lambda: "c", "")
    with pytest.raises(ConfigError, match="cannot be chosen"):
        guess.choose("z")
    guess.choose("a")
    with pytest.raises(ConfigError, match="came out as 'c'"):
        guess.reveal()
