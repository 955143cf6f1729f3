"""What a visitor reads when something does not go as asked: a sentence, never a traceback."""

from __future__ import annotations

import functools
import html
import inspect
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gradio as gr

from dpqlab.errors import DPQError

UNKNOWN = "Something went wrong here; the log says more."
UNREADABLE = "One of the values could not be read. Please reload the page and try again."
MOST_CHARACTERS = 600

_log = logging.getLogger(__name__)


def sentence(error: Exception) -> str:
    """What to show for ``error``: its own text if it was raised on purpose, else :data:`UNKNOWN`.

    The text goes into HTML, and may quote what somebody sent: markup in it is escaped.
    """
    if not isinstance(error, DPQError):
        return UNKNOWN
    text = " ".join(str(error).split())
    if len(text) > MOST_CHARACTERS:
        text = f"{text[:MOST_CHARACTERS]}…"
    return html.escape(text, quote=False)


def shown(error: Exception, title: str = "That did not work") -> gr.Error:
    """The error that Gradio shows to the visitor for ``error``, which is logged if unexpected."""
    if not isinstance(error, DPQError):
        _log.error("a handler failed", exc_info=error)
    return gr.Error(sentence(error), title=title, print_exception=False)


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except gr.Error as error:
        error.print_exception = False
        raise
    except Exception as error:
        raise shown(error) from None


def friendly(handler: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a handler (function or generator, plain or async) so that errors become sentences."""
    if inspect.isgeneratorfunction(handler):

        @functools.wraps(handler)
        def generate(*args: Any, **named: Any) -> Iterator[Any]:
            with _explained():
                yield from handler(*args, **named)

        return generate
    if inspect.isasyncgenfunction(handler):

        @functools.wraps(handler)
        async def generate_async(*args: Any, **named: Any) -> Any:
            with _explained():
                async for value in handler(*args, **named):
                    yield value

        return generate_async
    if inspect.iscoroutinefunction(handler):

        @functools.wraps(handler)
        async def call_async(*args: Any, **named: Any) -> Any:
            with _explained():
                return await handler(*args, **named)

        return call_async

    @functools.wraps(handler)
    def call(*args: Any, **named: Any) -> Any:
        with _explained():
            return handler(*args, **named)

    return call


def explain_errors(blocks: gr.Blocks) -> None:
    """Make every handler of ``blocks`` friendly, and the reading of its inputs too."""
    for function in blocks.fns.values():
        if function.fn is not None:
            function.fn = friendly(function.fn)
    read = blocks.preprocess_data

    @functools.wraps(read)
    async def preprocess_data(*args: Any, **named: Any) -> Any:
        try:
            return await read(*args, **named)
        except gr.Error as error:
            error.print_exception = False
            raise
        except Exception as error:
            _log.warning("inputs of a request could not be read: %s", _first_line(error))
            raise gr.Error(UNREADABLE, print_exception=False) from None

    blocks.preprocess_data = preprocess_data  # pyright: ignore[reportAttributeAccessIssue]


def _first_line(error: Exception) -> str:
    lines = f"{type(error).__name__}: {error}".splitlines()
    return lines[0][:200]
