"""Record how the codebooks of ``fashion-dit`` shrink: the pruning paths that ship with dpqlab.

    python -m recipes.prune_fashion --out dpqlab/assets/fashion-dit-runs [--presets dpq-4bit ...]

The model is compressed with a preset's codec and all of its codewords. Then the pool of every kind
of layer is pruned step by step, as ``dpqlab prune`` does it, with column moments and output errors
from a few images that the model draws itself. Writes ``pruning-PRESET.json``, a list of pools::

    pool     the kind of layer
    layers   names of those that share the pool
    codec    of the layers
    pruning  what PoolConfig.to_dict says, without the budget
    weights  in all layers
    energy, weighted_energy   what weight_error and weighted_error are relative to
    records  points of the path: PruneRecord.to_dict, and its share

For the presets that still draw without calibration it also writes ``pruning-PRESET.npz``, a
:class:`dpqlab.studies.pruning_runs.PruningRun`: the whole model at falling budgets, what it
stores, what it misses, and the pictures that it draws.

Errors of the whole model at a budget are those of the pools, each counted by its energy. Seven
minutes a preset on one CPU core; two for the ragged paths alone (``--form ragged``).
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from dpqlab import __version__
from dpqlab.commands.terminal import Terminal
from dpqlab.core import ModelLedger, PoolConfig, PoolForm
from dpqlab.diffusion import SampleRequest, load_pipeline
from dpqlab.diffusion.inputs import input_steps, moments_request
from dpqlab.nn import compress_, kind_of, preset
from dpqlab.nn.pool_paths import Budget, PoolPath, at_budget, path_steps, prune_to_
from dpqlab.nn.surgery import ledger_of_model
from dpqlab.nn.targets import targets_of
from dpqlab.studies.pruning_measure import Seen, Sight, sight_of
from dpqlab.studies.pruning_runs import PoolPoint, PruningRun, RunPoint

PRESETS = ("dpq-4bit", "dpq-3bit", "dpq-1bit")
DRAWING = ("dpq-4bit", "dpq-3bit")  # fewer bits draw nothing before they are calibrated
TEACHER = "fashion-dit"
BUDGETS = (float("inf"), *(1 / n for n in (4, 8, 10, 12, 14, 16, 20, 24, 32, 40, 48, 64, 96, 128)))
FITS = 1 + 1e-6  # a share as it is printed still is a budget
REQUEST = SampleRequest(labels=tuple(range(10)), seed=0, steps=20, guidance=1.5)
DIGITS = 6  # of errors in the file
MOST_BYTES = {".json": 2_000_000, ".npz": 1_000_000}


@dataclass(frozen=True, kw_only=True)
class Made:
    """A model with the codebooks of k-means, its paths, and what the teacher draws."""

    model: Any
    paths: list[PoolPath]
    config: PoolConfig
    sight: Sight | None


def make(name: str, form: PoolForm, terminal: Terminal) -> Made:
    """Compress with a preset's codec, and walk the paths of its pools."""
    plan = preset(name)
    own = next(rule.pool for rule in plan.rules if rule.pool is not None)
    config = replace(own, form=form)
    bare = replace(plan, rules=tuple(replace(rule, pool=None) for rule in plan.rules))
    model: Any = load_pipeline(TEACHER).transformer
    weights = {target.name: target.linear.weight.detach() for target in targets_of(model, bare)}
    request = moments_request(model.config.num_embeds_ada_norm)
    inputs: dict[str, torch.Tensor] = {}
    with terminal.progress("Measuring the layers' inputs", request.steps) as meter:
        for watched in input_steps(model, weights, request, grams=True):
            inputs |= watched.inputs or {}
            meter.advance(request.steps / watched.total)
    sight = sight_of(model, REQUEST) if name in DRAWING else None
    compress_(model, bare)
    paths: list[PoolPath] = []
    with terminal.progress(f"Pruning {name}", 1) as meter:
        done = 0.0
        for step in path_steps(model, weights, inputs, config):
            meter.advance(step.done - done, f"{step.name}, {step.codewords:,} codewords")
            done = step.done
            if step.path is not None:
                paths.append(step.path)
    return Made(model=model, paths=paths, config=config, sight=sight)


def pool_to_dict(path: PoolPath, config: PoolConfig, model: Any) -> dict[str, Any]:
    """Return one pool as the file holds it."""
    layers = [model.get_submodule(name) for name in path.names]
    pruning = {name: value for name, value in config.to_dict().items() if name != "budget"}
    records = [
        {name: _short(value) for name, value in record.items()}
        for record in path.to_dict()["records"]
    ]
    return {
        "pool": kind_of(path.names[0]),
        "layers": list(path.names),
        "codec": layers[0].codec.describe(),
        "pruning": pruning,
        "weights": sum(layer.in_features * layer.out_features for layer in layers),
        "energy": path.energy,
        "weighted_energy": path.weighted_energy,
        "records": records,
    }


