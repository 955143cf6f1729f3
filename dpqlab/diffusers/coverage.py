"""Which layers of a diffusers model are compressed: a preset made for a DiT, fitted to any of them.

The presets name the layers of a DiT's blocks. Other models call their blocks otherwise, feed some
Linears with two inputs laid side by side, and keep some modules in float32; :func:`plan_for` writes
a plan for one of them, with a rule for every Linear. Nothing is left out silently:
:func:`kept_by` lists every weight that stays as it is, and why.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from dpqlab.checkpoint.model_config import MODEL_CLASS
from dpqlab.core import CodebookCodec, ScalarCodec
from dpqlab.errors import ConfigError
from dpqlab.nn.accounting import block_lists, in_blocks, modules_of
from dpqlab.nn.embedder import tie_embedders_
from dpqlab.nn.plan import OUTSIDE_REASON, Coding, FloatName, Plan, Rule, kind_of, split_block_name
from dpqlab.nn.surgery import Compression, compress_
from dpqlab.nn.targets import Moments, skipped_layers

FLOAT32_REASON = "diffusers keeps it in float32"

Choice = Coding | str
"""How a layer is coded, or why it is kept."""


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A weight that stays as it is: the name of its module or parameter, its shape, and why."""

    name: str
    shape: tuple[int, ...]
    reason: str


def plan_for(model: nn.Module, plan: Plan) -> Plan:
    """Fit a plan that was made for the blocks of a DiT to the blocks of another diffusers model.

    Blocks are what lies in the model's lists of modules (``transformer_blocks``,
    ``single_transformer_blocks``, a U-Net's ``down_blocks``). A Linear in them gets the codec that
    the plan has for its kind, changed in two ways where it must be: no codebook and no sub-vector
    reaches over a seam (:func:`input_seam`), and layers that would share codebooks position by
    position but differ in width get their own.

    Parameters
    ----------
    model
        A model of diffusers; it may be on the meta device. For its ``DiTTransformer2DModel`` the
        plan is returned as it is.
    plan
        Such as a preset.

    Returns
    -------
    Plan
        One rule for each Linear; ``rest_dtype`` is float32 where diffusers keeps modules in it, and
        float16 for a model in float16.
    """
    if type(model).__name__ == MODEL_CLASS:
        return plan
    linears = {n: m for n, m in modules_of(model).items() if isinstance(m, nn.Linear)}
    lists, wide = block_lists(model), frozenset(float32_names(model))
    choices: dict[str, Choice] = {}
    for name, linear in linears.items():
        if not in_blocks(name, lists):
            choices[name] = OUTSIDE_REASON
        elif not wide.isdisjoint(name.split(".")):
            choices[name] = FLOAT32_REASON
        else:
            choices[name] = _choice(plan, name, linear.in_features, input_seam(model, name))
    for names in _sharing_by_position(choices):
        if len({linears[name].in_features for name in names}) > 1:
            choices |= {name: _alone(choices[name]) for name in names}
    return replace(
        plan,
        rules=tuple(_rule(name, choice) for name, choice in choices.items()),
        rest_dtype=_rest_dtype(model, plan),
    )


def kept_by(model: nn.Module, plan: Plan) -> tuple[Kept, ...]:
    """List the weights of a dense ``model`` that ``plan`` does not compress, with the reasons.

    Linears; and whatever else has parameters of two dimensions or more: convolutions, tables of
    embeddings, parameters that belong to no layer.
    """
    kept = [Kept(name=s.name, shape=s.shape, reason=s.reason) for s in skipped_layers(model, plan)]
    for name, module in modules_of(model).items():
        if isinstance(module, nn.Linear):
            continue
        for leaf, parameter in module.named_parameters(recurse=False):
            if parameter.ndim > 1:
                full = f"{name}.{leaf}".removeprefix(".")
                reason = f"not a Linear but of a {type(module).__name__}"
                kept.append(Kept(name=full, shape=tuple(parameter.shape), reason=reason))
    return tuple(kept)


