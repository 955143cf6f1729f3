"""Which measure of a codeword's importance predicts what the pruned model loses.

    python -m benchmarks.importance [--presets dpq-4bit ...] [--budgets 0.25 ...] [--quick]

The three measures (usage, usage weighted by the input's second moments, rise of the weighted error)
are judged by what none of them minimises: the error of the predicted noise against the teacher's,
on noise and labels that the moments were not gathered on. No data set: both are the teacher's own
sampling trajectories, of classes 0 to 4 for the moments and 5 to 9 for judging, by other seeds,
with the label and without. Everything but the ranking is alike: codes and refits use the moments
whatever the measure.

``budgets``: whole models pruned by ``compress_``. ``removals``: the same layer of all blocks loses
codewords without a refit; once the least important by each measure, and once eight groups that no
measure chose, whose true damages are correlated with the predicted ones. About a quarter of an hour
on one CPU core.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, get_args

import torch
from torch import Tensor, nn

from benchmarks.fashion import TEACHER
from benchmarks.record import RESULTS, append, make_record
from dpqlab.calibration.batch import Batch, paired
from dpqlab.calibration.data import TrajectoryData
from dpqlab.calibration.forward import predict
from dpqlab.calibration.objectives import distillation
from dpqlab.calibration.trajectories import teacher_trajectories
from dpqlab.core import Encoded, Measure, Member, Pool, PoolConfig, reencode
from dpqlab.core.budget import ranking
from dpqlab.core.importance import importance_of_members, scope_of_rows
from dpqlab.diffusion import load_pipeline, scheduler_for
from dpqlab.kernels.dispatch import best_assigner
from dpqlab.nn import CompressedLinear, Plan, compress_, hold_decoded, kind_of, preset
from dpqlab.nn.activations import input_moments
from dpqlab.nn.targets import targets_of

SUITE = "importance"
MEASURES: tuple[Measure, ...] = get_args(Measure)
PRESETS = ("dpq-4bit", "dpq-3bit")  # fewer bits leave no model to judge without calibration
BUDGETS = (1 / 4, 1 / 8)  # 1/2 is met by all codewords at 4 bits
MERGES = (0.0, 0.05)  # without merging only the measure decides what goes
LEAST = (0.05, 0.2)  # shares of a pool's codewords that are removed
GROUPS = 8
GATHER_SEED, JUDGE_SEED = 50_000, 60_000


@dataclass(frozen=True, kw_only=True)
class Size:
    """Images and steps of trajectories: for whole models, and for the many removals."""

    images: int = 20
    steps: int = 10
    few_images: int = 5
    few_steps: int = 5


@dataclass(frozen=True, kw_only=True)
class Errors:
    """Errors by image: of the predicted noise, and of the blocks' outputs (relative)."""

    noise: tuple[float, ...]
    blocks: tuple[float, ...]


class Judge:
    """What the teacher makes of trajectories that nobody has seen, one batch an image."""

    def __init__(self, teacher: Any, *, images: int, steps: int) -> None:
        data = trajectories(teacher, images=images, steps=steps, seed=JUDGE_SEED, second_half=True)
        self.batches = list(batches(data, steps, teacher.config.num_embeds_ada_norm))
        with torch.no_grad():
            self.wanted = [predict(teacher, batch, {}) for batch in self.batches]

    @torch.no_grad()
    def errors(self, student: nn.Module) -> Errors:
        """Measure a student."""
        with hold_decoded(student):
            losses = [
                distillation(predict(student, batch, {}), wanted)
                for batch, wanted in zip(self.batches, self.wanted, strict=True)
            ]
        noise = tuple(float(loss.output) for loss in losses)
        return Errors(noise=noise, blocks=tuple(float(loss.features) for loss in losses))


