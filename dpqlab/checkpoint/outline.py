"""What a config asks for, by name and shape, before a model is built from it.

The blocks of a DiT are alike. One is built, on the meta device; the others follow from its names.
So a config of many blocks costs little more to refuse than one of a single block.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import TypeVar

from torch import nn

from dpqlab.checkpoint.documents import Json
from dpqlab.checkpoint.model_config import build_skeleton
from dpqlab.checkpoint.schema import STORED_DTYPES, QuantizationConfig, TensorSpec
from dpqlab.errors import CheckpointError
from dpqlab.nn.accounting import kept_tensors, modules_of

_FIRST = "transformer_blocks.0."
_Found = TypeVar("_Found")


@dataclass(frozen=True, kw_only=True)
class Outline:
    """Names and shapes of a dense model.

    Attributes
    ----------
    tensors
        The shape of everything that is stored of it.
    linears
        (out, in) of each Linear, and whether it has a bias.
    """

    tensors: Mapping[str, tuple[int, ...]]
    linears: Mapping[str, tuple[tuple[int, int], bool]]


def outline_of(config: Mapping[str, Json]) -> Outline:
    """Return the outline of the DiT of a checked config, nothing tied.

    Raises
    ------
    CheckpointError
        If diffusers refuses the config, or is not installed.
    """
    one = _of_one_block(tuple(sorted({**config, "num_layers": 1}.items())))
    count = config["num_layers"]
    return Outline(tensors=_repeated(one.tensors, count), linears=_repeated(one.linears, count))


def outline_of_model(model: nn.Module) -> Outline:
    """Return the outline of a dense model, whatever its class, as it is: what is tied is tied."""
    linears = {
        name: ((module.out_features, module.in_features), getattr(module, "bias", None) is not None)
        for name, module in modules_of(model).items()
        if type(module) is nn.Linear
    }
    tensors = {name: tuple(tensor.shape) for name, tensor in kept_tensors(model)}
    return Outline(tensors=tensors, linears=linears)


def expected_tensors(outline: Outline, config: QuantizationConfig) -> dict[str, TensorSpec]:
    """Return the tensors that a folder must hold, given what its model is made of.

    Raises
    ------
    CheckpointError
        If a compressed layer is no Linear of the model, or has another shape or bias; if tied
        modules are not there, or not in the order of the model.
    """
    _check_tied(outline, config)
    copies = {name for _, others in config.tied for name in others}
    compressed: set[str] = set()
    for name, entry in config.layers.items():
        if name not in outline.linears or _lies_in(name, copies):
            raise CheckpointError(
                f"the config compresses {name!r}, which is no Linear of the model"
            )
        shape, has_bias = outline.linears[name]
        if shape != entry.shape or has_bias != entry.bias:
            raise CheckpointError(
                f"layer {name!r} has shape {entry.shape}, bias {entry.bias}: the model's has "
                f"{shape}, bias {has_bias}"
            )
        compressed |= {f"{name}.weight", f"{name}.bias"}
    dtype = STORED_DTYPES[config.rest_dtype]
    kept = {
        name: TensorSpec(dtype=dtype, shape=shape)
        for name, shape in outline.tensors.items()
        if name not in compressed and not _lies_in(name, copies)
    }
    return kept | dict(config.tensors())


def _check_tied(outline: Outline, config: QuantizationConfig) -> None:
    """Check tied modules by what lies in them; their classes are compared once there is a model."""
    if not config.tied:
        return
    inside: dict[str, list[tuple[str, tuple[int, ...]]]] = {}
    place: dict[str, int] = {}
    for index, (name, shape) in enumerate(outline.tensors.items()):
        for outer in accumulate(name.split("."), _dotted):
            place.setdefault(outer, index)
            inside.setdefault(outer, []).append((name[len(outer) :], shape))
    for first, others in config.tied:
        for name in (first, *others):
            if name not in place:
                raise CheckpointError(f"the config ties {name!r}, which the model does not have")
            if inside[name] != inside[first]:
                raise CheckpointError(
                    f"the config ties {first!r} and {name!r}, which differ in kind"
                )
        if any(place[a] >= place[b] for a, b in pairwise((first, *others))):
            raise CheckpointError(
                "the config ties modules that lie in each other, or in another order"
            )


def _lies_in(name: str, modules: AbstractSet[str]) -> bool:
    """Say whether a name is one of ``modules`` or lies in one; as fast for 100,000 as for one."""
    return bool(modules) and any(outer in modules for outer in accumulate(name.split("."), _dotted))


def _dotted(outer: str, inner: str) -> str:
    return f"{outer}.{inner}"


@lru_cache(maxsize=8)
def _of_one_block(config: tuple[tuple[str, Json], ...]) -> Outline:
    return outline_of_model(build_skeleton(dict(config)))


def _repeated(found: Mapping[str, _Found], count: int) -> dict[str, _Found]:
    """Return what was found of one block for ``count`` blocks."""
    everything: dict[str, _Found] = {}
    for name, value in found.items():
        if name.startswith(_FIRST):
            rest = name.removeprefix(_FIRST)
            everything |= {f"transformer_blocks.{i}.{rest}": value for i in range(count)}
        else:
            everything[name] = value
    return everything