def compress_fitted_(
    model: nn.Module, plan: Plan, seed: int, moments: Moments | None = None
) -> tuple[Compression, tuple[Kept, ...]]:
    """Compress ``model`` in place by :func:`plan_for`; also return what was kept."""
    with suppress(ConfigError):  # embedders that differ were trained so, and stay
        tie_embedders_(model)
    fitted = plan_for(model, plan)
    kept = kept_by(model, fitted)
    return compress_(model, fitted, seed=seed, moments=moments), kept


def float32_names(model: nn.Module) -> tuple[str, ...]:
    """Return the parts of names that diffusers loads in float32, whatever dtype is asked for."""
    named: Any = getattr(model, "_keep_in_fp32_modules", None) or ()
    return (named,) if isinstance(named, str) else tuple(named)


def input_seam(model: nn.Module, name: str) -> int | None:
    """Return the column at which a second input begins, in a Linear fed with two side by side.

    The single-stream blocks of Flux and its kin hand attention's output and the hidden layer of
    their ``proj_mlp`` to one ``proj_out``. What its columns mean changes at the seam.
    """
    outer, _, leaf = name.rpartition(".")
    hidden = getattr(model.get_submodule(outer), "proj_mlp", None)
    linear = model.get_submodule(name)
    if leaf != "proj_out" or not isinstance(hidden, nn.Linear) or not isinstance(linear, nn.Linear):
        return None
    seam = linear.in_features - hidden.out_features
    return seam if seam > 0 else None


def _rest_dtype(model: nn.Module, plan: Plan) -> FloatName:
    if float32_names(model):
        return "float32"
    dtypes = {p.dtype for p in model.parameters() if p.is_floating_point()}
    return "float16" if dtypes == {torch.float16} else plan.rest_dtype


def _choice(plan: Plan, name: str, columns: int, seam: int | None) -> Choice:
    coding, reason = plan.coding_for(f"transformer_blocks.0.{kind_of(name)}")
    if coding is None:
        return reason
    together = _coded_together(coding)
    if columns < together:
        return f"{columns} inputs, fewer than the {together} that are coded together"
    if seam is None:
        return coding
    if seam % together:
        return f"two inputs meet at column {seam}, inside {together} that are coded together"
    return _split_at(coding, seam, columns)


def _coded_together(coding: Coding) -> int:
    codec = coding.codec
    return codec.group_size if isinstance(codec, ScalarCodec) else codec.d


def _split_at(coding: Coding, seam: int, columns: int) -> Coding:
    """Keep every codebook on its side of the column ``seam``, where a sub-vector begins."""
    codec = coding.codec
    if isinstance(codec, ScalarCodec) or codec.scope == "position":
        return coding
    before, behind = seam // codec.d, -(-(columns - seam) // codec.d)
    group = math.gcd(before, behind if codec.scope == "layer" else codec.group)
    # codebooks that are told apart by position cannot serve the whole model
    across = "kind" if codec.across == "model" else codec.across
    return replace(coding, codec=replace(codec, scope="group", group=group, across=across))


def _sharing_by_position(choices: dict[str, Choice]) -> Iterator[list[str]]:
    """Yield the layers that would share codebooks position by position, in model order."""
    found: dict[object, list[str]] = defaultdict(list)
    for name, choice in choices.items():
        if isinstance(choice, str) or not isinstance(choice.codec, CodebookCodec):
            continue
        codec = choice.codec
        if codec.scope != "layer" and codec.across != "layer":
            kind = kind_of(name) if codec.across == "kind" else ""
            found[split_block_name(name)[0], kind, choice].append(name)
    yield from found.values()


def _alone(choice: Choice) -> Choice:
    assert isinstance(choice, Coding) and isinstance(choice.codec, CodebookCodec)
    return replace(choice, codec=replace(choice.codec, across="layer"))


def _rule(name: str, choice: Choice) -> Rule:
    if isinstance(choice, str):
        return Rule(pattern=name, codec=None, reason=choice)
    return Rule(pattern=name, codec=choice.codec, pool=choice.pool)
