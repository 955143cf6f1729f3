"""The blocks of a transformer, and what goes through them in one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from dpqlab.errors import ConfigError
from dpqlab.nn.accounting import block_lists


@dataclass(frozen=True, kw_only=True, eq=False)
class Call:
    """One call of a module: its arguments, and the tensors that it gave."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    tensors: tuple[Tensor, ...]


def blocks_of(model: nn.Module, names: Sequence[str] | None = None) -> dict[str, nn.Module]:
    """Return the blocks of a model by name, in the order of the model.

    Parameters
    ----------
    model
        A transformer.
    names
        Modules to take for its blocks; default: everything in its outermost ``nn.ModuleList``
        (one in a DiT; two in a model with two kinds of blocks).

    Raises
    ------
    ConfigError
        If there are none, or a name is unknown or given twice.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    if names is None:
        lists = [(name, modules[name]) for name in block_lists(model)]
        found = {
            f"{name}.{child}" if name else child: block
            for name, blocks in lists
            for child, block in blocks.named_children()
        }
        if not found:
            raise ConfigError(f"{type(model).__name__} has no list of blocks: name them in blocks")
        return found
    unknown = [name for name in names if name not in modules]
    if unknown:
        raise ConfigError(
            f"no module named {unknown[0]!r} in {type(model).__name__}: expected names of blocks, "
            f"such as {next(iter(blocks_of(model)), '')!r}"
        )
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"blocks are {list(names)}: expected one name or more, each once")
    return {name: modules[name] for name in names}


@contextmanager
def watched(modules: Mapping[str, nn.Module], see: Callable[[str, Call], None]) -> Iterator[None]:
    """Call ``see(name, call)`` after every call of the modules, until the block ends."""
    with ExitStack() as stack:
        for name, module in modules.items():
            stack.enter_context(_hook(name, module, see))
        yield


@contextmanager
def _hook(name: str, module: nn.Module, see: Callable[[str, Call], None]) -> Iterator[None]:
    def after(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        see(name, Call(args=args, kwargs=kwargs, tensors=tensors_of(output)))

    handle = module.register_forward_hook(after, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def calls_of(modules: Mapping[str, nn.Module]) -> Iterator[dict[str, Call]]:
    """Collect one call of each module; calling one twice is refused.

    What comes out refers to the tensors that went through, without a copy: for blocks in a row, the
    output of one is the input of the next.

    Raises
    ------
    ConfigError
        If a module runs a second time before the block ends.
    """
    calls: dict[str, Call] = {}

    def see(name: str, call: Call) -> None:
        if name in calls:
            raise ConfigError(
                f"{name or 'the model'} ran twice in one step: expected a sampler that calls the "
                "model once a step, all branches of guidance in one batch"
            )
        calls[name] = call

    with watched(modules, see):
        yield calls


def tensors_of(output: Any) -> tuple[Tensor, ...]:
    """Return the tensors that a block or a model gives, in order; what is no tensor is left out."""
    if isinstance(output, Tensor):
        return (output,)
    values = output.values() if isinstance(output, dict) else output
    if not isinstance(output, tuple | list | dict):
        raise ConfigError(
            f"a block gives {type(output).__name__}: expected a tensor, or several of them"
        )
    return tuple(value for value in values if isinstance(value, Tensor))
