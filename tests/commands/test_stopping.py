"""Signals stop a command in an orderly way, and leave the handlers as they were."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from dpqlab import cli
from dpqlab.commands import models
from dpqlab.commands.stopping import Terminated, deaf, stop_code, terminable
from dpqlab.errors import CheckpointError


def test_sigterm_is_raised_inside_and_the_handler_comes_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt) as caught, terminable():
        os.kill(os.getpid(), signal.SIGTERM)
    assert isinstance(caught.value, Terminated)
    assert signal.getsignal(signal.SIGTERM) == before
    assert (stop_code(caught.value), stop_code(KeyboardInterrupt())) == (143, 130)


def test_other_threads_set_no_handlers() -> None:
    passed = []

    def elsewhere() -> None:
        with terminable(), deaf():
            passed.append(True)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert passed == [True]


def test_a_second_signal_does_not_cut_the_last_line_short() -> None:
    before = signal.getsignal(signal.SIGINT)
    with deaf():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGINT) == before


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C as in a terminal: a shell's background jobs are started deaf to it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_command_that_is_stopped_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int, code: int
) -> None:
    monkeypatch.setattr(models, "run", lambda args: os.kill(os.getpid(), number))
    assert cli.main(["models"]) == code
    assert capsys.readouterr().err == "dpqlab models: stopped\n"


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("times", [1, 2])
def test_what_a_library_makes_of_a_stop_is_a_stop(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: int,
    code: int,
    times: int,
) -> None:
    """torch: "could not determine the shape of object type 'torch.storage.UntypedStorage'"."""

    def converting(args: object) -> int:
        for _ in range(times):
            with contextlib.suppress(KeyboardInterrupt):
                os.kill(os.getpid(), number)
        raise ValueError("could not determine the shape")

    monkeypatch.setattr(models, "run", converting)
    before = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    assert cli.main(["models"]) == code
    assert capsys.readouterr().err == "dpqlab models: stopped\n"
    assert before == [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]


@pytest.mark.usefixtures("interruptible")
def test_what_could_not_be_saved_after_a_stop_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def saving(args: object) -> int:
        with contextlib.suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        raise CheckpointError("could not write x: 12 bytes are needed")

    monkeypatch.setattr(models, "run", saving)
    assert cli.main(["models"]) == 2
    assert "12 bytes are needed" in capsys.readouterr().err


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_nothing_is_raised_into_llvm(number: int) -> None:
    """It calls Python back while it loads code, and dies of an exception there."""
    program = """
import os
def loading(number):
    os.kill(os.getpid(), number)
    for _ in range(1000):
        pass
    return "loaded"
"""
    inside: dict[str, Any] = {"__name__": "llvmlite.binding.executionengine"}
    exec(program, inside)
    seen = []
    with pytest.raises(KeyboardInterrupt), terminable():
        seen.append(inside["loading"](number))
        time.sleep(5)
        seen.append("slept on")
    assert seen == ["loaded"]


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("[enforce] can't allocate memory")])
def test_a_lack_of_memory_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    def starved(args: object) -> int:
        raise error

    monkeypatch.setattr(models, "run", starved)
    assert cli.main(["models"]) == 2
    assert capsys.readouterr().err.startswith("dpqlab models: memory ran out: ")


def test_a_bug_stays_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(args: object) -> int:
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(models, "run", broken)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        cli.main(["models"])
