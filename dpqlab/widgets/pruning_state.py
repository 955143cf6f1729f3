"""The knobs of :class:`dpqlab.widgets.PoolPruning`."""

from __future__ import annotations

from typing import Any

import traitlets

from dpqlab.studies.pruning_runs import ERRORS
from dpqlab.widgets.state import State


class PruningState(State):
    """Knobs of :class:`PoolPruning`.

    Attributes
    ----------
    run
        Name of the run that the slider moves along.
    point
        Its point, from 0 with all codewords; beyond the last it stands at the last.
    error
        What the figure shows; one of ``dpqlab.studies.pruning_runs.ERRORS``.
    a, b
        Pinned points: ``[]``, or ``[run, point]``.
    """

    run = traitlets.Unicode().tag(sync_state=True)
    point = traitlets.Int(0, min=0).tag(sync_state=True)
    error = traitlets.Enum(ERRORS, "noise_error").tag(sync_state=True)
    a = traitlets.List().tag(sync_state=True)
    b = traitlets.List().tag(sync_state=True)

    def __init__(self, sizes: dict[str, int], **knobs: Any) -> None:
        self._sizes = sizes
        super().__init__(**{"run": next(iter(sizes))} | knobs)

    @traitlets.validate("run")
    def _known_run(self, proposal: Any) -> str:
        if proposal["value"] not in self._sizes:
            raise traitlets.TraitError(
                f"no run {proposal['value']!r}: expected one of {', '.join(self._sizes)}"
            )
        return proposal["value"]

    @traitlets.validate("a", "b")
    def _known_place(self, proposal: Any) -> list[Any]:
        match proposal["value"]:
            case []:
                return []
            case [str(run), int(point)] if 0 <= point < self._sizes.get(run, 0):
                return [run, point]
            case other:
                raise traitlets.TraitError(f"no such point: got {other}, expected [run, point]")
