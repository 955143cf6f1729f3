"""Students of such codecs: whole models, calibrated and judged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.ablation import student_of
from benchmarks.fashion import TEACHER, Judge, sampler_of
from benchmarks.vq_vs_pq import SUITE
from benchmarks.vq_vs_pq.codecs import PAIRED, near_pq, pq_families, vq
from benchmarks.vq_vs_pq.subjects import Subject
from dpqlab.calibration.ablation import AblationRow
from dpqlab.calibration.presets import BEST, DISTILLED, lasting
from dpqlab.core import CodebookCodec
from dpqlab.diffusion import load_pipeline
from dpqlab.evaluation.config import EvaluationConfig
from dpqlab.evaluation.datasets import calibration_images
from dpqlab.evaluation.evaluator import draw_teacher_steps, last_of
from dpqlab.nn import Plan

CALIBRATIONS = {"codes fixed": DISTILLED, "latents": BEST}


def student_pairs(subject: Subject) -> list[tuple[CodebookCodec, list[CodebookCodec]]]:
    """Return VQ codecs for whole models, each with the PQ codecs of equal bits and d up to 8."""
    pairs: list[tuple[CodebookCodec, list[CodebookCodec]]] = []
    for codec in (vq(8, 256), vq(8, 1024, "kind"), vq(4, 256)):
        near = near_pq(codec, subject.geometry, pq_families(codec.across)[0])
        pairs.append((codec, [one for one in near if one.d <= max(PAIRED)]))
    return pairs


def judge_of(folder: str | Path, judge: Judge) -> Judge:
    """Return the judge of another teacher's students: fidelity is to that teacher."""
    if folder == TEACHER:
        return judge
    full = load_pipeline(folder, device=judge.device).transformer
    return replace(
        judge, teacher=last_of(draw_teacher_steps(sampler_of(full), judge.net, judge.config))
    )


def calibrated(
    subjects: Mapping[str | Path, Subject],
    steps: int,
    *,
    images: int,
    data: Path | None,
    share: str = "0/1",
) -> Iterator[dict[str, Any]]:
    """Calibrate and judge the students of every subject; one record each.

    Parameters
    ----------
    subjects
        By the folder of their model.
    steps
        Of each calibration.
    images
        To judge a student by.
    data
        Folder of the calibration images; None for the usual one.
    share
        I/N: every Nth student only, from the Ith.
    """
    first = Judge.make(EvaluationConfig(images=images, steps=50, batch=1000))
    examples = calibration_images(TEACHER, data, first.device)
    judges = {folder: judge_of(folder, first) for folder in subjects}
    work = [
        (folder, codec, pair[0].describe(), how, lasting(config, steps))
        for folder, subject in subjects.items()
        for pair in student_pairs(subject)
        for codec in (pair[0], *pair[1])
        for how, config in CALIBRATIONS.items()
    ]
    index, count = (int(part) for part in share.split("/"))
    for folder, codec, beside, how, config in work[index::count]:
        subject = subjects[folder]
        row = AblationRow(
            name=f"{subject.name}: {codec.describe()}, {how}",
            plan=Plan.for_blocks(codec, name=codec.describe()),
            config=config,
            base="" if codec.scope == "layer" else beside,
            change=how,
        )
        student, details = student_of(row, examples, folder)
        details |= {"subject": subject.name, "width": subject.width, "vq": beside}
        yield judges[folder].record(SUITE, row.name, student, details, row.base or None)
