"""Long work beside the kernel: a generator in a thread, that can be stopped and is watched."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterable
from typing import Generic, Literal, TypeVar

from dpqlab.errors import ConfigError, DPQError

Record = TypeVar("Record")
Status = Literal["new", "running", "done", "stopped", "failed"]
JOIN = 0.05  # s between two looks at a thread that is waited for


class Job(Generic[Record]):
    """Runs a generator of records in a daemon thread, and hands the records on in good time.

    What the work yields is delivered in order, all that is new at once, at most ``rate`` times a
    second, by one other thread: a slow page never slows the work. Stop is looked at between two
    records. An exception, of the work or of a callback, ends the job; its text is in ``error``.

    Parameters
    ----------
    steps
        Called without arguments for every run; returns the generator.
    on_records
        Called with the list of new records; the last is the newest.
    on_end
        Called once when a run is over and all records are delivered; ``status`` tells how it ended.
    rate
        Most deliveries a second.

    Examples
    --------
    >>> seen = []
    >>> job = Job(lambda: iter(range(3)), on_records=seen.extend)
    >>> job.start()
    True
    >>> job.wait(5), job.status, seen
    (True, 'done', [0, 1, 2])
    """

    def __init__(
        self,
        steps: Callable[[], Iterable[Record]],
        *,
        on_records: Callable[[list[Record]], None] | None = None,
        on_end: Callable[[Job[Record]], None] | None = None,
        rate: float = 5.0,
    ) -> None:
        if rate <= 0:
            raise ConfigError(f"rate must be positive, in deliveries a second: got {rate}")
        self._steps = steps
        self._on_records = on_records or (lambda _records: None)
        self._on_end = on_end or (lambda _job: None)
        self._pause = 1 / rate
        self._lock = threading.Lock()
        self._fresh = threading.Condition()
        self._pending: list[Record] = []
        self._finished = True
        self._stop = threading.Event()
        self._threads: tuple[threading.Thread, ...] = ()
        self._started = self._ended = 0.0
        self.status: Status = "new"
        self.error = ""

    @property
    def running(self) -> bool:
        """Whether a run has begun, and its end has not been told yet."""
        return any(thread.is_alive() for thread in self._threads)

    @property
    def stopping(self) -> bool:
        """Whether Stop was asked for and the work has not ended yet."""
        return self.running and self._stop.is_set()

    @property
    def seconds(self) -> float:
        """How long the run takes so far, or took."""
        if not self._started:
            return 0.0
        return (self._ended if self._finished else time.monotonic()) - self._started

    def start(self) -> bool:
        """Begin a run; False, and nothing happens, while one is going on."""
        with self._lock:
            if self.running:
                return False
            self.status, self.error, self._pending = "running", "", []
            self._finished = False
            self._stop.clear()
            self._started = time.monotonic()
            self._threads = tuple(
                threading.Thread(target=target, name=f"dpqlab {target.__name__}", daemon=True)
                for target in (self._work, self._deliver)
            )
            for thread in self._threads:
                thread.start()
        return True

    def stop(self) -> None:
        """Ask the work to end after the record that it is making; what it yielded is delivered."""
        self._stop.set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the run is over and told; False if that takes longer than ``timeout`` s."""
        until = None if timeout is None else time.monotonic() + timeout
        while self.running:
            if until is not None and time.monotonic() >= until:
                return False
            for thread in self._threads:
                thread.join(JOIN)
        return True

    def _work(self) -> None:
        """Run the generator, in its own thread."""
        status: Status = "done"
        try:
            steps = self._steps()
            for record in steps:
                with self._fresh:
                    self._pending.append(record)
                    self._fresh.notify()
                if self._stop.is_set():
                    status = "stopped"
                    break
            if isinstance(steps, Generator):
                steps.close()
        except Exception as error:
            status = self._failed(error)
        with self._fresh:
            self._ended = time.monotonic()
            self.status = "failed" if self.error else status
            self._finished = True
            self._fresh.notify()

    def _deliver(self) -> None:
        """Hand on what is new, in its own thread, until the work is over."""
        last = float("-inf")
        while True:
            with self._fresh:
                while not (self._pending or self._finished):
                    self._fresh.wait()
                early = last + self._pause - time.monotonic()
                if early > 0 and not self._finished:
                    self._fresh.wait(early)
                    continue
                batch, self._pending = self._pending, []
                over = self._finished
            last = time.monotonic()
            try:
                if batch:
                    self._on_records(batch)
            except Exception as error:
                self.status = self._failed(error)
                self.stop()
            if over:
                break
        try:
            self._on_end(self)
        except Exception as error:
            self.status = self._failed(error)

    def _failed(self, error: Exception) -> Status:
        """Keep what went wrong: the first trouble counts."""
        text = str(error) if isinstance(error, DPQError) else f"{type(error).__name__}: {error}"
        self.error = self.error or text
        return "failed"


def time_left(done: int, total: int, seconds: float) -> str:
    """Say how long work will still take, from what it took so far.

    Examples
    --------
    >>> time_left(10, 40, 20.0)
    'about 60 s left'
    >>> time_left(1, 400, 2.0)
    'about 13 min left'
    """
    if done < 1 or done >= total:
        return "" if done else "no estimate yet"
    left = seconds / done * (total - done)
    return f"about {left:.0f} s left" if left < 120 else f"about {left / 60:.0f} min left"
