"""Options that change a preset: its codec, and how its pool is squeezed."""

from __future__ import annotations

import argparse
from dataclasses import replace
from fractions import Fraction
from typing import Any, get_args

from dpqlab.core import ACROSS, SCOPES, CodebookCodec, Measure, PoolConfig, PoolForm
from dpqlab.errors import ConfigError
from dpqlab.nn.plan import Plan, Rule
from dpqlab.nn.presets import presets

CODEC = ("d", "k", "scope", "group", "across", "row_scale")
POOL = ("budget", "measure", "merge", "pool")


def add_preset_argument(parser: argparse.ArgumentParser, default: str | None) -> None:
    """Add ``--preset``."""
    parser.add_argument(
        "--preset",
        default=default,
        metavar="NAME",
        help=f"one of {', '.join(presets())}" + (f" ({default})" if default else ""),
    )


def add_codec_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that :func:`overridden` applies to codecs."""
    codec = parser.add_argument_group("change the preset's codec")
    codec.add_argument("--d", type=int, metavar="N", help="weights in a sub-vector")
    codec.add_argument("--k", type=int, metavar="N", help="codewords in a codebook")
    codec.add_argument(
        "--scope",
        choices=SCOPES,
        help="which positions of a row share a codebook: each column position has its own (PQ), "
        "a group of positions shares one, or all of them do (VQ)",
    )
    codec.add_argument(
        "--group", type=int, metavar="N", help="positions that share a codebook, with --scope group"
    )
    codec.add_argument(
        "--across",
        choices=ACROSS,
        help="which layers share codebooks: none, the same layer of all blocks, or all of them "
        "(model: with --scope layer)",
    )
    codec.add_argument(
        "--row-scale", action=argparse.BooleanOptionalAction, help="one fp16 scale for every row"
    )


def add_pool_arguments(parser: argparse.ArgumentParser, *, budget: bool) -> None:
    """Add the options of the pool; with ``budget`` also those that a path does not need."""
    pool = parser.add_argument_group("squeeze the codebooks after k-means")
    if budget:
        pool.add_argument(
            "--budget",
            type=share,
            metavar="X",
            help="most bits that codewords and tables may take, as a share of those of the codes, "
            "such as 1/4",
        )
    pool.add_argument(
        "--measure",
        choices=get_args(Measure),
        help="which codewords stay: the most used, the most used counted by what flows into "
        "their columns, or those whose removal costs most. What flows is measured on images that "
        "the model draws (usage)",
    )
    pool.add_argument(
        "--merge",
        type=float,
        metavar="X",
        help="codewords whose squared distance is at most X of the mean squared norm merge (0.05)",
    )
    pool.add_argument(
        "--pool",
        choices=get_args(PoolForm),
        help="ragged: codebooks of different sizes; indexed: codebooks pick from one pool by "
        "tables; auto: whichever errs less (auto)",
    )
    if budget:
        pool.add_argument("--no-pool", action="store_true", help="drop the preset's pool")


def overridden(plan: Plan, args: argparse.Namespace) -> Plan:
    """Apply the options of codec and pool to every codebook codec of a plan.

    Raises
    ------
    ConfigError
        If the plan has no codebooks, or the options do not go together.
    """
    codec, pool = _given(args, CODEC), _given(args, POOL)
    drop = getattr(args, "no_pool", False)
    if not codec and not pool and not drop:
        return plan
    first = "no-pool" if drop else next(iter(codec | pool)).replace("_", "-")
    require_codebooks(plan, f"--{first} means nothing to it")
    if drop and pool:
        raise ConfigError(f"--no-pool and --{next(iter(pool))}: give one of them")
    if codec.get("scope", "group") != "group":
        codec.setdefault("group", 1)
    if "pool" in pool:
        pool["form"] = pool.pop("pool")
    rules = tuple(_changed(rule, codec, pool, drop=drop) for rule in plan.rules)
    return replace(plan, rules=rules, name=f"{plan.name}, changed")


def require_codebooks(plan: Plan, why: str) -> None:
    """Raise :class:`ConfigError` if a codec of the plan has no codebooks."""
    codecs = [rule.codec for rule in plan.rules if rule.codec is not None]
    if not all(isinstance(codec, CodebookCodec) for codec in codecs):
        raise ConfigError(
            f"preset {plan.name} has no codebooks, so {why}: start from a vq, pq, dpq or best "
            "preset"
        )


def measures_inputs(plan: Plan) -> bool:
    """Whether a pool of the plan asks what flows into the layers."""
    return any(rule.pool is not None and rule.pool.measure != "usage" for rule in plan.rules)


def share(text: str) -> float:
    """Read a share: "0.25", "1/4".

    Examples
    --------
    >>> share("1/4"), share("0.1")
    (0.25, 0.1)
    """
    try:
        value = float(Fraction(text))
    except (ValueError, ZeroDivisionError, OverflowError):
        value = 0.0
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no share such as 1/4 or 0.25")
    return value


def _given(args: argparse.Namespace, names: tuple[str, ...]) -> dict[str, Any]:
    found = {name: getattr(args, name, None) for name in names}
    return {name: value for name, value in found.items() if value is not None}


def _changed(rule: Rule, codec: dict[str, Any], pool: dict[str, Any], *, drop: bool) -> Rule:
    if not isinstance(rule.codec, CodebookCodec):
        return rule
    kept = None if drop else rule.pool
    squeezed = replace(kept or PoolConfig(), **pool) if pool else kept
    return replace(rule, codec=replace(rule.codec, **codec), pool=squeezed)
