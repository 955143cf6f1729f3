from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator

import gradio as gr
import pytest

from dpqlab.errors import BackendError, ConfigError
from dpqlab_app.page.messages import UNKNOWN, friendly, sentence


def test_our_own_errors_keep_their_text() -> None:
    assert sentence(ConfigError("steps: 0 is too few")) == "steps: 0 is too few"
    assert sentence(BackendError("no\n  such   GPU")) == "no such GPU"


def test_anything_else_is_not_told() -> None:
    assert sentence(ValueError("/etc/secret")) == UNKNOWN


def test_markup_that_somebody_sent_stays_text() -> None:
    """Gradio shows messages as HTML, and a permalink's bad value is part of one."""
    assert "<" not in sentence(ConfigError("no model <img src=x onerror=alert(1)>"))


def test_long_texts_are_cut() -> None:
    assert len(sentence(ConfigError("x" * 100_000))) < 1000


def test_a_function_a_generator_and_a_coroutine_fail_politely(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def plain() -> None:
        raise ValueError("secret")

    def steps() -> Iterator[int]:
        yield 1
        raise ConfigError("too far")

    async def later() -> None:
        raise ConfigError("too late")

    with pytest.raises(gr.Error) as caught:
        friendly(plain)()
    assert caught.value.message == UNKNOWN and not caught.value.print_exception
    assert "secret" in caplog.text, "the log says more"

    running = friendly(steps)()
    assert inspect.isgeneratorfunction(friendly(steps)) and next(running) == 1
    with pytest.raises(gr.Error, match="too far"):
        next(running)
    with pytest.raises(gr.Error, match="too late"):
        asyncio.run(friendly(later)())


def test_an_error_that_a_handler_made_for_the_visitor_passes() -> None:
    def handler() -> None:
        raise gr.Error("Pick a style first.")

    with pytest.raises(gr.Error, match="Pick a style") as caught:
        friendly(handler)()
    assert not caught.value.print_exception


def test_closing_reaches_the_generator() -> None:
    closed: list[bool] = []

    def steps() -> Iterator[int]:
        try:
            yield from range(10)
        finally:
            closed.append(True)

    running = friendly(steps)()
    next(running)
    running.close()
    assert closed == [True]
