from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from dpqlab.commands import terminal as module
from dpqlab.commands.terminal import Terminal, megabytes
from dpqlab.report import clock


def test_talk_goes_to_stderr_when_stdout_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal(as_json=True)
    terminal.say("working")
    terminal.emit({"kept": "×", "none": None})
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"kept": "×", "none": None}
    assert captured.err == "working\n"


def test_json_has_no_nan() -> None:
    with pytest.raises(ValueError, match="JSON"):
        Terminal(as_json=True).emit(float("nan"))


def test_brackets_are_text(capsys: pytest.CaptureFixture[str]) -> None:
    Terminal().say("pip install -e '.[fast]' :smile:")
    assert capsys.readouterr().out == "pip install -e '.[fast]' :smile:\n"


def test_plain_progress_says_how_long(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter([0.0, 1.0, 30.0])
    # the module's name only: others need the time too
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: next(now)))
    with Terminal().progress("Sampling", 4) as meter:
        meter.advance(1, "a")
        meter.advance(1, "b")
    assert capsys.readouterr().err == "Sampling: 50%, about 30 s left (b)\n"


def test_progress_is_live_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    terminal = Terminal()
    assert terminal.err.is_terminal
    with terminal.progress("Sampling", 2) as meter:
        meter.advance(1, "[not markup]")
        assert meter.bar.tasks[0].completed == 1


def test_units() -> None:
    assert clock(59.6) == "1 min 00 s"
    assert clock(3) == "3 s"
    assert megabytes(1_234_567) == "1.23 MB"
