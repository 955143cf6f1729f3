"""The Linears of a model's blocks, without the model: to look at weights, nothing can be run."""

from __future__ import annotations

from torch import nn

from dpqlab.studies.layer_weights import BLOCKS, LayerWeights


def linears_of(weights: LayerWeights) -> nn.Module:
    """Read all matrices of the blocks, float32, under the names that they have in the model.

    Loading the model takes ten times as long, nearly all of it to import diffusers. Biases, the
    embedder and what lies outside the blocks are left out.

    Raises
    ------
    CheckpointError
        If a matrix cannot be read.
    """
    root = nn.Module()
    for block in range(weights.blocks):
        for kind in weights.kinds:
            weight = weights.weight(block, kind)
            rows, columns = weight.shape
            linear = nn.Linear(columns, rows, bias=False, device="meta")
            linear.weight = nn.Parameter(weight, requires_grad=False)
            _put(root, f"{BLOCKS}.{block}.{kind}", linear)
    return root


def _put(root: nn.Module, name: str, linear: nn.Linear) -> None:
    *path, last = name.split(".")
    node = root
    for part in path:
        if part not in node._modules:
            node.add_module(part, nn.Module())
        node = node.get_submodule(part)
    node.add_module(last, linear)
