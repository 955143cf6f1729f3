"""Trace the compressed models that ship with dpqlab, for the view of their errors.

    python -m recipes.trace_fashion --out dpqlab/assets/fashion-dit-runs [--students best-1bit ...]
    python -m recipes.trace_fashion --model avatars-dit --out dpqlab/assets/avatars-dit-runs

Each student draws the same images as its teacher from the same noise, and what every block gives is
compared at every step: see :mod:`dpqlab.tracing`. Writes ``trace-PRESET.npz``. Without
``--students`` it takes those bundled models whose presets are listed here. About four minutes a
student of ``fashion-dit`` on one CPU core.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from dpqlab.commands.terminal import Terminal
from dpqlab.diffusion import SampleRequest, bundled
from dpqlab.evaluation.bundled import DEFAULT_MODEL
from dpqlab.evaluation.datasets import MODELS, dataset_of
from dpqlab.tracing import TraceBuilder, TraceConfig, load_pair, trace_steps

FAMILIES = ("vq", "pq", "dpq", "best")
RATES = ("1bit", "2bit")
SHOWN = 8  # images whose pictures are kept
MOST_BYTES = {"fashion-dit": 300_000, "avatars-dit": 3_000_000}  # fifteen times as many pixels


def bundled_presets(teacher: str) -> list[str]:
    """Return the presets of the bundled students that are traced, in the order of the families."""
    there = {entry.name for entry in bundled()}
    wanted = [f"{family}-{rate}" for rate in RATES for family in FAMILIES]
    return [name for name in wanted if f"{teacher}-{name}" in there]


def write(out: Path, teacher: str, preset: str, request: SampleRequest, terminal: Terminal) -> Path:
    """Trace one student and write its file."""
    pair = load_pair(teacher, f"{teacher}-{preset}")
    builder = TraceBuilder(pair=pair, request=request)
    with terminal.progress(f"Tracing {preset}", len(request.labels) * request.steps) as meter:
        for step in trace_steps(pair, request, TraceConfig(shown=SHOWN)):
            builder.add(step)
            meter.advance(step.count, f"timestep {step.timestep}")
    out.mkdir(parents=True, exist_ok=True)
    file = out / f"trace-{preset}.npz"
    trace = builder.trace()
    trace.save(file)
    size = file.stat().st_size
    if size > MOST_BYTES[teacher]:
        file.unlink()
        raise RuntimeError(f"{preset}: {size} bytes, more than {MOST_BYTES[teacher]} may ship")
    seconds, last = trace.about.seconds, trace.by_step("accumulated")[-1]
    terminal.say(f"{file}: {size / 1e3:.0f} kB, {seconds:.0f} s; last step, mean error {last:.4f}")
    return file


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the recipe."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default=DEFAULT_MODEL, choices=MODELS)
    parser.add_argument("--out", type=Path, required=True, help="folder to write into")
    parser.add_argument("--students", nargs="+", metavar="PRESET", help="such as vq-1bit pq-1bit")
    parser.add_argument("--steps", type=int, default=20, help="sampling steps (20)")
    parser.add_argument("--images", type=int, default=40, help="images, class by class (40)")
    args = parser.parse_args(arguments)
    classes = len(dataset_of(args.model).classes)
    labels = tuple(i % classes for i in range(args.images))
    request = SampleRequest(labels=labels, steps=args.steps)
    for preset in args.students or bundled_presets(args.model):
        write(args.out, args.model, preset, request, Terminal())


if __name__ == "__main__":
    main()
