"""Students of such codecs: whole models, calibrated and judged."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.ablation import student_of
from benchmarks.fashion import TEACHER, Judge, sampler_of
from benchmarks.vq_vs_pq import SUITE
from benchmarks.vq_vs_pq.codecs import PAIRED, near_pq, pq_families, vq
from benchmarks.vq_vs_pq.subjects import Subject
from dpqlab.calibration import CalibrationConfig
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


@dataclass(frozen=True, kw_only=True)
class Student:
    """A model to be made.

    Attributes
    ----------
    name
        Of its record.
    folder
        Of the model that it is a student of.
    codec, beside
        What it is coded with, and the VQ codec of equal bits.
    how, config
        How it is calibrated.
    """

    name: str
    folder: str | Path
    codec: CodebookCodec
    beside: str
    how: str
    config: CalibrationConfig


def students(
    subjects: Mapping[str | Path, Subject],
    steps: int,
    *,
    share: str = "0/1",
    recorded: Collection[str] = (),
) -> list[Student]:
    """Return the students to make.

    Parameters
    ----------
    subjects
        By the folder of their model.
    steps
        Of each calibration.
    share
        I/N: every Nth student only, from the Ith, of those that are left.
    recorded
        Names of students that are left out.
    """
    every = (
        Student(
            name=f"{subject.name}: {codec.describe()}, {how}",
            folder=folder,
            codec=codec,
            beside=pair[0].describe(),
            how=how,
            config=lasting(config, steps),
        )
        for folder, subject in subjects.items()
        for pair in student_pairs(subject)
        for codec in (pair[0], *pair[1])
        for how, config in CALIBRATIONS.items()
    )
    index, count = (int(part) for part in share.split("/"))
    return [student for student in every if student.name not in recorded][index::count]


def calibrated(
    subjects: Mapping[str | Path, Subject],
    wanted: Sequence[Student],
    *,
    images: int,
    data: Path | None,
) -> Iterator[dict[str, Any]]:
    """Calibrate and judge students; one record each.

    A judge draws the teacher's images first, a minute on one GPU: a few processes with many
    students each are done sooner than many processes.

    Parameters
    ----------
    subjects
        By the folder of their model.
    wanted
        The students.
    images
        To judge a student by.
    data
        Folder of the calibration images; None for the usual one.
    """
    first = Judge.make(EvaluationConfig(images=images, steps=50, batch=1000))
    examples = calibration_images(TEACHER, data, first.device)
    judges = {folder: judge_of(folder, first) for folder in subjects}
    for one in wanted:
        subject = subjects[one.folder]
        row = AblationRow(
            name=one.name,
            plan=Plan.for_blocks(one.codec, name=one.codec.describe()),
            config=one.config,
            base="" if one.codec.scope == "layer" else one.beside,
            change=one.how,
        )
        student, details = student_of(row, examples, one.folder)
        details |= {"subject": subject.name, "width": subject.width, "vq": one.beside}
        yield judges[one.folder].record(SUITE, row.name, student, details, row.base or None)
