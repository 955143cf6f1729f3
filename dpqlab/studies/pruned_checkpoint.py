"""Prune a model to a budget and save it, step by step: what ``dpqlab prune`` writes.

A generator of records, so that a notebook can show how far it is, and stop it.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from dpqlab import __version__
from dpqlab.checkpoint import is_compressed, save_compressed
from dpqlab.core import ModelLedger, PoolConfig, PoolForm, relative_error
from dpqlab.diffusion.inputs import input_steps, moments_request
from dpqlab.diffusion.models import load_pipeline, resolve
from dpqlab.errors import ConfigError
from dpqlab.nn.plan import Plan
from dpqlab.nn.pool_paths import PoolPath, path_steps, prune_to_
from dpqlab.nn.presets import preset
from dpqlab.nn.surgery import compress_steps, ledger_of_model
from dpqlab.nn.targets import targets_of

FITS = 1 + 1e-6  # a share as it is printed still is a budget
WEIGHTS = {"inputs": 0.04, "compress": 0.06, "prune": 0.89, "save": 0.01}
"""Share of the time that each stage takes, about."""
CARD = """---
library_name: diffusers
tags: [dpqlab, quantized]
---

# {name}

`{source}` compressed with dpqlab's preset `{preset}`, its pools pruned to {budget} of the bits of
the codes, without calibration.

