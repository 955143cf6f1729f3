"""The demo: compress the bundled model now, sample everything from the same seeds, write a report.

What is shown is what was measured: models compressed here are saved, loaded back from disk, and
sampled from what was loaded; their size is that of the files.
"""

from __future__ import annotations

import copy
import json
import os
import platform
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from torch import Tensor

from dpqlab import __version__
from dpqlab.commands.compress import write
from dpqlab.commands.drawing import draw
from dpqlab.commands.expected import CALIBRATED, SOURCE, students_of
from dpqlab.commands.loading import load
from dpqlab.commands.measure import origin_of, stored_dtype, stored_ledger
from dpqlab.commands.terminal import Meter, Terminal
from dpqlab.core import CodebookCodec
from dpqlab.diffusion.classes import class_names_of
from dpqlab.diffusion.models import bundled, resolve, weight_bytes
from dpqlab.diffusion.sampling import SampleRequest
from dpqlab.diffusion.schedules import scheduler_for
from dpqlab.errors import ConfigError
from dpqlab.evaluation.ablation import bundled_ablation
from dpqlab.evaluation.bundled import bundled_feature_net
from dpqlab.evaluation.datasets import MODELS
from dpqlab.evaluation.features import FeatureNet, extract
from dpqlab.evaluation.fidelity import agreement, feature_cosine, psnr
from dpqlab.evaluation.projection import DIT_XL_2, project, ratio_at
from dpqlab.evaluation.rate_distortion import (
    GROUP,
    RateDistortionPoint,
    curve_codecs,
    rate_distortion_points,
)
from dpqlab.nn.linear import CompressedLinear, PackedLinear
from dpqlab.nn.plan import kind_of
from dpqlab.nn.presets import preset
from dpqlab.nn.surgery import compress_steps
from dpqlab.report import Group, ModelRow, Report, RunFacts, Scaling
from dpqlab.viz.page import render

PRESETS = ("rtn-2bit", "vq-2bit", "pq-2bit", "rtn-1bit", "vq-1bit", "pq-1bit")
CURVE_KINDS = ("attn1.to_q", "ff.net.0.proj", "norm1.linear")

# Rough seconds on two cores, for the time left; the bar corrects itself as it goes.
STEP_SECONDS = 0.22
COMPRESS_SECONDS = {"rtn": 1.0, "vq": 5.0, "pq": 2.0, "dpq": 30.0, "best": 60.0}
CURVE_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """What the demo does.

    Parameters
    ----------
    out
        Folder for ``report.html``, ``summary.json`` and ``models/``.
    source
        Full-precision model.
    presets
        Presets to compress it with now.
    calibrated
        Compressed models to show beside those that are compressed now.
    steps, guidance, seed
        Of sampling; the seed is k-means' too.
    """

    out: Path
    source: str = SOURCE
    presets: tuple[str, ...] = PRESETS
    calibrated: tuple[str, ...] = CALIBRATED
    steps: int = 20
    guidance: float = 1.5
    seed: int = 0

    @classmethod
    def of(cls, source: str, out: Path, **settings: Any) -> DemoConfig:
        """Return the demo of a bundled full-precision model, with those of its students there are.

        The students of the default model must be there all.
        """
        if source == SOURCE:
            return cls(out=out, **settings)
        there = {entry.name for entry in bundled()}
        students = tuple(name for name in students_of(source) if name in there)
        return cls(out=out, source=source, calibrated=students, **settings)

    def __post_init__(self) -> None:
        """Refuse what cannot be sampled, before anything is loaded."""
        SampleRequest(labels=(0,), seed=self.seed, steps=self.steps, guidance=self.guidance)
        if self.out.exists() and not self.out.is_dir():
            raise ConfigError(f"{self.out} is a file: expected a folder, or a name to create one")


def run_demo(config: DemoConfig, terminal: Terminal, net: FeatureNet | None = None) -> Report:
    """Run the demo and write its files into ``config.out``.

    Parameters
    ----------
    net
        Classifier for the fidelity columns; default: the one bundled with the source.

    Raises
    ------
    ConfigError
        If a bundled model is missing.
    """
    started = time.perf_counter()
    check_assets(config)
    demo = _Demo(config, net or bundled_feature_net(config.source))
    with terminal.progress("Demo", demo.expected_seconds) as meter:
        rows = demo.rows(meter)
        points = demo.points(meter)
    report = Report(
        rows=rows,
        classes=demo.classes,
        points=points,
        group_size=GROUP,
        scalings=tuple(demo.scalings(rows)),
        facts=facts_of(config, time.perf_counter() - started),
        ablation=bundled_ablation(config.source) if config.source in MODELS else None,
    )
    config.out.mkdir(parents=True, exist_ok=True)
    _write(config.out / "report.html", render(report))
    _write(config.out / "summary.json", json.dumps(report.to_dict(), indent=2, allow_nan=False))
    return report


