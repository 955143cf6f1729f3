"""Record what removing codewords costs the pools of ``fashion-dit``, by three measures.

    python -m recipes.importance_fashion --out dpqlab/assets/fashion-dit-runs [--presets dpq-4bit]

First the second moments of what flows into the layers, on the images that choose codewords, so that
opening a view need not draw them: ``importance-inputs.npz``, in seconds. ``--presets`` without a
name stops there.

Then for some kinds of layers, with the codebooks that the preset's k-means makes: the least
important codewords are removed by usage, weighted usage and removal cost, once by one ranking and
once in rounds with new ones, and the output error of the layers is measured on activations that
nothing was chosen by (``dpqlab.studies.removals``). Writes ``importance-PRESET.json``. Five
minutes on one CPU core, nearly all of it for the removal costs in rounds.
"""

from __future__ import annotations

import argparse
import datetime as dt
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from dpqlab import __version__
from dpqlab.commands.terminal import Terminal
from dpqlab.diffusion import load_pipeline
from dpqlab.nn import kind_of, preset
from dpqlab.nn.targets import targets_of
from dpqlab.studies.codeword_inputs import (
    GATHER_SEED,
    GUIDANCE,
    IMAGES,
    STEPS,
    InputRecord,
    activations_of,
)
from dpqlab.studies.codewords import MEASURES, CodewordStudy, output_error, study_of
from dpqlab.studies.removal_records import PoolRemovals, RemovalRecords
from dpqlab.studies.removals import SHARES, Removal, race_steps

PRESETS = ("dpq-4bit",)
TEACHER = "fashion-dit"
KINDS = ("attn1.to_q", "attn1.to_out.0", "ff.net.2", "norm1.linear")
DIGITS = 5
MOST_BYTES = 500_000
MOST_INPUT_BYTES = 300_000


def short(value: float) -> float:
    """Round to five digits."""
    return float(f"{value:.{DIGITS}g}")


def shortened(removal: Removal) -> Removal:
    """Round what was measured."""
    return replace(
        removal,
        share=short(removal.share),
        predicted=None if removal.predicted is None else short(removal.predicted),
        felt=short(removal.felt),
        output_error=short(removal.output_error),
    )


def removals_of(study: CodewordStudy, terminal: Terminal) -> PoolRemovals:
    """Remove more and more codewords of one pool."""
    removals: list[Removal] = []
    with terminal.progress(study.kind, 2 * len(MEASURES) * len(SHARES)) as meter:
        for removal in race_steps(study):
            removals.append(shortened(removal))
            meter.advance(note=f"{removal.measure}, {removal.manner}, {removal.share:.0%}")
    return PoolRemovals(
        kind=study.kind,
        codewords=len(study.scope),
        output_error=short(output_error(study)),
        removals=tuple(removals),
    )


def write_inputs(out: Path, model: Any, terminal: Terminal) -> InputRecord:
    """Write what flows into all layers that have codebooks."""
    names = [target.name for target in targets_of(model, preset(PRESETS[0]))]
    record = InputRecord(
        moments=dict(activations_of(model, names).choose),
        about=about()
        | {"seed": GATHER_SEED, "images": IMAGES, "steps": STEPS, "guidance": GUIDANCE},
    )
    out.mkdir(parents=True, exist_ok=True)
    file = out / "importance-inputs.npz"
    record.save(file)
    report(file, f"inputs of {len(names)} layers", MOST_INPUT_BYTES, terminal)
    return record


def write(out: Path, name: str, model: Any, inputs: InputRecord, terminal: Terminal) -> Path:
    """Write the file of a preset."""
    plan = preset(name)
    names = [target.name for target in targets_of(model, plan)]
    activations = inputs.activations(lambda: model)
    pools: list[PoolRemovals] = []
    for kind in KINDS:
        layer = next(name for name in names if kind_of(name) == kind)
        study = study_of(model, plan, layer, activations=activations)
        pools.append(removals_of(study, terminal))
    records = RemovalRecords(
        preset=name,
        pools=tuple(pools),
        about=about(),
    )
    file = out / f"importance-{name}.json"
    records.save(file)
    report(file, f"{len(pools)} pools", MOST_BYTES, terminal)
    return file


def about() -> dict[str, Any]:
    """Say what was recorded when, and with what."""
    return {
        "source": TEACHER,
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "versions": {"dpqlab": __version__, "torch": str(torch.__version__)},
    }


def report(file: Path, what: str, most: int, terminal: Terminal) -> None:
    """Say what was written; refuse what is too large to ship."""
    size = file.stat().st_size
    if size > most:
        file.unlink()
        raise RuntimeError(f"{file}: {size} bytes, more than {most} may ship")
    terminal.say(f"{file}: {what}, {size / 1e3:.0f} kB")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the recipe."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder to write into")
    parser.add_argument("--presets", nargs="*", default=list(PRESETS), metavar="NAME")
    args = parser.parse_args(arguments)
    model: Any = load_pipeline(TEACHER).transformer
    inputs = write_inputs(args.out, model, Terminal())
    for name in args.presets:
        write(args.out, name, model, inputs, Terminal())


if __name__ == "__main__":
    main()
