"""What ``dpqlab bench`` measures, cut into pieces that each give results of their own."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, Literal, get_args

import torch

from dpqlab.diffusion.dit import DIT_XL_2
from dpqlab.diffusion.models import load_pipeline
from dpqlab.errors import ConfigError
from dpqlab.nn.presets import presets as known_presets
from dpqlab.speed import cpu, kernels, kmeans
from dpqlab.speed.models import code_randomly_, coded_like, random_dit
from dpqlab.speed.rows import Result, speed_results, step_results
from dpqlab.speed.sampler import (
    EAGER,
    Contender,
    eager_contender,
    plain_contenders,
    runtime_contenders,
    step_rows,
)
from dpqlab.speed.timing import measure_ceilings
from dpqlab.speed.workloads import LayerKind, codec_of

Suite = Literal["kernels", "sampler", "kmeans"]
CPU_MODEL = "fashion-dit"
CPU_PRESETS = ("vq-2bit", "dpq-2bit", "best-2bit", "vq-1bit", "dpq-1bit", "best-1bit")
QUICK_PRESETS = ("dpq-1bit", "best-1bit")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure on.

    Parameters
    ----------
    device
        ``"cpu"`` or ``"cuda"``.
    presets
        Whose codecs; empty: all that the device's suite has.
    model
        Full-precision model; None: the bundled one on a CPU, DiT-XL/2 with random weights on a GPU.
    images
        How many are drawn at once, for the sampler; empty: what suits the device.
    quick
        Fewer presets, rounds and layers.

    Raises
    ------
    ConfigError
        If a preset is unknown or has no codebooks, or a number of images is below 1.
    """

    device: str = "cpu"
    presets: tuple[str, ...] = ()
    model: str | None = None
    images: tuple[int, ...] = ()
    quick: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be measured."""
        for name in self.presets:
            if name not in known_presets():
                raise ConfigError(
                    f"no preset {name!r}: expected some of {', '.join(known_presets())}"
                )
            codec_of(name, LayerKind(name="attn1.to_q", shape=(64, 64), blocks=1))
        if any(count < 1 for count in self.images):
            raise ConfigError(f"images are {self.images}: expected 1 or more at once")

    @property
    def gpu(self) -> bool:
        """Whether it is about a GPU."""
        return self.device == "cuda"

    def chosen(self) -> tuple[str, ...]:
        """Return the presets to measure."""
        usual = QUICK_PRESETS if self.quick else kernels.PRESETS if self.gpu else CPU_PRESETS
        return self.presets or usual


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A part of a suite: its title, about how long it takes beside others, and how to do it."""

    title: str
    share: float
    run: Callable[[], list[Result]]


def pieces_of(suite: Suite, options: Options) -> tuple[Piece, ...]:
    """Return the pieces of a suite, in order.

    Raises
    ------
    ConfigError
        If there is no such suite.
    """
    if suite == "kernels":
        return _gpu_kernels(options) if options.gpu else _cpu_kernels(options)
    if suite == "sampler":
        return _sampler(options)
    if suite == "kmeans":
        return _kmeans(options)
    raise ConfigError(f"no suite {suite!r}: expected one of {', '.join(get_args(Suite))}")


def _cpu_kernels(options: Options) -> tuple[Piece, ...]:
    ceilings, names = cache(lambda: measure_ceilings("cpu")), options.chosen()
    title = options.model or CPU_MODEL
    model: Any = load_pipeline(title).transformer
    rounds = 5 if options.quick else 15

    def run(workload: cpu.CpuWorkload) -> list[Result]:
        return speed_results(cpu.cpu_rows(workload, names, ceilings(), rounds=rounds))

    workloads = cpu.cpu_workloads(model, title_of(title))
    # the last one has twice the work of all others
    shares = [1.0] * (len(workloads) - 1) + [8.0]
    return tuple(
        Piece(title=workload.name, share=share, run=partial(run, workload))
        for workload, share in zip(workloads, shares, strict=True)
        if not (options.quick and share > 1)
    )


