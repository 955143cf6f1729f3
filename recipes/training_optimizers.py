"""What takes the steps of a training."""

from __future__ import annotations

import torch
from torch import nn

OPTIMIZERS = ("adamw", "muon")


def optimizers_of(
    model: nn.Module,
    kind: str,
    *,
    learning_rate: float,
    betas: tuple[float, float],
    weight_decay: float,
) -> list[torch.optim.Optimizer]:
    """Return AdamW; or, for ``kind`` "muon", AdamW and beside it Muon.

    Muon has the matrices that work on tokens, of attention and feed-forward layers: it moves all
    directions of a matrix alike, so that those with small gradients learn too. Its steps are made
    as large as AdamW's, so that one learning rate serves both.

    Raises
    ------
    ValueError
        If there is no such optimizer.
    """
    if kind not in OPTIMIZERS:
        raise ValueError(f"optimizer is {kind!r}, not one of {', '.join(OPTIMIZERS)}")
    hidden: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        on_tokens = parameter.ndim == 2 and (".attn1." in name or ".ff." in name)
        (hidden if kind == "muon" and on_tokens else rest).append(parameter)
    found: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(
            rest,
            lr=learning_rate,
            betas=betas,
            weight_decay=weight_decay,
            fused=rest[0].device.type == "cuda",
        )
    ]
    if hidden:
        found.append(
            torch.optim.Muon(
                hidden,
                lr=learning_rate,
                weight_decay=weight_decay,
                adjust_lr_fn="match_rms_adamw",
            )
        )
    return found
