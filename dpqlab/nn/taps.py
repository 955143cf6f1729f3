"""Hooks that calibration and tracing share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from dpqlab.errors import ConfigError


@contextmanager
def block_outputs(
    model: nn.Module, blocks: Sequence[str | nn.Module] | None = None
) -> Iterator[list[Tensor]]:
    """Collect the output of each block, in the order in which the blocks run.

    Parameters
    ----------
    model
        The module that holds the blocks.
    blocks
        Blocks or their names; default: the ``transformer_blocks`` of ``model``.

    Yields
    ------
    list of Tensor
        Grows by one tensor a block at each forward pass of the model, with its graph if there is
        one; clear it between passes. Of a block that returns a tuple, the first element.

    Raises
    ------
    ConfigError
        If a block is not found.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4))
    >>> with block_outputs(model, ["0", "1"]) as outputs:
    ...     _ = model(model[0].weight.new_zeros(5, 2))
    >>> [tuple(output.shape) for output in outputs]
    [(5, 3), (5, 4)]
    """
    outputs: list[Tensor] = []

    def collect(module: nn.Module, args: Any, output: Any) -> None:
        outputs.append(output[0] if isinstance(output, tuple) else output)

    handles = [block.register_forward_hook(collect) for block in _find(model, blocks)]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def _find(model: nn.Module, blocks: Sequence[str | nn.Module] | None) -> list[nn.Module]:
    if blocks is None:
        found = getattr(model, "transformer_blocks", None)
        if found is None:
            raise ConfigError(
                f"{type(model).__name__} has no transformer_blocks: name the blocks to watch"
            )
        return list(found)
    modules = dict(model.named_modules(remove_duplicate=False))
    unknown = [block for block in blocks if isinstance(block, str) and block not in modules]
    if unknown:
        raise ConfigError(f"no module named {unknown[0]!r} in {type(model).__name__}")
    return [modules[block] if isinstance(block, str) else block for block in blocks]