def _short(value: Any) -> Any:
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def points_of(made: Made, terminal: Terminal) -> Iterator[tuple[RunPoint, np.ndarray]]:
    """Prune the model to every budget that is met otherwise than the one before; let it draw."""
    assert made.sight is not None
    whole = ledger_of_model(made.model)
    before: list[int] = []
    with terminal.progress("Drawing", len(BUDGETS)) as meter:
        for limit in BUDGETS:
            meter.advance(note="all codewords" if limit > 1 else f"budget {limit:.3g}")
            budget = at_budget(made.paths, whole, limit * FITS)
            chosen = [id(path.at(limit * FITS)) for path in made.paths]
            if budget is None or chosen == before:
                continue
            before = chosen
            prune_to_(made.model, made.paths, limit * FITS)
            seen = made.sight.of(made.model)
            limited = replace(budget, budget=limit)
            yield point_of(limited, made.paths, ledger_of_model(made.model), seen), seen.images


def point_of(
    budget: Budget, paths: Sequence[PoolPath], ledger: ModelLedger, seen: Seen
) -> RunPoint:
    """Return the record of a pruned model; its ledger has the bits."""
    parts = {
        part: sum(getattr(layer, part) for layer in ledger.layers)
        for part in ("codes", "table", "pool", "scale", "bias")
    }
    assert abs(budget.true_bits - ledger.true_bits_per_weight) < 1e-9
    pools: list[PoolPoint] = []
    for path in paths:
        record = path.at(budget.budget * FITS)
        assert record is not None
        pools.append(
            PoolPoint(
                kind=kind_of(path.names[0]),
                form=record.form,
                codewords=record.codewords,
                share=_short(record.share),
                weighted_error=_short(record.weighted_error),
            )
        )
    return RunPoint(
        budget=None if budget.budget == float("inf") else budget.budget,
        share=_short(budget.share),
        codewords=budget.codewords,
        parts=parts | {"kept": sum(tensor.bits for tensor in ledger.kept)},
        true_bits=_short(ledger.true_bits_per_weight),
        stored_bytes=ledger.stored_bytes,
        weight_error=_short(budget.weight_error),
        weighted_error=_short(budget.weighted_error),
        noise_error=_short(seen.noise_error),
        image_error=_short(seen.image_error),
        pools=tuple(pools),
    )


def run_of(name: str, made: Made, terminal: Terminal) -> PruningRun:
    """Measure the model along its paths."""
    assert made.sight is not None
    points, samples = zip(*points_of(made, terminal), strict=True)
    pruning = {key: value for key, value in made.config.to_dict().items() if key != "budget"}
    return PruningRun(
        name=name,
        points=points,
        samples=np.stack(samples),
        teacher=made.sight.images,
        labels=REQUEST.labels,
        about={
            "source": TEACHER,
            "pruning": pruning,
            "seed": REQUEST.seed,
            "steps": REQUEST.steps,
            "guidance": REQUEST.guidance,
            "date": dt.datetime.now(dt.UTC).date().isoformat(),
            "versions": {"dpqlab": __version__, "torch": str(torch.__version__)},
        },
    )


def write(out: Path, name: str, form: PoolForm, terminal: Terminal) -> list[Path]:
    """Write the files of a preset."""
    made = make(name, form, terminal)
    pools = [pool_to_dict(path, made.config, made.model) for path in made.paths]
    out.mkdir(parents=True, exist_ok=True)
    files = [out / f"pruning-{name}.json"]
    files[0].write_text(json.dumps(pools, indent=1) + "\n", encoding="utf-8", newline="\n")
    if made.sight is not None:
        files.append(out / f"pruning-{name}.npz")
        run_of(name, made, terminal).save(files[1])
    for file in files:
        size = file.stat().st_size
        if size > MOST_BYTES[file.suffix]:
            raise RuntimeError(f"{file}: {size} bytes, more than {MOST_BYTES[file.suffix]}")
        terminal.say(f"{file}: {len(made.paths)} pools, {size / 1e3:.0f} kB")
    return files


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the recipe."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder to write into")
    parser.add_argument("--presets", nargs="+", default=list(PRESETS), metavar="NAME")
    parser.add_argument("--form", choices=get_args(PoolForm), default="auto")
    args = parser.parse_args(arguments)
    for name in args.presets:
        write(args.out, name, args.form, Terminal())


if __name__ == "__main__":
    main()
