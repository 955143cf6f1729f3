"""The app with an engine that only waits and makes noise: what is measured then is the server.

    python -m benchmarks.app_stub [--step-ms 10] [--log FILE]

prints the address, and serves until its standard input ends. With a log each drawing leaves lines
``open``, ``step`` and ``close`` with the time, by which an observer knows when work stopped.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dpqlab.errors import DPQError

ARGUMENTS = ("model", "versions", "classes", "count", "seed", "steps", "guidance")


class StubEngine:
    """Has the methods of the app's engine; draws noise, another one each time.

    Parameters
    ----------
    catalogue
        What there is to draw with.
    step_s
        Seconds that a step takes; a drawing has as many as were asked for.
    log
        File to append events to; None for none.
    """

    def __init__(self, catalogue: Any, *, step_s: float = 0.01, log: Path | None = None) -> None:
        self.catalogue = catalogue
        self.step_s = step_s
        self.calls = 0
        self._log = log
        self._random = np.random.default_rng(0)

    @property
    def device_line(self) -> str:
        """What the page says about the machine."""
        return "A stub: it draws noise."

    def draw(self, settings: Any, *, budget_s: float | None = None) -> Generator[Any, None, None]:
        """Yield a frame a step."""
        settings.checked(self.catalogue)
        self.calls += 1
        number = self.calls
        self._note("open", number)
        try:
            for index in range(settings.steps):
                time.sleep(self.step_s)
                self._note("step", number)
                yield self._frame(settings, index)
        finally:
            self._note("close", number)

    def prepare(self, settings: Any) -> None:
        """Load nothing."""

    def pair(self, settings: Any, version_key: str) -> Any:
        """Refuse: there are no models."""
        raise DPQError("the stub has no models to compare")

    def _note(self, event: str, number: int) -> None:
        if self._log is not None:
            line = json.dumps({"event": event, "drawing": number, "time": time.time()})
            with self._log.open("a", encoding="utf-8") as file:
                file.write(line + "\n")

    def _frame(self, settings: Any, index: int) -> Any:
        from dpqlab_app.drawing.frames import Frame, VersionFrame

        model = self.catalogue.model(settings.model)
        chosen = [v for v in model.versions if v.key in settings.versions]
        shape = (len(settings.labels), model.side, model.side, model.channels)
        frames = tuple(
            VersionFrame(
                key=version.key,
                title=version.title,
                images=self._random.integers(0, 256, shape, dtype=np.uint8),
                ms_per_step=1000 * self.step_s,
                facts=_facts(version),
            )
            for version in (model.full, *chosen)
        )
        return Frame(
            settings=settings,
            index=index,
            total=settings.steps,
            versions=frames,
            seconds=(index + 1) * self.step_s,
            remaining=(settings.steps - index - 1) * self.step_s,
            notes=(),
        )


def _facts(version: Any) -> Any:
    from dpqlab_app.drawing.frames import VersionFacts

    return VersionFacts(
        true_bits=version.true_bits or 16.0,
        disk_bytes=version.disk_bytes,
        weight_bytes=version.disk_bytes,
        modulation_bytes=0,
        backend="stub",
        device="cpu",
        dtype="float32",
    )


def stub_page(*, page: str = "app", step_s: float = 0.01, log: Path | None = None) -> Any:
    """Return what builds a page over a stub, for ``server.running``.

    Parameters
    ----------
    page
        ``"app"``, the app's own, or ``"plain"``: a button, a gallery, and nothing else.
    """

    def build(config: Any) -> tuple[Any, Mapping[str, Any]]:
        from dpqlab_app.drawing.catalogue import catalogue_of

        catalogue = catalogue_of(config.folders)
        engine: Any = StubEngine(catalogue, step_s=step_s, log=log)
        if page == "plain":
            return plain_page(engine), {}
        from dpqlab_app.page import page as own

        return own.build(engine, catalogue), own.LAUNCH

    return build


def plain_page(engine: StubEngine) -> Any:
    """The smallest page with an endpoint like the app's: it shows what Gradio itself costs."""
    import gradio as gr

    from dpqlab_app.drawing.settings import DrawSettings
    from dpqlab_app.page.handlers import GPU

    def draw(*fields: Any) -> Iterator[Any]:
        for frame in engine.draw(DrawSettings.from_fields(*fields)):
            yield [
                np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image
                for version in frame.versions
                for image in version.images
            ]

    with gr.Blocks() as blocks:
        inputs = [gr.JSON(label=name, visible=False) for name in ARGUMENTS]
        gallery = gr.Gallery(label="pictures", format="png")
        button = gr.Button("Draw")
        button.click(
            draw, inputs, gallery, api_name="draw", concurrency_id=GPU, concurrency_limit=1
        )
    return blocks


def main() -> None:
    """Serve until standard input ends."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--page", choices=("app", "plain"), default="app")
    parser.add_argument("--step-ms", type=float, default=10.0, help="length of a step (10)")
    parser.add_argument("--log", type=Path, help="file for events")
    options = parser.parse_args()
    from dpqlab_app.serving.config import ServerConfig
    from dpqlab_app.serving.server import running

    build = stub_page(page=options.page, step_s=options.step_ms / 1000, log=options.log)
    with running(ServerConfig(port=0), build) as url:
        print(url, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
