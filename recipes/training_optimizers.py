"""What takes the steps of a training."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn

OPTIMIZERS = ("adamw", "muon")


class StackedMuon(torch.optim.Muon):
    """PyTorch's Muon, with all matrices of one shape in one go.

    PyTorch takes them one after the other: for the 48 of a teacher some 1,500 kernels a step, and
    a GPU waits for the CPU that starts them (44 ms a step on an H200, where AdamW takes 29).
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """Take a step; ``closure`` is not supported."""
        if closure is not None:
            raise ValueError("a closure is not supported")
        for group in self.param_groups:
            alike: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    alike[parameter.shape].append(parameter)
            for parameters in alike.values():
                self._step_alike(parameters, group)

    def _step_alike(self, parameters: list[nn.Parameter], group: dict[str, Any]) -> None:
        momentum, rate = group["momentum"], float(group["lr"])
        gradients = [p.grad for p in parameters if p.grad is not None]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if parameter not in self.state:
                self.state[parameter] = {"momentum_buffer": torch.zeros_like(gradient)}
        kept = [self.state[p]["momentum_buffer"] for p in parameters]
        torch._foreach_lerp_(kept, gradients, 1 - momentum)
        ahead = torch._foreach_lerp(gradients, kept, momentum)
        update = orthogonal(torch.stack(ahead), group["ns_coefficients"], group["ns_steps"])
        # as far as AdamW would go (arXiv 2502.16982)
        reach = 0.2 * rate * math.sqrt(max(parameters[0].shape))
        torch._foreach_mul_(parameters, 1 - rate * group["weight_decay"])
        torch._foreach_add_(parameters, list(update.to(kept[0].dtype).unbind()), alpha=-reach)


def orthogonal(
    matrices: Tensor, coefficients: tuple[float, float, float], steps: int, least: float = 1e-7
) -> Tensor:
    """Return the matrices (N, A, B) with all singular values near one, in bfloat16.

    By Newton and Schulz's iteration of the fifth order, as ``torch.optim.Muon`` does it.
    """
    a, b, c = coefficients
    x = matrices.bfloat16()
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.mT
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=least)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


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
            StackedMuon(
                hidden,
                lr=learning_rate,
                weight_decay=weight_decay,
                adjust_lr_fn="match_rms_adamw",
            )
        )
    return found
