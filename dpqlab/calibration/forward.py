"""Run a DiT as calibration needs it: with other parameters than its own, block outputs kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from dpqlab.calibration.batch import Batch
from dpqlab.kernels.caches import keep_compilers_private
from dpqlab.nn.taps import block_outputs


def predict(
    model: nn.Module, batch: Batch, masters: Mapping[str, Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """Run a DiT and return its predicted noise and the outputs of its blocks.

    ``masters`` stand in for the parameters of their names; empty for a teacher.
    """
    inputs = {"timestep": batch.timesteps, "class_labels": batch.labels}
    with block_outputs(model) as blocks:
        out: Any = functional_call(model, dict(masters), (batch.noisy,), inputs)
    return out.sample, blocks


def mixed_precision(device: torch.device) -> AbstractContextManager[Any]:
    """Compute in bfloat16 inside, where the device is a GPU."""
    # weights change between steps, so a cache of their casts would go stale
    on_gpu = device.type == "cuda"
    return torch.autocast("cuda", torch.bfloat16, cache_enabled=False) if on_gpu else nullcontext()


@contextmanager
def compiled_blocks(*models: nn.Module) -> Iterator[None]:
    """Run the blocks of DiTs through torch.compile inside; all blocks share the compiled code.

    Elementwise work between the matrix products is fused, and so are decoding a weight and the
    sum of its gradient over equal codes.
    """
    keep_compilers_private()
    dits: tuple[Any, ...] = models
    blocks: list[Any] = [block for dit in dits for block in dit.transformer_blocks]
    config: Any = torch._dynamo.config
    # a kind of block, a dtype, and with gradients or without: more than the default of 8
    with config.patch(recompile_limit=64, accumulated_recompile_limit=1024):
        try:
            for block in blocks:
                block.forward = torch.compile(block.forward, dynamic=False)
            yield
        finally:
            for block in blocks:
                vars(block).pop("forward", None)
