"""Find the layers that a plan compresses, and refuse what cannot work before anything changes."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dpqlab.core import CodebookCodec, Codec, PoolConfig
from dpqlab.errors import ConfigError
from dpqlab.nn.accounting import kept_tensors
from dpqlab.nn.linear import PackedLinear
from dpqlab.nn.plan import FLOAT_DTYPES, Plan, kind_of, split_block_name

Moments = Mapping[str, Tensor]
"""Column moments of some layers, by layer name: (in,), the mean square of every input feature on
calibration activations."""


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A Linear that was kept, and why."""

    name: str
    shape: tuple[int, int]
    reason: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Target:
    """A Linear to compress, with all its names, and the pool that it uses.

    Attributes
    ----------
    codec, pool
        What the plan says.
    pool_key
        Names the codebooks that it is fitted with, and seeds them.
    """

    names: tuple[str, ...]
    linear: nn.Linear
    codec: Codec
    pool: PoolConfig | None = None
    pool_key: str

    @property
    def name(self) -> str:
        """The first name."""
        return self.names[0]

    @property
    def group(self) -> tuple[str, PoolConfig | None]:
        """What the layers have in common that share one pool."""
        return self.pool_key, self.pool


def skipped_layers(model: nn.Module, plan: Plan) -> tuple[Skipped, ...]:
    """List the Linears that ``plan`` keeps, with the reason; a tied layer under its first name."""
    skipped: list[Skipped] = []
    for names, linear in _linears(model):
        codec, reason = plan.codec_for(names[0], type(linear))
        if codec is None:
            shape = (linear.out_features, linear.in_features)
            skipped.append(Skipped(name=names[0], shape=shape, reason=reason))
    return tuple(skipped)


def targets_of(model: nn.Module, plan: Plan) -> list[Target]:
    """List the Linears that ``plan`` compresses, in model order, each once."""
    targets: list[Target] = []
    for names, linear in _linears(model):
        coding, _ = plan.coding_for(names[0], type(linear))
        if coding is not None:
            codec, key = coding.codec, _pool_key(names[0], coding.codec)
            targets.append(
                Target(names=names, linear=linear, codec=codec, pool=coding.pool, pool_key=key)
            )
    return targets


def validate(model: nn.Module, plan: Plan, targets: list[Target], moments: Moments) -> None:
    """Raise :class:`ConfigError` for anything that would stop the surgery half way."""
    validate_structure(model, plan, targets, moments)
    for target in targets:
        for leaf, tensor in target.linear.named_parameters():
            validate_values(f"{target.name}.{leaf}", tensor, stored_dtype(leaf, plan))
    compressed = {id(p) for target in targets for p in target.linear.parameters()}
    for name, tensor in kept_tensors(model):
        if id(tensor) not in compressed and tensor.is_floating_point():
            validate_values(name, tensor, plan.rest_dtype)


def validate_structure(
    model: nn.Module, plan: Plan, targets: list[Target], moments: Moments
) -> None:
    """Raise :class:`ConfigError` for what does not depend on the values of the weights."""
    packed = [name for name, module in model.named_modules() if isinstance(module, PackedLinear)]
    if packed:
        raise ConfigError(f"{packed[0]} is compressed already: start from the full-precision model")
    if not targets:
        raise ConfigError(
            f"plan {plan.name!r} matches no nn.Linear of {type(model).__name__}: check its patterns"
        )
    _validate_sharing(model, targets)
    validate_shapes(targets)
    for target in targets:
        _validate_layer(target)
    _validate_moments(model, plan, targets, moments)


def validate_shapes(targets: list[Target]) -> None:
    """Raise :class:`ConfigError` for a codec that does not fit a layer's shape; needs no values."""
    for target in targets:
        linear, codec = target.linear, target.codec
        size = codec.d if isinstance(codec, CodebookCodec) else codec.group_size
        if size > linear.in_features:
            raise ConfigError(
                f"{target.name} has {linear.in_features} inputs, fewer than the {size} values that "
                f"{codec.describe()} codes together: keep the layer, or use a smaller codec for it"
            )
    _validate_pools(targets)


def _validate_layer(target: Target) -> None:
    linear = target.linear
    if "" in target.names:
        raise ConfigError(
            "the model is itself a Linear, which cannot be replaced: wrap it in a module"
        )
    held = [n for n, _ in (*linear.named_parameters(), *linear.named_buffers())]
    if extra := sorted(set(held) - {"weight", "bias"}):
        raise ConfigError(
            f"{target.name}, a {type(linear).__name__}, has {extra[0]!r} besides weight and bias, "
            "which would be lost: keep the layer"
        )
    if not linear.weight.is_floating_point() or 0 in linear.weight.shape:
        raise ConfigError(
            f"{target.name} has a weight of {linear.weight.dtype}, shape "
            f"{tuple(linear.weight.shape)}: expected floats, at least one"
        )


