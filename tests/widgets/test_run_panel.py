"""What all panels that run something have in common, on one that counts."""

from __future__ import annotations

import threading

import ipywidgets as widgets
import pytest

from dpqlab.errors import ConfigError
from dpqlab.widgets.run_panel import RunPanel

SOON = 10.0


class Count(RunPanel[int]):
    """Counts; ``go`` lets it take the next step."""

    def __init__(self) -> None:
        super().__init__(widgets.Button(description="Count"), rate=1000)
        self.run_button.on_click(lambda _button: self.start())
        self.go = threading.Semaphore(0)
        self.arrived = threading.Semaphore(0)
        self.seen: list[int] = []
        self.trouble: Exception | None = None

    def start(self) -> bool:
        return self._begin("Counting <up>.")

    def _steps(self):
        for i in range(3):
            assert self.go.acquire(timeout=SOON)
            if self.trouble:
                raise self.trouble
            yield i

    def _arrived(self, records):
        self.seen += records
        self._progress(f"{len(self.seen)} so far")
        for _ in records:
            self.arrived.release()

    def _end_words(self):
        return f"{self.job.status}: {self.seen}"


@pytest.fixture
def panel():
    made = Count()
    yield made
    made.stop()
    made.go.release(3)
    assert made.job.wait(SOON)


def pressable(panel: Count) -> tuple[bool, bool]:
    return not panel.run_button.disabled, not panel.stop_button.disabled


def test_the_buttons_and_the_line_follow_a_run(panel):
    assert pressable(panel) == (True, False)
    assert panel.words.value == ""
    panel.run_button.click()
    assert pressable(panel) == (False, True)
    assert 'role="status"' in panel.words.value, "screen readers announce it"
    assert "Counting &lt;up&gt;." in panel.words.value
    panel.go.release()
    assert panel.arrived.acquire(timeout=SOON)
    assert ">1 so far<" in panel.words.value
    panel.go.release(2)
    assert panel.job.wait(SOON)
    assert pressable(panel) == (True, False)
    assert ">done: [0, 1, 2]<" in panel.words.value


def test_stop_is_said_until_the_end_whatever_arrives(panel):
    said = []
    panel.words.observe(lambda change: said.append(change["new"]), names="value")
    panel.start()
    panel.stop_button.click()
    assert pressable(panel) == (False, False), "nothing to press until it is over"
    assert "Stopping after the step that is under way." in said[-1]
    panel.go.release()
    assert panel.job.wait(SOON)
    assert panel.seen == [0], "the step under way is delivered"
    assert not any("so far" in line for line in said)
    assert "stopped: [0]" in said[-1]
    assert pressable(panel) == (True, False)


def test_stop_without_a_run_says_nothing(panel):
    panel.stop()
    assert panel.words.value == ""
    assert pressable(panel) == (True, False)


def test_a_second_start_is_refused_while_one_goes_on_and_not_after(panel):
    assert panel.start()
    panel.go.release()
    assert panel.arrived.acquire(timeout=SOON)
    assert not panel.start()
    assert "so far" in panel.words.value, "what is said stays that of the run"
    panel.go.release(2)
    assert panel.job.wait(SOON)
    assert panel.start()


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        (ConfigError("k < 2: expected more"), "⚠ k &lt; 2: expected more"),
        (ZeroDivisionError("a bug"), "⚠ ZeroDivisionError: a bug"),
    ],
)
def test_an_error_is_said_and_the_next_run_can_begin(panel, trouble, said):
    panel.trouble = trouble
    panel.start()
    panel.go.release()
    assert panel.job.wait(SOON)
    assert said in panel.words.value
    assert pressable(panel) == (True, False)
    panel.trouble = None
    assert panel.start()
    assert "⚠" not in panel.words.value


def test_the_line_is_empty_where_nothing_is_said(panel):
    panel.tell("something")
    panel.tell("")
    assert panel.words.value == "", "no empty status for screen readers to announce"


def test_the_panel_holds_them_in_order_of_use(panel):
    assert panel.panel.children == (panel.run_button, panel.stop_button, panel.words)