def _gpu_kernels(options: Options) -> tuple[Piece, ...]:
    ceilings, names = cache(lambda: measure_ceilings("cuda")), options.chosen()

    def modulation() -> list[Result]:
        return _freed(speed_results(list(kernels.modulation_rows(ceilings(), presets=names))))

    def tokens(rows: int) -> list[Result]:
        return _freed(speed_results(list(kernels.token_rows(ceilings(), rows, presets=names))))

    counts = kernels.TOKEN_ROWS[:2] if options.quick else kernels.TOKEN_ROWS
    return (
        Piece(title="modulation layers of DiT-XL/2", share=1, run=modulation),
        *(
            Piece(title=f"token layers, M={rows}", share=1, run=partial(tokens, rows))
            for rows in counts
        ),
    )


def _sampler(options: Options) -> tuple[Piece, ...]:
    """Dense contenders first; then those of one preset after the other, beside the dense ones."""
    title, make = _models(options)
    dense = cache(partial(_dense_contenders, make, options))
    images = options.images or ((1, 8) if options.gpu and not options.quick else (1,))
    rounds = 3 if options.quick else None

    def run(preset: str | None) -> list[Result]:
        contenders = dense()
        if preset is not None:
            # all of them take their turns again, but are shown once
            rivals = [c for c in contenders if c.name != EAGER or not options.gpu]
            contenders = (*rivals, *runtime_contenders(preset, make()[1](preset)))
        results = [
            result
            for count in images
            for result in step_results(
                list(step_rows(contenders, count, options.device, rounds=rounds)), title
            )
            if preset is None or result.way.startswith(f"{preset},")
        ]
        return _freed(results)

    return (
        Piece(title="dense weights", share=3, run=partial(run, None)),
        *(Piece(title=name, share=2, run=partial(run, name)) for name in options.chosen()),
    )


def _models(
    options: Options,
) -> tuple[str, Callable[[], tuple[Any, Callable[[str], Any]]]]:
    """Return what the rows call the model, and what makes it and its coded forms."""
    dtype = torch.bfloat16 if options.gpu else torch.float32
    if options.gpu and options.model is None:

        def random_coded(preset: str) -> Any:
            model = random_dit(DIT_XL_2, device="cuda", dtype=dtype)
            code_randomly_(model, preset)
            return model

        return "DiT-XL/2", cache(
            lambda: (random_dit(DIT_XL_2, device="cuda", dtype=dtype), random_coded)
        )
    name = options.model or CPU_MODEL
    title = title_of(name)

    def stored() -> tuple[Any, Callable[[str], Any]]:
        model: Any = load_pipeline(name, device=options.device).transformer
        model = model.to(dtype).requires_grad_(False)
        return model, coded_like(model, title)

    return title, cache(stored)


def _dense_contenders(make: Callable[[], Any], options: Options) -> tuple[Contender, ...]:
    model: Any = make()[0]
    plain = plain_contenders(model) if options.gpu else (eager_contender(model),)
    return (*plain, *runtime_contenders("dense", model))


def _kmeans(options: Options) -> tuple[Piece, ...]:
    usual = kmeans.KMeansSetting(threads=torch.get_num_threads(), repeats=1)
    setting = replace(usual, width=512, k=128, iterations=10) if options.quick else usual
    seen: dict[str, kmeans.KMeansRow] = {}

    def run(way: str) -> list[Result]:
        fast = replace(setting, repeats=3) if way == "dpqlab, numba" else setting
        row = seen[way] = kmeans.kmeans_row(way, fast)
        reference = seen[kmeans.REFERENCE].timing.median
        return [
            Result(
                work=setting.title + ", CPU time",
                way=way,
                timing=row.timing,
                ratios={kmeans.REFERENCE: reference / row.timing.median},
                error=row.error,
                details={"iterations": setting.iterations},
            )
        ]

    seconds = {kmeans.REFERENCE: 10.0, "dpqlab, numba": 2.0, "faiss.ProductQuantizer": 32.0}
    return tuple(
        Piece(title=way, share=seconds.get(way, 4.0), run=partial(run, way))
        for way in kmeans.ways_here()
    )


def title_of(name: str) -> str:
    """Return a model's name without the folders above it."""
    return name.replace("\\", "/").rstrip("/").rpartition("/")[2]


def _freed(results: list[Result]) -> list[Result]:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return results