def stored_dtype(leaf: str, plan: Plan) -> str:
    """Return the dtype that the values of a target's ``weight`` or ``bias`` must fit into."""
    # codewords and scales are float16, whatever the dtype of the weight
    return "float16" if leaf == "weight" else plan.bias_dtype


def validate_values(name: str, tensor: Tensor, stored: str) -> None:
    """Raise :class:`ConfigError` for values that are not finite in the dtype ``stored``."""
    if tensor.is_meta:
        raise ConfigError(f"{name} is on the meta device: load the weights first")
    largest = float(tensor.detach().abs().max()) if tensor.numel() else 0.0
    if not largest <= torch.finfo(FLOAT_DTYPES[stored]).max:
        raise ConfigError(
            f"{name} holds a value of magnitude {largest}, which {stored} cannot store: expected "
            f"finite values up to {torch.finfo(FLOAT_DTYPES[stored]).max:.6g}"
        )


def _validate_sharing(model: nn.Module, targets: list[Target]) -> None:
    """Refuse parameters that a target shares with another module: compressing would split them."""
    users = Counter(id(p) for module in model.modules() for p in module.parameters(recurse=False))
    for target in targets:
        if any(users[id(p)] > 1 for p in target.linear.parameters()):
            raise ConfigError(
                f"{target.name} shares a parameter with another module: keep it, or tie the modules"
            )
        if target.linear._forward_hooks or target.linear._forward_pre_hooks:
            raise ConfigError(f"{target.name} has hooks, which would be lost: remove them first")


def _validate_pools(targets: list[Target]) -> None:
    """Refuse layers that share codebooks position by position but differ in their positions."""
    first: dict[tuple[str, PoolConfig | None], Target] = {}
    for target in targets:
        other = first.setdefault(target.group, target)
        columns, expected = target.linear.in_features, other.linear.in_features
        by_position = isinstance(target.codec, CodebookCodec) and target.codec.scope != "layer"
        if by_position and columns != expected:
            raise ConfigError(
                f"{target.name} has {columns} inputs and {other.name} {expected}, but "
                f"{target.codec.describe()} gives them the same codebooks position by position: "
                "use scope 'layer', or across 'layer'"
            )


def _validate_moments(
    model: nn.Module, plan: Plan, targets: list[Target], moments: Moments
) -> None:
    linears = {names[0]: linear for names, linear in _linears(model)}
    for name, values in moments.items():
        if name not in linears:
            raise ConfigError(
                f"moments for {name!r}, which is no Linear of the model: expected the names of "
                "model.named_modules()"
            )
        shape = (linears[name].in_features,)
        if tuple(values.shape) != shape or not values.is_floating_point():
            raise ConfigError(
                f"moments of {name} are {values.dtype} of shape {tuple(values.shape)}: expected "
                f"floats of shape {shape}, one for each input feature"
            )
        if not bool((torch.isfinite(values) & (values >= 0)).all()):
            raise ConfigError(
                f"moments of {name} hold negative or non-finite values: expected mean squares"
            )
    members: dict[tuple[str, PoolConfig | None], set[bool]] = defaultdict(set)
    for target in targets:
        members[target.group].add(target.name in moments)
        wanted = plan.weighted and isinstance(target.codec, CodebookCodec)
        if wanted and target.name not in moments:
            raise ConfigError(
                f"plan {plan.name!r} weights k-means by column moments, but there are none for "
                f"{target.name}: give moments for every layer, or use weighted=False"
            )
    mixed = [key for (key, _), given in members.items() if len(given) > 1]
    if mixed:
        raise ConfigError(
            f"moments for only some of the layers that share the pool {mixed[0]!r}: give them for "
            "all or none"
        )


def _linears(model: nn.Module) -> Iterator[tuple[tuple[str, ...], nn.Linear]]:
    """Yield every Linear once, with all the names that it has (tied modules have several)."""
    names: dict[nn.Linear, list[str]] = defaultdict(list)
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, nn.Linear):
            names[module].append(name)
    for linear, found in names.items():
        yield tuple(found), linear


def _pool_key(name: str, codec: Codec) -> str:
    """Name the codebooks of a layer: its own, its kind's, or its codec's in one list of blocks."""
    if not isinstance(codec, CodebookCodec) or codec.across == "layer":
        return name
    outer, _ = split_block_name(name)
    return f"{outer}:{kind_of(name) if codec.across == 'kind' else ''}:{codec}"
