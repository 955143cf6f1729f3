"""The workbench: five live views for notebooks, and the parts they are made of.

A view maps knobs to the arguments of pure functions and shows what they return; it has no maths.
Everything is loaded on first use, so that a headless process pays for what it asks for only.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dpqlab.widgets.calibration import CalibrationView
    from dpqlab.widgets.error_map import ErrorMap
    from dpqlab.widgets.exercise import Exercise
    from dpqlab.widgets.importance import CodebookImportance
    from dpqlab.widgets.job import Job
    from dpqlab.widgets.pixels import Pixels
    from dpqlab.widgets.plot import Plot
    from dpqlab.widgets.predict import Prediction
    from dpqlab.widgets.pruning import PoolPruning
    from dpqlab.widgets.state import State
    from dpqlab.widgets.view import View
    from dpqlab.widgets.vq_vs_pq import VQAgainstPQ

_HOMES = {
    "CalibrationView": "calibration",
    "CodebookImportance": "importance",
    "ErrorMap": "error_map",
    "Exercise": "exercise",
    "Job": "job",
    "Pixels": "pixels",
    "Plot": "plot",
    "PoolPruning": "pruning",
    "Prediction": "predict",
    "State": "state",
    "VQAgainstPQ": "vq_vs_pq",
    "View": "view",
}

__all__ = [
    "CalibrationView",
    "CodebookImportance",
    "ErrorMap",
    "Exercise",
    "Job",
    "Pixels",
    "Plot",
    "PoolPruning",
    "Prediction",
    "State",
    "VQAgainstPQ",
    "View",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
