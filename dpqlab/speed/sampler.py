"""The rows of the sampler suite: a whole guided step of DiT-XL/2, ours and diffusers'."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from dpqlab.diffusion.runtime import DiTRuntime, RuntimeConfig, prepare_runtime
from dpqlab.kernels.caches import keep_compilers_private
from dpqlab.speed.timing import Timing, Work, peak_details, time_together

EAGER, COMPILED = "diffusers, eager", "diffusers, torch.compile"
GUIDANCE = 4.0
STEP = 500  # any timestep costs the same


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One way to run the model.

    Attributes
    ----------
    name
        What the rows call it.
    model
        Called as diffusers' DiT is.
    plain
        The model whose output it should equal; None for the plain model itself.
    bytes
        What it holds on the device, by part.
    """

    name: str
    model: Any
    plain: Any = None
    bytes: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class StepRow:
    """A guided step of one contender, for some number of images.

    Attributes
    ----------
    images
        Drawn at once; the model sees twice as many.
    name, bytes
        Of the contender.
    timing
        Seconds a step.
    peak_bytes
        Most that was allocated on the device while all were timed in turns, with everything that
        was there; None on a CPU.
    error
        Relative distance of what it predicts from what the plain model does.
    """

    images: int
    name: str
    timing: Timing
    bytes: dict[str, int]
    error: float | None
    peak_bytes: int | None = None

    @property
    def weight_bytes(self) -> int:
        """What the model holds, but for modulations made ahead and the buffers of graphs."""
        return sum(n for part, n in self.bytes.items() if part not in ("modulation", "graphs"))


def guided_step(model: Any, images: int, device: str) -> Work:
    """Return one step of sampling as a function of nothing: model, guidance, DDIM's update."""
    config = model.config
    dtype = next(p.dtype for p in model.parameters() if p.is_floating_point())
    shape = (images, config.in_channels, config.sample_size, config.sample_size)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(device)
    # a runtime looks at conditions on the host; a module wants them where its weights are
    where = "cpu" if isinstance(model, DiTRuntime) else device
    classes = torch.arange(images) % config.num_embeds_ada_norm
    labels = torch.cat([classes, torch.full_like(classes, config.num_embeds_ada_norm)]).to(where)
    times = torch.full((2 * images,), STEP, device=where)
    if isinstance(model, DiTRuntime):
        model.expect([STEP], labels.tolist())

    def step() -> Tensor:
        both = torch.cat([x, x]).to(dtype)
        out = model(both, timestep=times, class_labels=labels).sample
        with_class, without = out[:, : config.in_channels].float().chunk(2)
        noise = without + GUIDANCE * (with_class - without)
        clean = (x - 0.6 * noise) / 0.8
        return 0.81 * clean + 0.59 * noise

    return step


def eager_contender(model: Any) -> Contender:
    """Return diffusers' model as it is."""
    return Contender(name=EAGER, model=model, bytes=_dense_bytes(model))


def plain_contenders(model: Any) -> tuple[Contender, Contender]:
    """Return diffusers' model as it is, and compiled with CUDA graphs, as people do for speed."""
    keep_compilers_private()
    faster: Any = torch.compile(model, mode="reduce-overhead", fullgraph=True)
    compiled = Contender(name=COMPILED, model=faster, plain=model, bytes=_dense_bytes(model))
    return eager_contender(model), compiled


def runtime_contenders(name: str, model: nn.Module) -> tuple[Contender, Contender]:
    """Return our runtime with modulations made ahead, and made in every step."""
    ahead, each = (
        prepare_runtime(model, RuntimeConfig(modulation=m)) for m in ("ahead", "per step")
    )
    return (
        Contender(name=f"{name}, modulation ahead", model=ahead, plain=model),
        Contender(name=f"{name}, modulation per step", model=each, plain=model),
    )


@torch.no_grad()
def step_rows(
    contenders: Sequence[Contender],
    images: int,
    device: str = "cuda",
    *,
    rounds: int | None = None,
) -> Iterator[StepRow]:
    """Time a guided step of some contenders in turns.

    Parameters
    ----------
    contenders
        All of them, ready.
    images
        How many are drawn at once.
    device
        Where the models are: ``"cpu"`` or ``"cuda"``.
    rounds
        In which each has its turn; default: what suits the device.
    """
    works = {c.name: guided_step(c.model, images, device) for c in contenders}
    errors = {c.name: _error(c, works[c.name], images, device) for c in contenders}
    usual, passes = (15, 10) if device == "cuda" else (9, 2)
    times = time_together(works, device=device, rounds=rounds or usual, passes=passes)
    peak = peak_details(device).get("peak_bytes")
    for c in contenders:
        held = c.model.weight_bytes if isinstance(c.model, DiTRuntime) else None
        yield StepRow(
            images=images,
            name=c.name,
            timing=times[c.name],
            bytes=c.bytes if held is None else asdict(held),
            error=errors[c.name],
            peak_bytes=peak,
        )


def _error(contender: Contender, work: Work, images: int, device: str) -> float | None:
    if contender.plain is None:
        return None
    expected: Any = guided_step(contender.plain, images, device)()
    found: Any = work()
    return float((found - expected).norm() / expected.norm())


def _dense_bytes(model: nn.Module) -> dict[str, int]:
    return {"dense": sum(parameter.nbytes for parameter in model.parameters())}