def check_assets(config: DemoConfig) -> None:
    """Say what is missing before any work is done."""
    resolve(config.source)
    names = {entry.name for entry in bundled()}
    missing = [name for name in config.calibrated if name not in names and not Path(name).is_dir()]
    if missing:
        raise ConfigError(
            f"the calibrated models {', '.join(missing)} are not in this installation: expected "
            "them under dpqlab/assets; clone the repository again, `dpqlab doctor` says more"
        )


@dataclass(frozen=True, kw_only=True)
class _Subject:
    """A model to show, loaded."""

    name: str
    folder: Path
    group: Group
    pipeline: Any


class _Demo:
    """The steps of a run, which share the teacher and what it drew."""

    def __init__(self, config: DemoConfig, net: FeatureNet) -> None:
        self.config, self.net = config, net
        self.folder = resolve(config.source)
        self.teacher = load(config.source)
        self.classes = class_names_of(self.teacher.transformer.config)
        self.request = SampleRequest(
            labels=tuple(range(len(self.classes))),
            seed=config.seed,
            steps=config.steps,
            guidance=config.guidance,
        )
        self.codecs: dict[str, Mapping[str, CodebookCodec]] = {}

    @property
    def expected_seconds(self) -> float:
        """A guess at the whole run, the unit of the progress bar."""
        models = 1 + len(self.config.presets) + len(self.config.calibrated)
        compressing = sum(COMPRESS_SECONDS[name.partition("-")[0]] for name in self.config.presets)
        return models * self.config.steps * STEP_SECONDS + compressing + CURVE_SECONDS

    def rows(self, meter: Meter) -> tuple[ModelRow, ...]:
        """Compress, load and sample every model, then compare with the teacher."""
        rows = [self._row(subject, meter) for subject in self._subjects(meter)]
        return (rows[0], *(self._compared(row, rows[0].images) for row in rows[1:]))

    def _subjects(self, meter: Meter) -> Iterator[_Subject]:
        """Yield the models one by one, so that one of them is in memory at a time."""
        source = self.config.source
        yield _Subject(name=source, folder=self.folder, group="full", pipeline=self.teacher)
        for name in self.config.presets:
            folder = self._compress(name, meter)
            yield _Subject(name=name, folder=folder, group="uncalibrated", pipeline=load(folder))
        for name in self.config.calibrated:
            folder = resolve(name)
            yield _Subject(name=name, folder=folder, group="calibrated", pipeline=load(folder))

    def points(self, meter: Meter) -> tuple[RateDistortionPoint, ...]:
        """Encode three layers of the middle block with many codecs."""
        block = len(self.teacher.transformer.transformer_blocks) // 2
        weights = {
            kind: self.teacher.transformer.get_submodule(
                f"transformer_blocks.{block}.{kind}"
            ).weight
            for kind in CURVE_KINDS
        }
        codecs = curve_codecs()
        found: list[RateDistortionPoint] = []
        for point in rate_distortion_points(weights, codecs, seed=self.config.seed):
            found.append(point)
            share = 1 / (len(weights) * len(codecs))
            meter.advance(CURVE_SECONDS * share, f"rate and distortion of {point.layer}")
        return tuple(found)

    def scalings(self, rows: tuple[ModelRow, ...]) -> list[Scaling]:
        """Work out what the calibrated codecs would make of DiT-XL/2, the smallest first."""
        chosen = [row for row in rows if row.group == "calibrated"] or [
            row for row in rows if row.group == "uncalibrated"
        ]
        # what has codebooks for every layer there, and none of them pruned
        known = [row for row in chosen if DIT_XL_2.linears.keys() <= self.codecs[row.name].keys()]
        return [
            Scaling(
                row=row,
                larger=DIT_XL_2.name,
                there=project(self.codecs[row.name], DIT_XL_2),
                same_bits=ratio_at(row.bits, DIT_XL_2),
            )
            for row in sorted(known, key=lambda row: -row.ratio_fp32)
        ]

    def _compress(self, name: str, meter: Meter) -> Path:
        plan = preset(name)
        student = copy.deepcopy(self.teacher.transformer)
        pipeline = type(self.teacher)(transformer=student, scheduler=self.teacher.scheduler)
        records = []
        for record in compress_steps(student, plan, seed=self.config.seed):
            records.append(record)
            share = COMPRESS_SECONDS[name.partition("-")[0]] / record.total
            meter.advance(share, f"compressing with {name}")
        origin = origin_of(self.config.source, self.folder) | {"seed": self.config.seed}
        folder = self.config.out / "models" / name
        write(pipeline, folder, records, plan, origin, overwrite=True)
        return folder

    def _row(self, subject: _Subject, meter: Meter) -> ModelRow:
        started = time.perf_counter()
        note = f"sampling {subject.name}"
        # one sampler for all, whatever scheduler a folder holds
        subject.pipeline.scheduler = scheduler_for(subject.pipeline.transformer)
        images = draw(subject.pipeline, self.request, meter=meter, unit=STEP_SECONDS, note=note)
        model, folder = subject.pipeline.transformer, subject.folder
        packed = {n: m for n, m in model.named_modules() if isinstance(m, PackedLinear)}
        self.codecs[subject.name] = {
            kind_of(n): m.codec
            for n, m in packed.items()
            if isinstance(m, CompressedLinear) and has_whole_codebooks(m)
        }
        ledger = stored_ledger(model, folder)
        spoken = sorted({layer.codec for layer in ledger.layers})
        family, bits = family_and_rate(subject.name) if packed else ("Full precision", None)
        return ModelRow(
            name=subject.name,
            family=family,
            group=subject.group,
            nominal_bits=bits,
            codec=joined(spoken) or str(stored_dtype(folder)).removeprefix("torch."),
            ledger=ledger,
            bytes_on_disk=weight_bytes(folder),
            images=images,
            seconds=time.perf_counter() - started,
        )

    def _compared(self, row: ModelRow, wanted: Tensor) -> ModelRow:
        mine, theirs = extract(self.net, row.images), extract(self.net, wanted)
        return replace(
            row,
            psnr=float(psnr(row.images.numpy(), wanted.numpy()).mean()),
            feature_cosine=float(feature_cosine(mine.features, theirs.features).mean()),
            agreement=agreement(mine.predictions, theirs.predictions),
        )


