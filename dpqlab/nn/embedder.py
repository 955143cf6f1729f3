"""Tied embedders: one timestep and label embedder for all blocks, as in the original DiT.

diffusers' DiT gives every block a copy of its own, ``transformer_blocks[i].norm1.emb``. Copies that
are equal can be one module: nothing changes but the memory.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from typing import Any

import torch
from torch import nn

from dpqlab.errors import ConfigError

EMBEDDER = "norm1.emb"


def is_embedder(name: str) -> bool:
    """Say whether a module or parameter name lies in a block's embedder (``*.norm1.emb.*``)."""
    return f".{EMBEDDER}." in f".{name}."


def tied_groups(model: nn.Module) -> list[tuple[str, ...]]:
    """Find the modules that are one object under several names.

    Returns
    -------
    list of tuples of names
        One tuple a shared module, its names in model order. What lies inside of a shared module is
        not listed again, nor are modules without parameters (one activation used twice, say).
    """
    names: dict[int, list[str]] = defaultdict(list)
    for name, module in model.named_modules(remove_duplicate=False):
        if any(True for _ in module.parameters()):
            names[id(module)].append(name)
    groups: list[tuple[str, ...]] = []
    covered: set[str] = set()
    for group in names.values():
        if len(group) > 1 and not all(_lies_in(name, covered) for name in group):
            groups.append(tuple(group))
            covered.update(group)
    return groups


def tie_embedders_(model: nn.Module) -> int:
    """Make all blocks use the first block's embedder; return how many copies went away.

    Raises
    ------
    ConfigError
        If the copies differ: then they are not copies, and tying them would change the model.
    """
    blocks = _blocks_with_embedder(model)
    copies = [block for block in blocks if block.norm1.emb is not blocks[0].norm1.emb]
    for index, block in enumerate(copies):
        if not _same_state(blocks[0].norm1.emb, block.norm1.emb):
            raise ConfigError(
                f"the embedder of copy {index + 1} differs from the first block's: only equal "
                "embedders can be tied; keep them apart, or train them tied"
            )
    for block in copies:
        block.norm1.emb = blocks[0].norm1.emb
    return len(copies)


def untie_embedders_(model: nn.Module) -> int:
    """Give every block a copy of the shared embedder; return how many were made."""
    seen: set[int] = set()
    made = 0
    for block in _blocks_with_embedder(model):
        if id(block.norm1.emb) in seen:
            block.norm1.emb = copy.deepcopy(block.norm1.emb)
            made += 1
        seen.add(id(block.norm1.emb))
    return made


def _blocks_with_embedder(model: nn.Module) -> list[Any]:
    blocks: Any = getattr(model, "transformer_blocks", ())
    return [
        block for block in blocks if getattr(getattr(block, "norm1", None), "emb", None) is not None
    ]


def _same_state(first: nn.Module, other: nn.Module) -> bool:
    a, b = first.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(
        a[key].dtype == b[key].dtype and torch.equal(a[key], b[key]) for key in a
    )


def _lies_in(name: str, parents: set[str]) -> bool:
    parts = name.split(".")
    return any(".".join(parts[:length]) in parents for length in range(1, len(parts)))
