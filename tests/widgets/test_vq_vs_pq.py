from __future__ import annotations

import base64
import json

import numpy as np
import plotly.graph_objects as go
import pytest

from dpqlab.errors import ConfigError
from dpqlab.viz.codec_steps import STEPS
from dpqlab.widgets import VQAgainstPQ
from tests.bounded import bounded


@pytest.fixture
def view():
    made = VQAgainstPQ()
    yield made
    made.close()


def control(view, description):
    found = [w for w in view.widget.children[0].children if w.description == description]
    assert len(found) == 1
    return found[0]


def test_it_opens_on_a_real_layer_as_pq(view):
    assert view.widget
    coding = view.coding
    assert (coding.block, coding.kind, coding.weight.shape) == (3, "attn1.to_q", (384, 384))
    assert coding.codec.describe() == "PQ d=4 k=16"
    assert coding.true_bits == pytest.approx(1 + 16 * 4 * 16 * 96 / 384**2 + 16 / 384)
    assert f"{coding.true_bits:.3f} true bits" in view.sentence()
    assert view.plot.label == view.sentence()
    assert view.status.value == ""


def test_the_dial_turns_pq_into_vq(view):
    dial = control(view, "Shared by")
    bits, errors = [], []
    for _, stop in dial.options:
        dial.value = stop
        bits.append(view.coding.true_bits)
        errors.append(view.coding.relative_error)
    assert bits == sorted(bits, reverse=True), "fewer codebooks, fewer bits"
    assert errors == sorted(errors), "and more error at the same k"
    assert view.coding.codec.describe() == "VQ d=4 k=16"
    assert "one codebook of 16 codewords" in view.sentence()
    control(view, "Share across blocks").value = True
    assert view.coding.sharers == 8
    assert "shared by 8 blocks" in view.sentence()


def test_stepping_goes_through_all_steps_and_on_to_the_next_sub_vector(view):
    forth, back = control(view, "Step ▶"), control(view, "◀ Back")
    seen = []
    for _ in range(5):
        seen.append((view.state.step, view.place[1]))
        forth.click()
    assert seen == [("split", 5), ("nearest", 5), ("code", 5), ("rebuild", 5), ("split", 6)]
    for _ in range(5):
        back.click()
    assert (view.state.step, view.place) == ("split", (20, 5))
    view.state.set({"column": 383, "step": "rebuild"})
    forth.click()
    assert (view.state.step, view.place[1]) == ("rebuild", 95)
    view.state.set({"column": 0, "step": "split"})
    back.click()
    assert (view.state.step, view.place[1]) == ("split", 0)


def test_a_click_in_any_picture_walks_that_sub_vector(view):
    assert view.widget
    view.state.set({"row": 100, "column": 200})
    rows, columns = view.window
    view.pictures["error"].click = {"row": 3, "column": 9, "at": 1}
    assert view.place == (rows.start + 3, (columns.start + 9) // 4)
    assert view.pictures["original"].outline == [[3, 8, 1, 4]]


def test_pictures_have_one_scale_and_one_group(view):
    assert view.widget
    pictures = list(view.pictures.values())
    assert len({(tuple(p.span), p.group, p.palette) for p in pictures}) == 1
    assert [p.shape for p in pictures] == [[96, 96, 1]] * 3
    assert {tuple(p.cell) for p in pictures} == {(1, 4)}
    view.state.whole = True
    assert [p.shape for p in pictures] == [[384, 384, 1]] * 3
    steps = [np.frombuffer(p.pixels, np.uint8).astype(float) for p in pictures]
    low, high = pictures[0].span
    original, rebuilt, error = (low + s * (high - low) / 255 for s in steps)
    inside = np.abs(rebuilt - original) < 0.9 * high
    assert np.abs(rebuilt - original - error)[inside].mean() < (high - low) / 100


def test_another_d_keeps_the_place_and_a_smaller_layer_the_walk(view):
    view.state.set({"column": 382, "row": 2000, "kind": "norm1.linear"})
    assert view.place == (2000, 95)
    view.state.d = 16
    assert view.place == (2000, 23)
    view.state.kind = "attn1.to_q"
    assert view.place == (383, 23)
    assert view.widget


def test_a_move_takes_little_time_and_the_second_none(view):
    assert view.widget
    view.state.k = 32
    with bounded(2):  # 0.1 s on an idle core
        view.state.k = 64
    kept = view.coding
    view.state.k = 16
    view.state.k = 64
    assert view.coding is kept


def test_the_star_moves_and_leaves_a_ring(view):
    assert view.widget
    before = len(view.contest.spec["data"])
    view.state.share = "layer"
    marks = view.contest.spec["data"][before - 1 :]
    assert [mark["marker"]["symbol"] for mark in marks] == ["circle-open", "star"]
    same = view.contest.spec
    view.walk(1)
    assert view.contest.spec is same, "a step of the walk changes no bits"


def plain(value):
    """A part of a figure's JSON with its arrays as lists."""
    if isinstance(value, dict) and "bdata" in value:
        return np.frombuffer(base64.b64decode(value["bdata"]), value["dtype"]).tolist()
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    return [plain(one) for one in value] if isinstance(value, list) else value


@pytest.mark.parametrize("step", STEPS)
def test_what_is_drawn_is_the_figure(view, step):
    assert view.widget
    view.state.set({"step": step, "share": "4", "row_scale": True, "column": 380})
    figure = json.loads(view.figure().to_json())
    drawn, made = (json.dumps(plain(spec), sort_keys=True) for spec in (view.plot.spec, figure))
    assert drawn == made  # as text: NaN, which ends a line, equals nothing


def test_the_code_makes_what_is_on_screen(view):
    view.state.set({"k": 8, "share": "4", "row": 5, "column": 77, "step": "rebuild"})
    scope: dict[str, object] = {}
    exec(view.code(), scope)
    assert isinstance(scope["figure"], go.Figure)
    assert scope["figure"] == view.figure()


def test_the_data_are_the_row(view):
    data = view.data()
    assert {len(column) for column in data.values()} == {384}
    assert data["weight"] == view.coding.weight[20].tolist()
    assert data["true_bits"][0] == pytest.approx(
        sum(data[f"{part}_bits"][0] for part in ("codes", "pool", "bias")) / 384**2
    )


def test_the_state_comes_back_and_nonsense_is_refused(view):
    view.state.set({"kind": "ff.net.2", "share": "8", "d": 8, "row_scale": True})
    text = view.state.to_json()
    view.state.reset()
    assert view.state.share == "position"
    view.state.from_json(text)
    assert view.state.codec.describe() == "PQ/8 d=8 k=16 +scale"
    for bad in ({"kind": "x"}, {"block": 8}, {"share": "3"}, {"d": 5}, {"k": 7}, {"row": -1}):
        with pytest.raises(ConfigError):
            view.state.set(bad)
    assert view.state.to_json() == text
