"""Exercises that check themselves."""

from __future__ import annotations

import pytest

from dpqlab.widgets import Exercise


@pytest.fixture
def exercise():
    return Exercise(
        "How many bits has a code of k = 32 < 64?",
        lambda bits: None if abs(bits - 5) < 0.1 else "2 to which power is 32?",
        "math.log2(32) < 6",
    )


def test_right_wrong_and_unusable_answers(exercise):
    assert exercise.check(5) == "Right."
    assert exercise.check(4) == "Not yet: 2 to which power is 32?"
    assert "cannot be checked" in exercise.check("five")


@pytest.mark.parametrize(
    ("typed", "told"), [("5", "Right."), (" 5.0 ", "Right."), ("6", "Not yet")]
)
def test_the_field_is_read_as_a_number(exercise, typed, told):
    prompt, (field, button), shown, solution = (
        getattr(child, "children", child) for child in exercise.widget.children
    )
    field.value = typed
    button.click()
    assert told in shown.value
    assert "k = 32 &lt; 64" in prompt.value
    assert "<details>" in solution.value
    assert "math.log2(32) &lt; 6" in solution.value
