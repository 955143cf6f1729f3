"""From records of single steps to one trace."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np
import torch

from dpqlab import __version__
from dpqlab.diffusion.sampling import SampleRequest
from dpqlab.errors import ConfigError
from dpqlab.nn.accounting import ledger_of_model
from dpqlab.tracing.config import Pair, TraceConfig
from dpqlab.tracing.record import Provenance, Trace
from dpqlab.tracing.steps import TraceStep, trace_steps

_SUMMED = ("energy", "norm", "output_energy", "output_norm")  # over images, the last dimension
_LISTED = ("latent_energy", "latent_norm", "image_error")  # image by image


@dataclass(kw_only=True, eq=False)
class TraceBuilder:
    """Adds up the records of :func:`trace_steps`; holds sums, never activations.

    Parameters
    ----------
    pair, request
        What is traced.

    Examples
    --------
    ::

        builder = TraceBuilder(pair=pair, request=request)
        for step in trace_steps(pair, request):
            builder.add(step)
        trace = builder.trace()
    """

    pair: Pair
    request: SampleRequest
    _started: float = field(default_factory=time.monotonic)
    _open: list[TraceStep] = field(default_factory=list)
    _sums: dict[str, np.ndarray] = field(default_factory=dict)
    _rows: dict[str, list[np.ndarray]] = field(default_factory=dict)
    _pictures: list[np.ndarray] = field(default_factory=list)
    _last: list[TraceStep] = field(default_factory=list)

    @property
    def images(self) -> int:
        """Images whose batches are complete."""
        return sum(rows.shape[1] for rows in self._rows.get("image_error", []))

    def add(self, step: TraceStep) -> None:
        """Take the next record; a batch counts once its last step is in.

        Raises
        ------
        ConfigError
            If it does not follow the one before.
        """
        if (step.index, step.first) != (len(self._open), self.images):
            raise ConfigError(
                f"step {step.index} of the images from {step.first} on: expected step "
                f"{len(self._open)} of those from {self.images} on; records are added in order"
            )
        self._open.append(step)
        if len(self._open) == step.total:
            self._close()

    def _close(self) -> None:
        steps, self._open = self._open, []
        sums = {name: np.stack([getattr(s, name).sum(-1) for s in steps], -1) for name in _SUMMED}
        sums["counts"] = np.stack([s.counts for s in steps], -2)
        for name, value in sums.items():
            self._sums[name] = value + self._sums.get(name, 0)
        for name in _LISTED:
            self._rows.setdefault(name, []).append(np.stack([getattr(s, name) for s in steps]))
        pictures = [s.pictures for s in steps if s.pictures is not None]
        if pictures:
            self._pictures.append(np.stack(pictures, 1))
        # pictures belong to the first batch; nothing else is needed of it
        self._last = self._last or steps

    def trace(self) -> Trace:
        """Return the trace of the batches that are complete; a started one does not count.

        Raises
        ------
        ConfigError
            If none is.
        """
        if not self.images:
            raise ConfigError("no batch has been traced to its end: let it run a little longer")
        steps = self._last
        kept = tuple(step.index for step in steps if step.pictures is not None)
        pictures = np.concatenate(self._pictures, 2) if kept else np.zeros((2, 0, 0, 1, 0, 0))
        return Trace(
            about=self._about(),
            blocks=steps[0].blocks,
            branches=steps[0].branches,
            timesteps=tuple(step.timestep for step in steps),
            **self._sums,
            **{name: np.concatenate(rows, 1) for name, rows in self._rows.items()},
            picture_steps=kept,
            pictures=pictures.astype(np.uint8),
        )

    def _about(self) -> Provenance:
        pair, request = self.pair, self.request
        device = next(pair.teacher.parameters()).device
        gpu = device.type == "cuda"
        return Provenance(
            teacher=pair.teacher_name,
            student=pair.student_name,
            true_bits=float(ledger_of_model(pair.student).true_bits_per_weight),
            labels=tuple(int(label) for label in request.labels[: self.images]),
            seed=int(request.seed),
            first_index=int(request.first_index),
            steps=int(request.steps),
            guidance=float(request.guidance),
            sampler=pair.sampler_name,
            device=torch.cuda.get_device_name(device) if gpu else device.type,
            dpqlab=__version__,
            torch=torch.__version__,
            made=datetime.now(UTC).date().isoformat(),
            seconds=round(time.monotonic() - self._started, 1),
        )


def trace(pair: Pair, request: SampleRequest, config: TraceConfig | None = None) -> Trace:
    """Trace a student beside its teacher and return the whole record.

    Parameters
    ----------
    pair, request, config
        As in :func:`trace_steps`.
    """
    builder = TraceBuilder(pair=pair, request=request)
    for step in trace_steps(pair, request, config):
        builder.add(step)
    return builder.trace()
