"""How many bytes of tensors are alive: an oracle for functions that promise to hold few."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode


class LiveBytes(TorchDispatchMode):
    """Counts the storages that operations make, until they are freed; ``peak`` is the most so far.

    What lies inside an operation and does not come out of it is not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.peak = 0
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if torch.is_tensor(leaf)]
        before = {tensor.untyped_storage()._cdata for tensor in given}
        result = func(*args, **(kwargs or {}))
        for leaf in pytree.tree_leaves(result):
            if torch.is_tensor(leaf) and leaf.device.type != "meta":
                storage = leaf.untyped_storage()
                # a view, or a tensor that was there before the count began, is nothing new
                if storage._cdata not in before and storage not in self._known:
                    self._add(storage)
        return result

    def _add(self, storage: Any) -> None:
        size = storage.nbytes()
        self._known.add(storage)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._remove, size)

    def _remove(self, size: int) -> None:
        self.now -= size


@contextmanager
def live_bytes() -> Iterator[LiveBytes]:
    """Count what is made in the block."""
    with LiveBytes() as count:
        yield count