def trajectories(
    teacher: Any, *, images: int, steps: int, seed: int, second_half: bool
) -> TrajectoryData:
    """Sample trajectories of the first or of the second half of the classes, ``images`` in all."""
    classes = teacher.config.num_embeds_ada_norm
    # all classes come in turn, so half of a whole number of turns is of the half that is wanted
    data = teacher_trajectories(
        teacher, scheduler_for(teacher), images=2 * images + classes, seed=seed, steps=steps
    )
    pick = ((data.labels >= classes // 2) == second_half).nonzero()[: images * steps, 0]
    return replace(
        data, noisy=data.noisy[pick], timesteps=data.timesteps[pick], labels=data.labels[pick]
    )


def batches(data: TrajectoryData, size: int, null_class: int) -> Iterator[Batch]:
    """Yield runs of ``size`` items with their labels, followed by the same without."""
    for first in range(0, len(data), size):
        part = slice(first, first + size)
        batch = Batch(
            noisy=data.noisy[part].float(),
            timesteps=data.timesteps[part],
            labels=data.labels[part],
        )
        yield paired(batch, null_class)


@torch.no_grad()
def gathered(teacher: Any, plans: Sequence[Plan], size: Size) -> dict[str, Tensor]:
    """Return the second moments of the inputs of all layers that plans compress."""
    data = trajectories(
        teacher, images=size.images, steps=size.steps, seed=GATHER_SEED, second_half=False
    )
    names = {target.name for plan in plans for target in targets_of(teacher, plan)}
    with input_moments(teacher, names) as moments:
        for batch in batches(data, 50, teacher.config.num_embeds_ada_norm):
            predict(teacher, batch, {})
    return {name: found.mean.float() for name, found in moments.items()}


def pooled(plan: Plan, **changes: Any) -> Plan:
    """Return a plan with other settings of its pools; without pools if there are none."""
    rules = [
        rule if rule.pool is None else replace(rule, pool=changed(rule.pool, changes))
        for rule in plan.rules
    ]
    return replace(plan, rules=tuple(rules))


def changed(pool: PoolConfig, changes: Mapping[str, Any]) -> PoolConfig | None:
    """Return another pool config, or none for no changes."""
    return replace(pool, **changes) if changes else None


def standard_error(values: Sequence[float]) -> float:
    """Return the standard error of the mean; 0 for a single value."""
    return stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0


def against(values: Sequence[float], base: Sequence[float]) -> tuple[float, float]:
    """Return the ratio of two means over the same images, and its standard error."""
    size = fmean(base)
    ratio = fmean(values) / size
    left = [(v - ratio * b) / size for v, b in zip(values, base, strict=True)]
    return ratio, standard_error(left)


def budget_records(
    name: str, moments: Mapping[str, Tensor], budgets: Sequence[float], judge: Judge
) -> Iterator[dict[str, Any]]:
    """Prune a preset's codebooks to budgets by each measure, and judge the whole model.

    The first budget is also met with merging, as the presets do it.
    """
    for merge, budget in [(m, b) for b in budgets for m in MERGES if m == 0 or b == budgets[0]]:
        usage: Errors | None = None
        for measure in MEASURES:
            started = time.process_time()
            student = load_pipeline(TEACHER).transformer
            plan = pooled(preset(name), measure=measure, budget=budget, merge=merge)
            done = compress_(student, plan, moments=moments)
            seconds = time.process_time() - started
            errors = judge.errors(student)
            usage = usage or errors
            sizes = [layer.shape[0] * layer.shape[1] for layer in done.layers]
            yield make_record(
                SUITE,
                f"{name}, budget {budget:g}, merge {merge:g}, {measure}",
                "noise_mse",
                fmean(errors.noise),
                "MSE",
                rival=None if measure == "usage" else "usage",
                higher_is_better=False,
                details=judged(errors, usage)
                | {
                    "weight_error": weighted_mean([r.relative_error for r in done.layers], sizes),
                    "true_bits": done.ledger.true_bits_per_weight,
                    "codewords": sum(
                        {kind_of(r.name): r.codewords_kept for r in done.layers}.values()
                    ),
                    "compress_cpu_seconds": round(seconds, 1),
                },
            )


def judged(errors: Errors, usage: Errors) -> dict[str, Any]:
    """Return the errors of a student beside those of the one that was pruned by usage."""
    ratio, ratio_error = against(errors.noise, usage.noise)
    blocks, blocks_error = against(errors.blocks, usage.blocks)
    return {
        "standard_error": standard_error(errors.noise),
        "against_usage": ratio,
        "against_usage_standard_error": ratio_error,
        "block_error": fmean(errors.blocks),
        "block_standard_error": standard_error(errors.blocks),
        "block_against_usage": blocks,
        "block_against_usage_standard_error": blocks_error,
        "images": len(errors.noise),
    }


def weighted_mean(values: Sequence[float], sizes: Sequence[int]) -> float:
    """Return the mean of values that count by sizes."""
    return sum(v * s for v, s in zip(values, sizes, strict=True)) / sum(sizes)


@dataclass(frozen=True, kw_only=True)
class Group:
    """The layers that share a pool, in a student that has all codewords."""

    kind: str
    layers: dict[str, CompressedLinear]
    members: list[Member]

    @property
    def pool(self) -> Pool:
        """The codewords as k-means made them."""
        return self.members[0].encoded.pool

    def set_(self, encoded: Sequence[Encoded]) -> None:
        """Give the layers other codes and codewords."""
        shared: nn.Parameter | None = None
        for layer, one in zip(self.layers.values(), encoded, strict=True):
            layer.set_pool_(one, pool_parameter=shared)
            shared = layer.pool

    def without(self, gone: Tensor) -> list[Encoded]:
        """Remove codewords (P,) and choose codes again; one of each scope stays whatever."""
        sizes = torch.bincount(scope_of_rows(self.pool)[~gone], minlength=len(self.pool.sizes))
        base = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
        pool = Pool(entries=self.pool.entries[~gone], base=base)
        assigner = best_assigner("cpu")
        return [
            reencode(m.weight, m.encoded, pool, m.moments, assigner=assigner) for m in self.members
        ]


def groups_of(student: nn.Module, teacher: Any, moments: Mapping[str, Tensor]) -> list[Group]:
    """List the pools of a student that was compressed without pruning."""
    layers = {n: m for n, m in student.named_modules() if isinstance(m, CompressedLinear)}
    kinds: dict[str, dict[str, CompressedLinear]] = {}
    for name, layer in layers.items():
        kinds.setdefault(kind_of(name), {})[name] = layer
    groups = []
    for kind, sharing in kinds.items():
        encoded = [layer.encoded() for layer in sharing.values()]
        members = [
            Member(
                weight=teacher.get_submodule(name).weight.detach(),
                encoded=replace(one, pool=encoded[0].pool),
                moments=moments[name],
            )
            for name, one in zip(sharing, encoded, strict=True)
        ]
        groups.append(Group(kind=kind, layers=sharing, members=members))
    return groups


def neutral(pool: Pool, generator: torch.Generator) -> Tensor:
    """Choose codewords whatever their importance: half of those of an eighth of the scopes."""
    scope = scope_of_rows(pool)
    scopes = len(pool.sizes)
    some = torch.randperm(scopes, generator=generator)[: max(1, scopes // 8)]
    order = torch.rand(len(scope), generator=generator)
    order[~torch.isin(scope, some)] = 2.0
    gone = torch.zeros(len(scope), dtype=torch.bool)
    gone[order.argsort()[: int((order < 1).sum()) // 2]] = True
    ranks = ranking(1 - gone.double(), scope)
    gone[ranks.order[ranks.rank == 0]] = False
    return gone


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Return Spearman's rank correlation; equal values keep their order."""
    ranks = [torch.tensor(v, dtype=torch.float64).argsort(stable=True).argsort() for v in (a, b)]
    return float(torch.corrcoef(torch.stack(ranks).double())[0, 1])


def removal_records(
    name: str, teacher: Any, moments: Mapping[str, Tensor], judge: Judge, groups: int
) -> Iterator[dict[str, Any]]:
    """Remove codewords pool by pool, and compare what that does with what measures say."""
    student = load_pipeline(TEACHER).transformer
    compress_(student, pooled(preset(name)), moments=moments)
    whole = judge.errors(student)
    correlations: dict[str, dict[str, float]] = {measure: {} for measure in MEASURES}
    rises: dict[tuple[str, float], dict[str, list[float]]] = {}

    def damage(group: Group, gone: Tensor) -> list[float]:
        group.set_(group.without(gone))
        found = judge.errors(student)
        return [now - before for now, before in zip(found.noise, whole.noise, strict=True)]

    for group in groups_of(student, teacher, moments):
        worth = {measure: importance_of_members(group.members, measure) for measure in MEASURES}
        scope = scope_of_rows(group.pool)
        for measure in MEASURES:
            ranks = ranking(worth[measure], scope)
            for share in LEAST:
                gone = torch.zeros(len(scope), dtype=torch.bool)
                gone[ranks.order[round((1 - share) * len(scope)) :]] = True
                rises.setdefault((measure, share), {})[group.kind] = damage(group, gone)
        generator = torch.Generator().manual_seed(0)
        chosen = [neutral(group.pool, generator) for _ in range(groups)]
        true = [fmean(damage(group, gone)) for gone in chosen]
        for measure in MEASURES:
            # a codeword that stays alone in its scope is in no group: all worths here are finite
            said = [float(worth[measure][gone].sum()) for gone in chosen]
            correlations[measure][group.kind] = rank_correlation(said, true)
        group.set_([member.encoded for member in group.members])
    for measure in MEASURES:
        found = list(correlations[measure].values())
        details: dict[str, Any] = {
            "standard_error": standard_error(found),
            "by_kind": correlations[measure],
            "groups": groups,
            "images": len(whole.noise),
        }
        yield make_record(
            SUITE, f"{name}, groups of codewords, {measure}", "rank_correlation", fmean(found),
            "rho", higher_is_better=True, details=details,
        )  # fmt: skip
    for (measure, share), by_kind in rises.items():
        total = [sum(images) for images in zip(*by_kind.values(), strict=True)]
        usage = [sum(images) for images in zip(*rises["usage", share].values(), strict=True)]
        # what removing improves has no ratio
        ratio, ratio_error = against(total, usage) if fmean(usage) > 0 else (None, None)
        details = {
            "standard_error": standard_error(total),
            "against_usage": ratio,
            "against_usage_standard_error": ratio_error,
            "by_kind": {kind: fmean(values) for kind, values in by_kind.items()},
            "noise_mse_before": fmean(whole.noise),
            "images": len(total),
        }
        yield make_record(
            SUITE, f"{name}, least {share:g} of each pool, {measure}", "noise_mse_rise",
            fmean(total), "MSE", rival=None if measure == "usage" else "usage",
            higher_is_better=False, details=details,
        )  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and append the records."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--presets", nargs="+", default=list(PRESETS), metavar="NAME")
    parser.add_argument("--budgets", nargs="*", type=float, default=list(BUDGETS), metavar="X")
    parser.add_argument("--groups", type=int, default=GROUPS, help="for the rank correlation")
    parser.add_argument("--quick", action="store_true", help="two images of two steps")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to append to")
    args = parser.parse_args(arguments)
    size = Size(images=2, steps=2, few_images=2, few_steps=2) if args.quick else Size()
    teacher: Any = load_pipeline(TEACHER).transformer.requires_grad_(False)
    judge = Judge(teacher, images=size.images, steps=size.steps)
    few = Judge(teacher, images=size.few_images, steps=size.few_steps)
    moments = gathered(teacher, [preset(name) for name in args.presets], size)
    for name in args.presets:
        runs = [budget_records(name, moments, args.budgets, judge)]
        if args.groups:
            runs.append(removal_records(name, teacher, moments, few, args.groups))
        for record in (record for run in runs for record in run):
            append(record, args.results)
            error = record["details"]["standard_error"]
            ratio = record["details"].get("against_usage")
            print(
                f"{record['row']:46s} {record['metric']:16s} {record['value']:.6f} +- {error:.6f}"
                + ("" if ratio is None else f"  {ratio:.4f} of usage's"),
                flush=True,
            )


if __name__ == "__main__":
    main()
