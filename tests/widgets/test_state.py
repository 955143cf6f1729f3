"""The knobs of a view."""

from __future__ import annotations

import json

import pytest
import traitlets

from dpqlab.errors import ConfigError
from dpqlab.widgets import State


class Knobs(State):
    k = traitlets.Int(32, min=2, max=1024).tag(sync_state=True)
    scope = traitlets.Enum(["position", "layer"], "position").tag(sync_state=True)
    pinned = traitlets.List(traitlets.Int()).tag(sync_state=True)
    result = traitlets.Any()  # no knob

    @traitlets.validate("k")
    def _even(self, proposal):
        if proposal["value"] % 2:
            raise traitlets.TraitError("k must be even")
        return proposal["value"]


def test_knobs_survive_a_round_trip():
    state = Knobs(k=64, scope="layer", pinned=[1, 2])
    other = Knobs()
    other.from_json(state.to_json())
    assert other.knobs() == {"k": 64, "pinned": [1, 2], "scope": "layer"}
    assert "result" not in json.loads(state.to_json())["knobs"]


def test_files_hold_the_same(tmp_path):
    Knobs(k=4).save(tmp_path / "state.json")
    state = Knobs()
    state.load(tmp_path / "state.json")
    assert state.k == 4
    with pytest.raises(ConfigError, match="cannot read"):
        state.load(tmp_path / "nowhere.json")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "JSON"),
        ("[1]", "expected the keys"),
        ('{"state": "Other", "knobs": {}}', "another view"),
        ('{"state": "Knobs", "knobs": {"k": 64, "result": 1}}', "no knob 'result'"),
        ('{"state": "Knobs", "knobs": {"scope": "layer", "k": "64"}}', "k"),
        ('{"state": "Knobs", "knobs": {"scope": "layer", "k": 1}}', "k"),
        ('{"state": "Knobs", "knobs": {"scope": "layer", "k": 33}}', "even"),
        ('{"state": "Knobs", "knobs": {"scope": "layer", "k": true}}', "yes-or-no"),
        ('{"state": "Knobs", "knobs": {"k": NaN}}', "NaN"),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(text, complaint):
    state = Knobs(k=64)
    with pytest.raises(ConfigError, match=complaint):
        state.from_json(text)
    assert state.knobs() == Knobs(k=64).knobs()


def test_reset_returns_to_the_beginning_and_tells_once():
    state = Knobs(k=64)
    heard = []
    state.observe(lambda change: heard.append((change["name"], state.k, state.scope)))
    state.set({"k": 8, "scope": "layer"})
    assert sorted(heard) == [("k", 8, "layer"), ("scope", 8, "layer")]
    state.reset()
    assert (state.k, state.scope) == (64, "position")


def test_an_unknown_or_impossible_knob_is_refused_at_the_start():
    with pytest.raises(ConfigError, match="no knob 'size'"):
        Knobs(size=3)
    with pytest.raises(ConfigError, match="Knobs"):
        Knobs(k=-1)
