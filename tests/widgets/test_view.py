"""What all views have in common, on a small one."""

from __future__ import annotations

import asyncio
import csv
import json

import ipywidgets as W
import plotly.graph_objects as go
import pytest
import traitlets

from dpqlab.errors import BackendError, ConfigError
from dpqlab.viz.theme import themed
from dpqlab.widgets import State, View, view


class PowerState(State):
    n = traitlets.Int(3, min=1).tag(sync_state=True)
    base = traitlets.Int(2).tag(sync_state=True)


class Powers(View):
    name = "powers"
    state: PowerState

    def __init__(self):
        super().__init__(PowerState())
        self.drawn = 0

    def controls(self):
        return [self.bind(W.IntSlider(description="count", min=1, max=9), "n")]

    def data(self):
        exponents = list(range(self.state.n))
        return {"exponent": exponents, "power": [self.state.base**e for e in exponents]}

    def figure(self):
        if self.state.n > 8:
            raise ConfigError("n is too large")
        self.drawn += 1
        data = self.data()
        figure = go.Figure(go.Bar(x=data["exponent"], y=data["power"]))
        return themed(figure, title="powers", x="exponent", y="power")

    def sentence(self):
        return f"{self.state.n} powers of {self.state.base}, all < 100"

    def code(self):
        return f"figure = {self.state.base}"


@pytest.fixture
def powers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = Powers()
    yield made
    made.close()


def press(made: View, text: str) -> None:
    for box in made.widget.children:
        for child in getattr(box, "children", ()):
            if getattr(child, "description", "") == text:
                child.click()


def test_nothing_is_drawn_before_it_is_wanted(powers):
    powers.state.n = 4
    assert powers.drawn == 0
    assert powers.widget is powers.widget
    assert powers.drawn == 1


def test_a_view_that_lacks_something_fails_when_made():
    class Mute(Powers):
        sentence = View.sentence

    with pytest.raises(TypeError, match=r"abstract method '?sentence"):
        Mute()


def test_a_control_moves_the_state_and_the_figure_follows(powers):
    slider = powers.widget.children[0].children[0]
    slider.value = 5
    assert powers.state.n == 5
    assert len(powers.plot.spec["data"][0]["y"]) == 5
    assert "5 powers of 2, all &lt; 100" in powers._words.value
    assert powers.plot.label == "5 powers of 2, all < 100"
    powers.state.n = 2
    assert slider.value == 2


def test_a_burst_of_changes_is_one_drawing(powers):
    async def burst():
        _ = powers.widget
        before = powers.drawn
        for n in (4, 5, 6):
            powers.state.n = n
        powers.state.base = 3
        await asyncio.sleep(5 * view.BURST)
        return powers.drawn - before

    assert asyncio.run(burst()) == 1
    assert powers.plot.label == "6 powers of 3, all < 100"


def test_a_change_after_a_pause_does_not_wait(powers, monkeypatch):
    monkeypatch.setattr(view, "BURST", 0.5)

    async def change():
        _ = powers.widget
        powers._drawn_at -= 100  # s
        powers.state.set({"n": 4, "base": 3})
        before = powers.drawn
        await asyncio.sleep(0.05)
        return powers.drawn - before

    assert asyncio.run(change()) == 1
    assert powers.plot.label == "4 powers of 3, all < 100"


def test_an_error_is_shown_and_goes_with_the_next_drawing(powers):
    _ = powers.widget
    powers.state.n = 9
    assert "n is too large" in powers.status.value
    powers.state.n = 3
    assert powers.status.value == ""


def test_a_bug_is_shown_and_rises(powers, monkeypatch):
    _ = powers.widget
    monkeypatch.setattr(powers, "sentence", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        powers.redraw()
    assert "This is a bug: ZeroDivisionError" in powers.status.value


def test_the_code_is_shown_follows_and_goes(powers):
    press(powers, "Show code")
    assert "figure = 2" in powers._code.value
    powers.state.base = 7
    assert "figure = 7" in powers._code.value
    press(powers, "Show code")
    assert powers._code.value == ""


def test_data_is_saved_and_no_file_is_overwritten(powers, tmp_path):
    press(powers, "Save data")
    press(powers, "Save data")
    assert "powers-2.csv" in powers.status.value
    rows = list(csv.reader((tmp_path / "powers.csv").open()))
    assert rows == [["exponent", "power"], ["0", "1"], ["1", "2"], ["2", "4"]]


def test_reset(powers):
    powers.state.n = 7
    press(powers, "Reset")
    assert powers.state.n == 3


def test_export_by_ending(powers, tmp_path):
    powers.export(tmp_path / "p.json")
    assert json.loads((tmp_path / "p.json").read_text())["knobs"] == {"base": 2, "n": 3}
    powers.export(tmp_path / "p.html")
    page = (tmp_path / "p.html").read_text(encoding="utf-8")
    assert "all &lt; 100" in page
    assert "<script src=" not in page  # no network
    with pytest.raises(ConfigError, match=r"expected \.csv"):
        powers.export(tmp_path / "p.gif")


def test_a_picture_that_cannot_be_made_says_what_it_takes(powers, tmp_path, monkeypatch):
    def broken(self, *_args, **_kwargs):
        raise ValueError("kaleido is missing\nlong story")

    monkeypatch.setattr(go.Figure, "write_image", broken)
    with pytest.raises(BackendError, match=r"kaleido is missing.*export to \.html"):
        powers.export(tmp_path / "p.png")
    press(powers, "Save picture")
    assert "kaleido" in powers.status.value
