"""Record what the teacher draws from the seeds of the calibrations' strips.

    python -m recipes.record_teacher [--model avatars-dit] --out FOLDER

Writes ``teacher.npz`` in the format of a recorded calibration that has no course: one strip, to be
shown above those of the students. Takes some seconds on a CPU.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from dpqlab.calibration.recording import TEACHER, Recording
from dpqlab.diffusion import load_pipeline
from dpqlab.evaluation.bundled import DEFAULT_MODEL
from dpqlab.evaluation.datasets import MODELS
from recipes.calibrate_presets import strip


def main(argv: Sequence[str] | None = None) -> None:
    """Run the recipe."""
    parser = argparse.ArgumentParser(prog="recipes.record_teacher", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write into")
    parser.add_argument("--model", default=DEFAULT_MODEL, choices=MODELS)
    args = parser.parse_args(argv)
    out, drawn = args.out, strip(load_pipeline(args.model).transformer)
    out.mkdir(parents=True, exist_ok=True)
    Recording(name=TEACHER, records=(), strips=drawn[None], strip_steps=(0,), config={}).save(
        out / f"{TEACHER}.npz"
    )


if __name__ == "__main__":
    main()
