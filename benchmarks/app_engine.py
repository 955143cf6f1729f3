"""What drawing costs in the app: its engine draws all bundled models, dense and compressed.

    python -m benchmarks.app_engine [--device auto] [--models NAME ...] [--out FOLDER] [--dry-run]

Needs no Gradio. Full precision, two bits and one bit draw the same pictures in turns, a step each,
as on the page; 1, 4 and 8 images, 20 steps, guidance 1.5. Speeds of versions come from the median
time of a step, their ratio to full precision from the same run. What a visitor waits for (first
preview, all of it) is measured with full precision and one bit, once models are loaded; the cold
start in processes of its own, from their beginning to the first preview. About three minutes on two
quiet cores, one on a GPU.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.record import RESULTS, ROOT, append, make_record

if importlib.util.find_spec("dpqlab_app") is None:  # a clone that is not installed
    sys.path.insert(0, str(ROOT / "apps"))

if TYPE_CHECKING:
    from dpqlab_app.drawing.catalogue import Catalogue, Model
    from dpqlab_app.drawing.engine import Engine, Frame
    from dpqlab_app.drawing.settings import DrawSettings

SUITE = "app"
STEPS = 20
BATCHES = (1, 4, 8)
SHOWN = 4
"""Images that a visitor gets who asks for nothing; the goals are for them."""
VERSIONS = {"2 bits": ("best-2bit", "vq-2bit"), "1 bit": ("best-1bit", "vq-1bit")}
FIRST_PREVIEW = 3.0
TOTAL = {"fashion-dit": 10.0, "avatars-dit": 60.0}
"""Seconds on two cores, at most."""

Record = dict[str, Any]


def records(
    catalogue: Catalogue, models: Sequence[str], device: str, rounds: int
) -> Iterator[Record]:
    """Measure, model by model."""
    from dpqlab_app.drawing.engine import Engine

    engine = Engine(catalogue, device=device)
    say(engine.device_line)
    where = "cuda" if engine.device.type == "cuda" else "cpu"
    for name in models or [model.key for model in catalogue.models]:
        model = catalogue.model(name)
        for images in BATCHES:
            yield from version_records(engine, model, images, rounds, where)
        yield from wait_records(engine, model, rounds, where)


def version_records(
    engine: Engine, model: Model, images: int, rounds: int, where: str
) -> Iterator[Record]:
    """Measure full precision and versions beside each other."""
    settings = settings_of(model, chosen(model, VERSIONS), images)
    frames = [last(engine, settings) for _ in range(rounds + 1)][1:]  # the first one warms up
    dense = frames[0].versions[0]
    for place, version in enumerate(frames[0].versions):
        steps = [frame.versions[place].ms_per_step for frame in frames]
        ratios = [f.versions[0].ms_per_step / f.versions[place].ms_per_step for f in frames]
        ms, ratio = statistics.median(steps), statistics.median(ratios)
        facts = version.facts
        details = {
            "model": model.key,
            "version": version.key,
            "images": images,
            "steps": STEPS,
            "guidance": settings.guidance,
            "backend": facts.backend,
            "dtype": facts.dtype,
            "true_bits": facts.true_bits,
            "disk_bytes": facts.disk_bytes,
            "weight_bytes": facts.weight_bytes,
            "modulation_bytes": facts.modulation_bytes,
            "ms_per_step": [round(step, 4) for step in steps],
        }
        row = f"{model.key} {version.key} x{images}"
        rate = images / (STEPS * ms / 1e3)
        less = facts.weight_bytes / dense.facts.weight_bytes
        say(
            f"{row:32} {rate:9.2f} images/s {ms:9.3f} ms/step {ratio:6.2f}x dense   "
            f"{facts.weight_bytes / 1e6:7.2f} MB ({less:.3f}x)   {facts.backend}"
        )
        common: dict[str, Any] = {"details": details, "device": where}
        yield record(row, "images_per_second", rate, "images/s", True, **common)
        yield record(row, "ms_per_step", ms, "ms", False, **common)
        megabytes = facts.weight_bytes / 1e6
        yield record(row, "weight_memory", megabytes, "MB", False, **common)
        if place:
            rival = f"{model.key} in full precision, {dense.facts.dtype}, same run"
            yield record(row, "speed_vs_dense", ratio, "x", True, rival=rival, **common)
            yield record(row, "memory_vs_dense", less, "x", False, rival=rival, **common)


def wait_records(engine: Engine, model: Model, rounds: int, where: str) -> Iterator[Record]:
    """Measure what a visitor waits for who presses the button."""
    settings = settings_of(model, chosen(model, {"1 bit": VERSIONS["1 bit"]}), SHOWN)
    first, total = [], []
    for _ in range(rounds):
        seconds = [frame.seconds for frame in engine.draw(settings)]
        first.append(seconds[0])
        total.append(seconds[-1])
    cold = [cold_start(settings, engine) for _ in range(rounds)]
    row = f"{model.key} full + {'+'.join(settings.versions)} x{SHOWN}"
    for metric, values, goal in (
        ("first_preview", first, FIRST_PREVIEW),
        ("total", total, TOTAL.get(model.key)),
        ("cold_start_to_first_preview", cold, None),
    ):
        value = statistics.median(values)
        goal = goal if where == "cpu" else None  # they were set for two cores
        say(f"{row:32} {metric}: {value:.2f} s" + (f" (goal {goal:g} s)" if goal else ""))
        details = {
            "model": model.key,
            "versions": list(settings.versions),
            "images": SHOWN,
            "steps": STEPS,
            "seconds": [round(value, 3) for value in values],
            "kernels": engine.device_line,
        }
        yield record(
            row, f"{metric}_seconds", value, "s", False, goal=goal, details=details, device=where
        )


def cold_start(settings: DrawSettings, engine: Engine) -> float:
    """Return the seconds from the start of a process to its first preview."""
    command = [sys.executable, "-m", "benchmarks.app_engine", "--cold", settings.to_query()]
    started = time.time()
    done = subprocess.run(
        [*command, "--device", str(engine.device)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    return json.loads(done.stdout.splitlines()[-1])["there"] - started


def show_first(query: str, device: str) -> None:
    """Draw up to the first preview, then say when that was."""
    from urllib.parse import parse_qsl

    from dpqlab_app.drawing.catalogue import catalogue_of
    from dpqlab_app.drawing.engine import Engine
    from dpqlab_app.drawing.settings import DrawSettings

    catalogue = catalogue_of()
    settings = DrawSettings.from_query(dict(parse_qsl(query)), catalogue)
    next(Engine(catalogue, device=device).draw(settings))
    print(json.dumps({"there": time.time()}), flush=True)


def chosen(model: Model, wanted: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Return the version for each number of bits: the best that the model has."""
    known = {version.key for version in model.versions}
    found = (next((key for key in keys if key in known), None) for keys in wanted.values())
    return tuple(key for key in found if key)


