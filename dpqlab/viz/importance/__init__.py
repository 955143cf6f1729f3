"""Codebook importance: the codewords of one scope, where one is used, and what removal does."""

from dpqlab.viz.importance.codeword_map import codeword_map
from dpqlab.viz.importance.codeword_use import codeword_use
from dpqlab.viz.importance.measures import MEASURE_NAMES
from dpqlab.viz.importance.removal import promise_and_damage, removal_race
from dpqlab.viz.importance.scope_view import ScopeView, scope_view

__all__ = [
    "MEASURE_NAMES",
    "ScopeView",
    "codeword_map",
    "codeword_use",
    "promise_and_damage",
    "removal_race",
    "scope_view",
]
