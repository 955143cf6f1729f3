"""How the measures of importance are called and drawn, in every figure alike."""

from __future__ import annotations

from typing import Any

from dpqlab.core import Measure
from dpqlab.viz.theme import BLUE, INK, ORANGE, VERMILION

MEASURE_NAMES: dict[Measure, str] = {
    "usage": "usage",
    "weighted": "weighted usage",
    "removal": "removal cost",
}
MEASURE_COLOURS: dict[Measure, str] = {"usage": BLUE, "weighted": ORANGE, "removal": VERMILION}
MEASURE_SYMBOLS: dict[Measure, str] = {
    "usage": "circle",
    "weighted": "square",
    "removal": "diamond",
}
UNITS: dict[Measure, str] = {
    "usage": "sub-vectors",
    "weighted": "sub-vectors x mean squared input",
    "removal": "rise of the weighted squared error",
}
LOG: dict[str, Any] = {
    "type": "log",
    "exponentformat": "power",
    "dtick": 1,
    "minor": {"ticks": "inside", "ticklen": 4, "tickcolor": INK, "dtick": "D1"},
}