def settings_of(model: Model, versions: tuple[str, ...], images: int) -> DrawSettings:
    """Return what is drawn: classes in their order."""
    from dpqlab_app.drawing.settings import DrawSettings, cycled

    labels = cycled(range(len(model.classes)), images)
    return DrawSettings(model=model.key, versions=versions, labels=labels, steps=STEPS)


def last(engine: Engine, settings: DrawSettings) -> Frame:
    """Draw to the end."""
    *_, frame = engine.draw(settings, budget_s=3600)
    return frame


def record(row: str, metric: str, value: float, unit: str, more: bool, **rest: Any) -> Record:
    """Return a record of this suite; ``more`` is better, or less."""
    return make_record(SUITE, row, metric, value, unit, higher_is_better=more, **rest)


def say(text: str) -> None:
    """Print at once."""
    print(text, flush=True)


def main() -> None:
    """Measure, print and append."""
    from dpqlab_app.drawing.catalogue import catalogue_of

    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--device", default="auto", help="cpu, cuda, auto (default)")
    parser.add_argument("--models", nargs="*", default=[], help="of these only (default: all)")
    parser.add_argument("--rounds", type=int, default=3, help="draws of each kind (3)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the records")
    parser.add_argument("--dry-run", action="store_true", help="append nothing")
    parser.add_argument("--cold", metavar="QUERY", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.cold:
        show_first(args.cold, args.device)
        return
    for made in records(catalogue_of(), args.models, args.device, args.rounds):
        if not args.dry_run:
            append(made, args.out)


if __name__ == "__main__":
    main()
