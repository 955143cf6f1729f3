"""Codewords removed from the pool of a tiny model."""

from __future__ import annotations

import pytest
import torch

from dpqlab.errors import ConfigError
from dpqlab.studies.codewords import MEASURES, weighted_error
from dpqlab.studies.removals import least, race_steps, remove_steps, without


def test_a_single_removal_costs_what_it_is_said_to_cost(study):
    """The exact measure, against removing each of some codewords in turn."""
    for entry in (0, 9, 17, 63):
        gone = torch.zeros(len(study.scope), dtype=torch.bool)
        gone[entry] = True
        after = without(study, gone)
        rise = weighted_error(after) - weighted_error(study)
        cost = float(study.worth["removal"][entry]) / study.energy
        assert rise == pytest.approx(cost, rel=1e-4, abs=1e-9)


def test_every_scope_keeps_its_best(study):
    gone = least(study, "usage", 128 - 16)
    kept = study.scope[~gone]
    assert kept.tolist() == list(range(16))
    for scope in range(16):
        mine = (study.scope == scope).nonzero()[:, 0]
        best = float(study.worth["usage"][mine].max())
        assert float(study.worth["usage"][mine][~gone[mine]]) == best
    with pytest.raises(ConfigError, match="expected 0 to 112"):
        least(study, "usage", 113)


def test_a_race_has_every_measure_and_only_adds_error(study):
    records = list(race_steps(study, shares=(0.1, 0.5)))
    assert len(records) == 2 * 2 * len(MEASURES)
    for record in records:
        assert record.removed == round(record.share * 128)
        assert record.felt > 0
        assert (record.predicted is None) == (record.manner == "in rounds")
    by = {(r.manner, r.measure, r.removed): r for r in records}
    single = by["at once", "removal", 13]
    assert single.predicted is not None
    # the cheapest by its own measure, and never more than what is truly felt
    assert single.predicted <= by["at once", "usage", 13].predicted
    assert single.predicted <= single.felt * (1 + 1e-6)
    again = by["in rounds", "removal", 64]
    assert again.felt < by["at once", "removal", 64].felt


def test_rounds_end_where_they_should(study):
    sizes = [len(after.scope) for after in remove_steps(study, "weighted", "in rounds", 40)]
    assert sizes[-1] == 88
    assert sizes == sorted(sizes, reverse=True)
    assert max(a - b for a, b in zip([128, *sizes], sizes, strict=False)) <= 12
