"""The knobs of :class:`dpqlab.widgets.CalibrationView`, and the controls that turn them."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import ipywidgets as widgets
import traitlets

from dpqlab.calibration.recording import (
    DEFAULT_MODEL,
    Recording,
    bundled_recordings,
    runs_of,
)
from dpqlab.widgets.layout import row
from dpqlab.widgets.state import State

LIVE = "live"
PRESETS = ("vq-2bit", "pq-2bit")
"""What a live run may start from: presets of two bits that are compressed in seconds."""
PLAY = 500  # ms a moment


@lru_cache(maxsize=4)
def recorded(model: str = DEFAULT_MODEL) -> dict[str, Recording]:
    """Return the recorded runs of a model's students by name, read once a kernel."""
    return {recording.name: recording for recording in bundled_recordings(runs_of(model))}


class CalibrationState(State):
    """Knobs of :class:`CalibrationView`.

    Attributes
    ----------
    run
        The name of a recorded run, or ``"live"`` for the one of this machine.
    moment
        Place of the cursor: index of the record; beyond the last one it stands at the last.
    compare
        Whether all runs are shown together instead of one.
    preset, steps, move_codes
        Of the next live run: see :class:`dpqlab.studies.live_calibration.LiveConfig`.
    model
        No knob: whose students they are.
    """

    model = traitlets.Unicode(DEFAULT_MODEL)
    run = traitlets.Unicode().tag(sync_state=True)
    moment = traitlets.Int(0, min=0).tag(sync_state=True)
    compare = traitlets.Bool(False).tag(sync_state=True)
    preset = traitlets.Enum(PRESETS, PRESETS[0]).tag(sync_state=True)
    steps = traitlets.Int(40, min=2, max=200).tag(sync_state=True)
    move_codes = traitlets.Bool(False).tag(sync_state=True)

    @traitlets.default("run")
    def _first_run(self) -> str:
        return next(iter(recorded(self.model)), LIVE)

    @traitlets.validate("run")
    def _known_run(self, proposal: Any) -> str:
        known = [*recorded(self.model), LIVE]
        if proposal["value"] not in known:
            raise traitlets.TraitError(
                f"no run {proposal['value']!r}: expected one of {', '.join(known)}"
            )
        return proposal["value"]


class CalibrationControls:
    """The controls of the view, not tied to a state yet.

    Parameters
    ----------
    recordings
        To choose from.

    Attributes
    ----------
    replay
        The row that moves through a run.
    settings
        The row of choices for the next live run.
    """

    def __init__(self, recordings: Iterable[Recording]) -> None:
        wide = widgets.Layout(width="300px")
        names = [(f"{r.name}: {r.true_bits:.2f} bits, recorded", r.name) for r in recordings]
        self.run = widgets.Dropdown(
            options=[*names, ("live: on this machine", LIVE)], description="Run", layout=wide
        )
        self.moment = widgets.IntSlider(description="Moment", layout=wide)
        self._play = widgets.Play(interval=PLAY, description="Play the run")
        # in the page alone: a play button that waits for the kernel stutters
        widgets.jslink((self._play, "value"), (self.moment, "value"))
        self.compare = widgets.Checkbox(description="Compare all runs", indent=False)
        self.preset = widgets.Dropdown(options=PRESETS, description="Compress", layout=wide)
        self.steps = widgets.IntSlider(
            min=2, max=200, description="Steps", continuous_update=False, layout=wide
        )
        self.move_codes = widgets.Checkbox(description="Codes move too", indent=False)
        self.replay = row(self.run, self._play, self.moment, self.compare)
        self.settings = row(self.preset, self.steps, self.move_codes)

    @property
    def by_knob(self) -> dict[str, widgets.Widget]:
        """The controls by the knob that each is tied to."""
        names = ("run", "moment", "compare", "preset", "steps", "move_codes")
        return {name: getattr(self, name) for name in names}

    def fit(self, last: int) -> None:
        """Let the cursor reach the last moment of a run."""
        self.moment.max = self._play.max = last
