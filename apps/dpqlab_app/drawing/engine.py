"""Draws what settings ask for, all versions step by step beside each other.

One engine serves all visitors. It computes one step at a time, whoever asks, and holds nothing
between two frames but models: a request that is dropped leaves nothing behind.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch

from dpqlab.errors import ConfigError
from dpqlab.kernels.devices import device_of
from dpqlab_app.drawing.catalogue import Catalogue, Model
from dpqlab_app.drawing.devices import device_line, in_words
from dpqlab_app.drawing.frames import (
    Frame,
    MemoryShortError,
    OverBudgetError,
    VersionFacts,
    VersionFrame,
)
from dpqlab_app.drawing.loaded import Loaded, Shelf
from dpqlab_app.drawing.settings import DrawSettings
from dpqlab_app.drawing.steps import Step, ran_out_of_memory, version_steps

if TYPE_CHECKING:
    from dpqlab.tracing import Pair

__all__ = [
    "Engine",
    "Frame",
    "MemoryShortError",
    "OverBudgetError",
    "VersionFacts",
    "VersionFrame",
]

BUDGET_GPU, BUDGET_CPU = 60.0, 180.0
"""Seconds that a request may take."""


class Engine:
    """Loads models when they are asked for, and draws.

    Parameters
    ----------
    catalogue
        What there is to draw with.
    device
        ``"auto"`` is a GPU where there is one. A GPU computes in bfloat16, a CPU in float32.
    budget_s
        Seconds that a request may take; None: 60 on a GPU, 180 on a CPU.
    clock
        Tells the seconds.

    Raises
    ------
    BackendError
        If the device is not there.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        *,
        device: str = "auto",
        budget_s: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.catalogue = catalogue
        self.device = device_of(device)
        on_gpu = self.device.type == "cuda"
        self.dtype = torch.bfloat16 if on_gpu else torch.float32
        usual = BUDGET_GPU if on_gpu else BUDGET_CPU
        self.budget_s = usual if budget_s is None else budget_s
        self.shelf = Shelf(self.device, self.dtype)
        self._clock = clock
        self._lock = threading.RLock()
        self._request: object = None  # the one that drew last
        self._pair: tuple[tuple[str, str], Pair] | None = None

    def draw(
        self, settings: DrawSettings, *, budget_s: float | None = None
    ) -> Generator[Frame, None, None]:
        """Draw, a frame for each sampling step that all versions have taken.

        The pictures are those of :func:`dpqlab.diffusion.sample_images` with the versions' runtimes
        (:meth:`DrawSettings.code` writes that down), bit for bit on a CPU.

        Parameters
        ----------
        settings
            What to draw.
        budget_s
            Seconds that it may take; None: the engine's.

        Yields
        ------
        Frame
            Closing the generator ends the work.

        Raises
        ------
        ConfigError
            At once, if the catalogue has no such model, version or class.
        OverBudgetError
            When the time is over.
        MemoryShortError
            If not even one image fits into memory.
        """
        settings.checked(self.catalogue)
        return self._frames(settings, self.budget_s if budget_s is None else budget_s)

    def prepare(self, settings: DrawSettings) -> None:
        """Load what a request needs and take one of its steps, so that no visitor waits for that.

        May be called in a thread while others draw.
        """
        with closing(self.draw(settings)) as frames:
            next(frames)

    def pair(self, settings: DrawSettings, version_key: str) -> Pair:
        """Return full precision and a version of the settings' model, to be traced, in float32.

        Parameters
        ----------
        settings
            Whose model.
        version_key
            Of a compressed version.

        Raises
        ------
        ConfigError
            If there is no such version.
        """
        from dpqlab.tracing import load_pair

        model = self.catalogue.model(settings.model)
        student = model.version(version_key)
        if student.kind == "full":
            raise ConfigError(f"{student.title} has no error to show: choose a compressed version")
        with self._at_work():
            key = (model.key, student.key)
            if self._pair is None or self._pair[0] != key:
                self._pair = None  # the old one is freed first
                paths = (model.full.path, student.path)
                self._pair = (
                    key,
                    self._with_room(lambda: load_pair(*paths, device=self.device)),
                )
            return self._pair[1]

    @property
    def device_line(self) -> str:
        """Say what computes here, in a line."""
        return device_line(self.device)

    def _frames(self, settings: DrawSettings, budget_s: float) -> Generator[Frame, None, None]:
        watch = _Watch(self._clock, budget_s)
        model, request = self.catalogue.model(settings.model), object()
        with self._at_work():
            loaded = self._load(model, settings)
        runs = [_Run(version_steps(version, settings)) for version in loaded]
        try:
            while True:
                for run in runs:
                    watch.check(len(runs[-1].seconds), settings)
                    with self._at_work():
                        self._request = request
                        run.advance()
                frame = self._frame(settings, loaded, runs, watch.seconds)
                yield frame
                if frame.done:
                    return
        finally:
            for run in runs:
                run.steps.close()
            with self._at_work():
                # only if nobody else's modulations have taken the place of these
                if self._request is request:
                    for version in loaded:
                        version.forget_request()

    def _load(self, model: Model, settings: DrawSettings) -> list[Loaded]:
        if self._pair is not None and self.shelf.most_models == 1:
            self._pair = None
        versions = (model.full, *(model.version(key) for key in settings.versions))
        return [self._with_room(lambda v=v: self.shelf.get(model, v)) for v in versions]

    def _with_room(self, load: Callable[[], Any]) -> Any:
        """Call ``load``; where memory runs out, again after everything else was let go of."""
        for attempt in range(2):
            try:
                return load()
            except (RuntimeError, MemoryError) as error:
                if not ran_out_of_memory(error):
                    raise
            if attempt == 0:
                self._pair = None
                self.shelf.clear()
        raise MemoryShortError(
            "There is not enough memory here to load this model: close other programs that use it, "
            "or choose fewer versions."
        )

    def _frame(
        self,
        settings: DrawSettings,
        loaded: Sequence[Loaded],
        runs: Sequence[_Run],
        seconds: float,
    ) -> Frame:
        last = [run.last for run in runs]
        medians = [run.median for run in runs]
        left = last[0].total - last[0].index - 1
        return Frame(
            settings=settings,
            index=last[0].index,
            total=last[0].total,
            versions=tuple(
                VersionFrame(
                    key=version.version.key,
                    title=version.version.title,
                    images=step.images,
                    ms_per_step=1e3 * median,
                    facts=self._facts(version, settings, step.batches),
                )
                for version, step, median in zip(loaded, last, medians, strict=True)
            ),
            seconds=seconds,
            remaining=left * sum(medians),
            notes=_notes(max(step.batches for step in last)),
        )

    def _facts(self, loaded: Loaded, settings: DrawSettings, batches: int) -> VersionFacts:
        held = loaded.runtime.weight_bytes
        images = -(-len(settings.labels) // batches) * (1 if settings.guidance == 1 else 2)
        bits = loaded.version.true_bits
        on_gpu = self.device.type == "cuda"
        return VersionFacts(
            true_bits=float("nan") if bits is None else bits,
            disk_bytes=loaded.version.disk_bytes,
            weight_bytes=held.total - held.modulation - held.graphs,
            modulation_bytes=held.modulation,
            backend=loaded.backend(images),
            device=torch.cuda.get_device_name(self.device) if on_gpu else "cpu",
            dtype=str(self.dtype).removeprefix("torch."),
        )

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        """Compute alone, on the engine's device."""
        on_gpu = self.device.type == "cuda"
        with self._lock, torch.cuda.device(self.device) if on_gpu else nullcontext():
            yield


class _Watch:
    """Seconds since a request began, and whether they are too many."""

    def __init__(self, clock: Callable[[], float], budget_s: float) -> None:
        self._clock, self._started, self.budget_s = clock, clock(), budget_s

    @property
    def seconds(self) -> float:
        return self._clock() - self._started

    def check(self, steps: int, settings: DrawSettings) -> None:
        """Raise :class:`OverBudgetError` when the time is over, after ``steps`` steps."""
        if self.seconds > self.budget_s:
            raise OverBudgetError(
                f"This took longer than the {self.budget_s:g} s that a drawing may take: "
                f"{steps} of {settings.steps} steps were done. Fewer steps, images or versions "
                "will fit."
            )


class _Run:
    """One version on its way: the step it took last, and how long each took."""

    def __init__(self, steps: Generator[Step, None, None]) -> None:
        self.steps, self.seconds = steps, list[float]()
        self._last: Step | None = None

    def advance(self) -> None:
        self._last = next(self.steps)
        self.seconds.append(self._last.seconds)

    @property
    def last(self) -> Step:
        assert self._last is not None
        return self._last

    @property
    def median(self) -> float:
        """Seconds of a step; the first one prepares things."""
        return statistics.median(self.seconds[1:] or self.seconds)


def _notes(batches: int) -> tuple[str, ...]:
    if batches == 1:
        return ()
    return (f"Memory was short: drawn in {in_words(batches)} parts.",)