def joined(codecs: Sequence[str]) -> str:
    """Join the codecs of a model; those that differ in k only become one.

    Examples
    --------
    >>> joined(["VQ/kind d=8 k=512 +scale", "VQ/kind d=8 k=64 +scale"])
    'VQ/kind d=8 k=64/512 +scale'
    >>> joined(["RTN 2-bit g=384", "VQ d=8 k=256"])
    'RTN 2-bit g=384, VQ d=8 k=256'
    """
    found: dict[str, set[int]] = {}
    for codec in codecs:
        size = re.search(r"(?<= k=)\d+", codec)
        general = codec if size is None else f"{codec[: size.start()]}%s{codec[size.end() :]}"
        found.setdefault(general, set()).update([] if size is None else [int(size[0])])
    return ", ".join(
        general % "/".join(map(str, sorted(sizes))) if sizes else general
        for general, sizes in found.items()
    )


def has_whole_codebooks(layer: CompressedLinear) -> bool:
    """Say whether the layer's codebooks are as k-means left them: all of one size, no table."""
    pool = layer.codebooks()
    return pool.table is None and not pool.ragged


def family_and_rate(name: str) -> tuple[str, float]:
    """Read a family and a rate off a bundled name.

    Examples
    --------
    >>> family_and_rate("fashion-dit-pq-1bit"), family_and_rate("best-1.25bit")
    (('PQ', 1.0), ('Best', 1.25))
    """
    family, _, rate = name.rpartition("-")
    short = family.rpartition("-")[2]
    return "Best" if short == "best" else short.upper(), float(rate.removesuffix("bit"))


def facts_of(config: DemoConfig, seconds: float) -> RunFacts:
    """Collect how the run was made."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    command = "dpqlab demo" + ("" if config.source == SOURCE else f" --model {config.source}")
    for name in ("seed", "steps", "guidance"):
        if getattr(config, name) != getattr(DemoConfig, name):
            command += f" --{name} {getattr(config, name)}"
    return RunFacts(
        when=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        versions={"dpqlab": __version__, "python": platform.python_version()} | _versions(),
        machine=f"{cores} CPU cores, {platform.system()} {platform.machine()}",
        seed=config.seed,
        steps=config.steps,
        guidance=config.guidance,
        scheduler="DDIM",
        seconds=seconds,
        command=command,
    )


def _versions() -> dict[str, str]:
    found = {}
    for name in ("torch", "diffusers", "numba", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "missing"
    return found


def _write(path: Path, text: str) -> None:
    """Write a file so that a reader finds the old one or the new one, never half of it."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
