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

Errors of the whole model at a budget are those of the pools, each counted by its energy. Five
minutes a preset on one CPU core; two for the ragged paths alone (``--form ragged``).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from dpqlab.commands.inputs import inputs_of
from dpqlab.commands.paths import PoolPath, pool_paths
from dpqlab.commands.terminal import Terminal
from dpqlab.core import PoolConfig, PoolForm
from dpqlab.diffusion import load_pipeline
from dpqlab.nn import compress_, kind_of, preset
from dpqlab.nn.targets import targets_of

PRESETS = ("dpq-4bit", "dpq-1bit")
TEACHER = "fashion-dit"
DIGITS = 6  # of errors in the file
MOST_BYTES = 2_000_000


def paths_of(
    name: str, form: PoolForm, terminal: Terminal
) -> tuple[list[PoolPath], PoolConfig, Any]:
    """Compress with a preset's codec, and walk the paths of its pools; return the model too."""
    plan = preset(name)
    own = next(rule.pool for rule in plan.rules if rule.pool is not None)
    config = replace(own, form=form)
    bare = replace(plan, rules=tuple(replace(rule, pool=None) for rule in plan.rules))
    pipeline = load_pipeline(TEACHER)
    model = pipeline.transformer
    weights = {target.name: target.linear.weight.detach() for target in targets_of(model, bare)}
    inputs = inputs_of(pipeline, weights, terminal, grams=True)
    compress_(model, bare)
    with terminal.progress(f"Pruning {name}", 1) as meter:
        return pool_paths(model, weights, inputs, config, meter, seed=0), config, model


def pool_to_dict(path: PoolPath, config: PoolConfig, model: Any) -> dict[str, Any]:
    """Return one pool as the file holds it."""
    layers = [model.get_submodule(name) for name in path.names]
    pruning = {name: value for name, value in config.to_dict().items() if name != "budget"}
    records = [
        {
            name: float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value
            for name, value in (record.to_dict() | {"share": record.share}).items()
        }
        for record in path.records
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


def write(out: Path, name: str, form: PoolForm, terminal: Terminal) -> Path:
    """Write the file of a preset."""
    paths, config, model = paths_of(name, form, terminal)
    text = json.dumps([pool_to_dict(path, config, model) for path in paths], indent=1) + "\n"
    if len(text) > MOST_BYTES:
        raise RuntimeError(f"{name}: {len(text)} bytes, more than {MOST_BYTES} may ship")
    out.mkdir(parents=True, exist_ok=True)
    file = out / f"pruning-{name}.json"
    file.write_text(text, encoding="utf-8", newline="\n")
    terminal.say(f"{file}: {len(paths)} pools, {len(text) / 1e3:.0f} kB")
    return file


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