| what | value |
|---|---|
| true bits per weight (everything stored for the blocks' Linears) | {bits:.3f} |
| all tensors | {stored:.2f} MB |
"""


@dataclass(frozen=True, kw_only=True)
class PruneTask:
    """What to make.

    Attributes
    ----------
    source
        A bundled name or a folder, full precision.
    preset
        Whose codec is used.
    budget
        Most that pool and tables may take of the bits of the codes, in every pool; None keeps all.
    form
        Of the pools; see :class:`dpqlab.core.PoolConfig`.
    seed
        Of k-means.
    """

    source: str
    preset: str
    budget: float | None
    form: PoolForm = "auto"
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class PruneProgress:
    """How far it is.

    Attributes
    ----------
    stage
        ``"inputs"``, ``"compress"``, ``"prune"`` or ``"save"``.
    done
        Share of all the work, 0 to 1.
    seconds, left
        Since the start, and the estimate of what is left.
    note
        What is being worked on.
    ledger
        Of the saved model, with the last record; else None.
    """

    stage: str
    done: float
    seconds: float
    left: float
    note: str
    ledger: ModelLedger | None = None


def prune_checkpoint(
    task: PruneTask, folder: Path, *, overwrite: bool = False
) -> Generator[PruneProgress, None, None]:
    """Compress, walk the pruning paths, and save the model at a budget.

    Everything that can be checked is checked before anything is computed. The folder appears whole
    with the last record, or not at all.

    Raises
    ------
    ConfigError
        If the source is compressed, the folder exists (without ``overwrite``), the preset has no
        pools, or the budget cannot be met.
    CheckpointError
        If writing fails.
    """
    plan = preset(task.preset)
    own = next((rule.pool for rule in plan.rules if rule.pool is not None), None)
    if own is None:
        raise ConfigError(f"the preset {task.preset!r} has no pools to prune: expected dpq-*")
    if task.budget is not None and not 0 < task.budget < float("inf"):
        raise ConfigError(f"budget is {task.budget}: expected a positive share, or None")
    if is_compressed(resolve(task.source)):
        raise ConfigError(f"{task.source} is compressed already: expected a full-precision model")
    if folder.exists() and not overwrite:
        raise ConfigError(f"{folder} exists: choose another folder, or pass overwrite=True")
    bare = replace(plan, rules=tuple(replace(rule, pool=None) for rule in plan.rules))
    return _steps(task, bare, replace(own, form=task.form), folder, overwrite)


def _steps(
    task: PruneTask, plan: Plan, config: PoolConfig, folder: Path, overwrite: bool
) -> Generator[PruneProgress, None, None]:
    clock = _Clock()
    yield clock.at("inputs", 0.0, "loading the model")
    pipeline: Any = load_pipeline(task.source)
    model: Any = pipeline.transformer
    weights = {target.name: target.linear.weight.detach() for target in targets_of(model, plan)}
    request = moments_request(model.config.num_embeds_ada_norm, task.seed)
    inputs: dict[str, torch.Tensor] = {}
    for watched in input_steps(model, weights, request):
        inputs = watched.inputs or {}
        yield clock.at("inputs", (watched.index + 1) / watched.total, "what flows into the layers")
    for record in compress_steps(model, plan, seed=task.seed):
        yield clock.at("compress", (record.index + 1) / record.total, record.name)
    paths: list[PoolPath] = []
    if task.budget is not None:
        for step in path_steps(model, weights, inputs, config, seed=task.seed):
            yield clock.at("prune", step.done, f"{step.name}: {step.codewords:,} codewords")
            if step.path is not None:
                paths.append(step.path)
                _check_fits(step.path, task.budget)
        prune_to_(model, paths, task.budget * FITS)
    yield clock.at("save", 0.0, str(folder))
    errors = {n: relative_error(w, model.get_submodule(n).decode()) for n, w in weights.items()}
    ledger = ledger_of_model(model)
    folder.parent.mkdir(parents=True, exist_ok=True)
    save_compressed(
        model,
        folder,
        scheduler_config=json.loads(pipeline.scheduler.to_json_string()),
        provenance=_provenance(task, config, ledger, errors),
        card=_card(task, folder.name, ledger),
        overwrite=overwrite,
    )
    yield replace(clock.at("save", 1.0, str(folder)), ledger=ledger)


class _Clock:
    """Shares of stages to the share of all, and the time that is left."""

    def __init__(self) -> None:
        self.started = time.monotonic()

    def at(self, stage: str, part: float, note: str) -> PruneProgress:
        names = list(WEIGHTS)
        before = sum(WEIGHTS[name] for name in names[: names.index(stage)])
        done = before + WEIGHTS[stage] * part
        seconds = time.monotonic() - self.started
        left = seconds * (1 - done) / done if done else 0.0
        return PruneProgress(stage=stage, done=done, seconds=seconds, left=left, note=note)


def _check_fits(path: PoolPath, budget: float) -> None:
    if path.smallest > budget * FITS:
        raise ConfigError(
            f"budget {budget:g} cannot be met: the pool of {path.names[0]} takes at least "
            f"{path.smallest:.3g} of the bits of its codes; choose a larger budget"
        )


def _provenance(
    task: PruneTask, config: PoolConfig, ledger: ModelLedger, errors: dict[str, float]
) -> dict[str, str | int | float]:
    digest = hashlib.sha256()
    for file in sorted((resolve(task.source) / "transformer").glob("*.safetensors")):
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    note: dict[str, str | int | float] = {
        "source": Path(task.source).name,
        "source_sha256": digest.hexdigest(),
        "seed": task.seed,
        "measure": config.measure,
        "tool": f"dpqlab {__version__}",
        "torch": str(torch.__version__),
        "preset": task.preset,
        "calibrated": 0,
        "true_bits_per_weight": ledger.true_bits_per_weight,
        "relative_errors": " ".join(f"{errors[name]:.4g}" for name in sorted(errors)),
    }
    return note if task.budget is None else note | {"budget": task.budget}


def _card(task: PruneTask, name: str, ledger: ModelLedger) -> str:
    budget = "all (nothing was pruned)" if task.budget is None else f"{task.budget:.4g}"
    return CARD.format(
        name=name,
        source=Path(task.source).name,
        preset=task.preset,
        budget=budget,
        bits=ledger.true_bits_per_weight,
        stored=ledger.stored_bytes / 1e6,
    )
