"""A full-precision model that computes without its weights in memory.

Each Linear reads its weight from the files when it is called and gives it back when it is done, so
that what the model holds is its largest Linear, not all of them. A pass reads every file once (the
system keeps in its cache what fits there), which is slow beside a model in memory: for statistics,
which need few passes, not for drawing images by the thousand.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any, cast

import torch
from torch import nn

from dpqlab.checkpoint.dense import DenseFolder
from dpqlab.checkpoint.model_config import model_config_of, position_table
from dpqlab.nn.accounting import kept_tensors
from dpqlab.nn.packed import frozen


def lent_model(dense: DenseFolder, device: torch.device | str = "cpu") -> nn.Module:
    """Build the model of a folder, its Linears empty but while they run.

    What it computes is bit for bit what the model computes with all its weights in float32. Beside
    the activations of a pass it holds at most ::

        4 * (everything that is in no Linear)  +  (4 + b) * (the largest Linear)   bytes,

    where ``b`` is what a stored weight takes (2 in bf16, 4 in fp32): the stored tensor is there
    while it is converted. Of DiT-XL/2 in fp32 that is 1.2 M and 8.0 M weights, 68 MB in place of
    2.7 GB.

    Parameters
    ----------
    dense
        Where the weights are. The files must stay there as long as the model is used.
    device
        Where it computes.

    Returns
    -------
    nn.Module
        In evaluation mode. Its Linears are on the meta device between two calls: it can run, and
        nothing else; neither be saved nor moved.

    Raises
    ------
    CheckpointError
        If the files lack a tensor of the model, or hold one of another shape; later, when a pass
        cannot read one.
    """
    model = dense.skeleton()
    linears = _linears(model)
    lent = {f"{name}.{leaf}" for name, m in linears.items() for leaf, _ in m.named_parameters()}
    for name, _ in list(kept_tensors(model)):
        if name not in lent:
            owner, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(owner), leaf, frozen(dense.read(name, device)))
    table = position_table(model_config_of(model)).to(device)
    model.get_submodule("pos_embed").register_buffer("pos_embed", table, persistent=False)
    for name, linear in linears.items():
        empty = {leaf: frozen(value) for leaf, value in linear.named_parameters()}
        linear.register_forward_pre_hook(partial(_fill_, dense, name, torch.device(device)))
        # also when the call fails: a pass may be left on purpose
        linear.register_forward_hook(partial(_empty_, empty), always_call=True)
    return model.eval()


def _linears(model: nn.Module) -> dict[str, nn.Linear]:
    found: dict[str, nn.Linear] = {}
    # torch leaves the names untyped
    for name, module in cast("Iterable[tuple[str, nn.Module]]", model.named_modules()):
        if isinstance(module, nn.Linear):
            found[name] = module
    return found


def _fill_(dense: DenseFolder, name: str, device: torch.device, linear: nn.Module, _: Any) -> None:
    for leaf in [leaf for leaf, _ in linear.named_parameters()]:
        setattr(linear, leaf, frozen(dense.read(f"{name}.{leaf}", device)))


def _empty_(empty: dict[str, nn.Parameter], linear: nn.Module, _: Any, output: Any) -> None:
    for leaf, parameter in empty.items():
        setattr(linear, leaf, parameter)
