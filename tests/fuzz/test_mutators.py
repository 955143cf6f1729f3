"""Mutations change what they are named for, in every way they know, and can be made again."""

from __future__ import annotations

import json
import random
from collections import Counter
from contextlib import suppress

import pytest
from safetensors.torch import load

from benchmarks.fuzzing.container import header_of, joined, parts_of
from benchmarks.fuzzing.mutators import IN_VAIN, MUTATORS, TENSOR_CHANGES, mutated
from benchmarks.fuzzing.seeds import Files, sealed
from dpqlab.checkpoint.layout import MANIFEST, SINGLE_SHARD


@pytest.mark.parametrize("name", MUTATORS)
@pytest.mark.parametrize("seed", ["alone", "shared", "sharded"])
def test_a_change_changes_something(name: str, seed: str, seeds: dict[str, Files]) -> None:
    good, source = seeds[seed], random.Random(0)
    changed, tries = 0, 60
    for _ in range(tries):
        files = dict(good)
        with suppress(*IN_VAIN):
            MUTATORS[name](files, source.choice)
        changed += files != good
        assert sealed(good) == good[MANIFEST]  # the good ones are as they were
    assert changed > 0.6 * tries


@pytest.mark.parametrize("name", TENSOR_CHANGES)
def test_containers_stay_well_formed(name: str, seeds: dict[str, Files]) -> None:
    parts, source = parts_of(seeds["alone"][SINGLE_SHARD]), random.Random(0)
    for index, part in enumerate(parts):
        made = TENSOR_CHANGES[name](part, source.choice)
        data = joined([*parts[:index], *made, *parts[index + 1 :]])
        header, start = header_of(data)
        header.pop("__metadata__")
        spans = sorted(entry["data_offsets"] for entry in header.values())
        assert spans[-1][1] == len(data) - start
        assert made != [part] or name in ("transpose", "flatten", "retype", "rename", "resize")


def test_what_is_joined_is_read_by_the_reference(seeds: dict[str, Files]) -> None:
    shard = seeds["alone"][SINGLE_SHARD]
    before, after = load(shard), load(joined(parts_of(shard)))
    assert before.keys() == after.keys()
    assert all(before[name].equal(after[name]) for name in before)


def test_inputs_follow_from_what_is_chosen(seeds: dict[str, Files]) -> None:
    good = seeds["shared"]
    first, again = (mutated(good, random.Random("0:7").choice) for _ in range(2))
    assert first == again
    assert first.files != good


def test_most_hashes_fit(seeds: dict[str, Files]) -> None:
    source, fits = random.Random(0), Counter[bool]()
    for _ in range(300):
        made = mutated(seeds["alone"], source.choice)
        fits[made.files.get(MANIFEST) == sealed(made.files)] += 1
        assert ("sealed" in made.changes) <= (made.files[MANIFEST] == sealed(made.files))
    assert fits[True] > 0.75 * fits.total()
    assert fits[False] > 10


def test_changes_after_changes_do_not_end_the_run(seeds: dict[str, Files]) -> None:
    """What an earlier change left may be no JSON; the change is then in vain, and says so."""
    source = random.Random(0)
    names = Counter(n for _ in range(600) for n in mutated(seeds["alone"], source.choice).changes)
    assert 0 < sum(times for name, times in names.items() if "in vain" in name) < 60
    assert json.loads(seeds["alone"][MANIFEST])["version"] == 1
