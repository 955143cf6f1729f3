"""VQ against PQ: bits are those of the ledger, pairs have equal bits, and records are complete."""

from __future__ import annotations

import argparse
import copy
import types
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import ablation
from benchmarks.record import latest, read
from benchmarks.vq_vs_pq import SUITE, points
from benchmarks.vq_vs_pq.__main__ import measure_points
from benchmarks.vq_vs_pq.codecs import NEAR, near_pq, pq_families, rows_per_codeword, vq
from benchmarks.vq_vs_pq.fitting import _shares, two_levels
from benchmarks.vq_vs_pq.points import Point, coding_gains, measure, pair_points, size_points
from benchmarks.vq_vs_pq.students import CALIBRATIONS, student_pairs, students
from benchmarks.vq_vs_pq.subjects import Subject, model_subject, random_subject
from dpqlab.calibration import CalibrationConfig, CalibrationData
from dpqlab.calibration.ablation import AblationRow
from dpqlab.core import CodebookCodec, KMeansConfig
from dpqlab.core.kmeans import inertia_of
from dpqlab.diffusion import make_scheduler
from dpqlab.evaluation.projection import Geometry, dit_linears, project
from dpqlab.kernels.dispatch import best_assigner, best_clusterer
from dpqlab.nn import Plan, compress_, kind_of
from dpqlab.viz.vq_vs_pq import vq_over_pq, vq_vs_pq
from tests.tiny import tiny_dit

SMALL = Geometry(name="small", linears=dit_linears(96), blocks=3, parameters=1_000_000)


@pytest.fixture(autouse=True)
def small_machine(one_thread: None) -> None:
    """One thread."""


@pytest.fixture(scope="module")
def model() -> Any:
    """The full-precision model; tests must not change it."""
    return tiny_dit()


@pytest.fixture(scope="module")
def tiny(model: Any) -> Subject:
    return model_subject("tiny", model)


@pytest.mark.parametrize(
    "codec",
    [
        vq(4, 16),
        vq(8, 16, "kind"),
        vq(4, 32, "model"),
        CodebookCodec(d=4, k=5, scope="position"),
        CodebookCodec(d=4, k=7, scope="group", group=4),
        CodebookCodec(d=4, k=12, scope="position", across="kind"),
    ],
    ids=CodebookCodec.describe,
)
def test_bits_of_a_model_are_those_of_its_ledger(model: Any, tiny: Subject, codec) -> None:
    student = copy.deepcopy(model)
    done = compress_(student, Plan.for_blocks(codec))
    kinds = tuple(tiny.geometry.linears)
    bits = project(dict.fromkeys(kinds, codec), tiny.geometry).true_bits
    assert bits == pytest.approx(done.ledger.true_bits_per_weight, rel=1e-12)


def test_the_error_is_that_of_the_judged_block(model: Any, tiny: Subject) -> None:
    codec = CodebookCodec(d=4, k=8, scope="position")
    point = measure(tiny, tuple(tiny.geometry.linears), codec)
    student = copy.deepcopy(model)
    done = compress_(student, Plan.for_blocks(codec))
    judged = [r for r in done.layers if r.name.startswith("transformer_blocks.1.")]
    # another seed for every layer there
    for record in judged:
        assert point.errors[kind_of(record.name)] == pytest.approx(record.relative_error, rel=0.1)
    energy = [float(model.get_submodule(r.name).weight.detach().square().sum()) for r in judged]
    errors = [point.errors[kind_of(r.name)] for r in judged]
    assert point.error == pytest.approx(np.average(errors, weights=energy))
    assert point.kind == "block"


def test_rows_per_codeword() -> None:
    part = Geometry(name="", linears={"a": (96, 48)}, blocks=3, parameters=0)
    assert rows_per_codeword(CodebookCodec(d=4, k=8), part) == 12
    assert rows_per_codeword(CodebookCodec(d=4, k=8, across="kind"), part) == 36
    assert rows_per_codeword(CodebookCodec(d=4, k=8, scope="group", group=4), part) == 48
    assert rows_per_codeword(vq(4, 8), part) == 12 * 12
    assert rows_per_codeword(vq(4, 8, "model"), part) == 36 * 12


@pytest.mark.parametrize("across", ["layer", "kind"])
def test_pq_beside_vq_has_equal_bits(across: str) -> None:
    subject, kind = random_subject(SMALL, values=1000), "ff.net.0.proj"
    part, found = subject.part([kind]), 0
    for d, k in [(4, 16), (4, 64), (8, 64)]:
        wanted = project({kind: vq(d, k, across)}, part).true_bits
        for family in pq_families(across):
            for codec in near_pq(vq(d, k, across), part, family):
                found += 1
                bits = project({kind: codec}, part).true_bits
                assert bits == pytest.approx(wanted, rel=NEAR)
                assert (codec.across, codec.scope) == (across, family["scope"])
    assert found > 3


def test_random_layers_have_all_rows_and_columns_for_whole_groups() -> None:
    subject = random_subject(SMALL, values=1000)
    shapes = [tuple(w.shape) for w in subject.layers("ff.net.2", False)]
    assert shapes == [(96, 192)]
    shared = subject.layers("norm1.linear", True)
    assert [tuple(w.shape) for w in shared] == [(576, 48)] * 3
    assert torch.equal(shared[0], subject.layers("norm1.linear", True)[0])
    assert not torch.equal(shared[0], shared[1])


def test_few_columns_of_a_random_layer_stand_for_all() -> None:
    codec = CodebookCodec(d=4, k=16, scope="position")
    few, many = (measure(random_subject(SMALL, values=v), ["ff.net.2"], codec) for v in (1, 1e5))
    assert few.error == pytest.approx(many.error, rel=0.03)
    assert few.bits == many.bits


def test_vq_of_gaussian_weights_keeps_shannons_bound() -> None:
    # few sub-vectors a codeword would fit the noise
    points = [measure(random_subject(), ["attn1.to_q"], vq(d, 16)) for d in (4, 8)]
    for point in points:
        assert 1 < point.error / 2 ** (-2 * point.bits.true_bits) < 1.6


def test_where_a_search_is_long_some_rows_stand_for_all(monkeypatch) -> None:
    subject = random_subject(SMALL, values=100_000)
    whole = measure(subject, ["norm1.linear"], vq(4, 64))
    monkeypatch.setattr(points, "SEARCH", 96 * 64 * 200)
    part = measure(subject, ["norm1.linear"], vq(4, 64))
    assert part.error != whole.error
    assert part.error == pytest.approx(whole.error, rel=0.03)


def test_two_levels_come_close_to_k_means(generator) -> None:
    points = torch.randn(1, 6000, 4, generator=generator)
    config = KMeansConfig(k=256)

    def mean_error(cluster: Any) -> float:
        found = cluster(points, config, generator=torch.Generator().manual_seed(0))
        assert found.centroids.shape == (1, 256, 4)
        # the codes given are valid, but a neighbouring cell may hold a nearer codeword
        own = inertia_of(points, None, found.centroids, found.codes)
        assert own.tolist() == pytest.approx(found.inertia.tolist())
        best = best_assigner()(points, found.centroids)
        return float(inertia_of(points, None, found.centroids, best))

    assert mean_error(two_levels) < 1.08 * mean_error(best_clusterer())


@pytest.mark.parametrize("total", [4, 7, 40, 61])
def test_codewords_are_shared_out_whole(total: int) -> None:
    most = [30, 1, 0, 20, 10]
    sizes = _shares(torch.tensor([1.0, 5.0, 0.0, 3.0, 0.5]), most, total)
    assert sum(sizes) == total
    assert all(0 <= size <= limit for size, limit in zip(sizes, most, strict=True))
    assert sizes[:3] == [sizes[0], 1, 0], "cells that are not empty have one at least"
    assert sizes[4] <= sizes[0] <= sizes[3] or sizes[3] == 20


def test_coding_gain_of_positions_that_differ(generator) -> None:
    weight = torch.randn(20_000, 8, generator=generator)
    assert coding_gains(weight, 4) == pytest.approx({"position": 1, "layer": 1}, abs=0.01)
    weight[:, :4] *= 2  # energies 4 and 1: mean 2.5 over root of 4
    assert coding_gains(weight, 4) == pytest.approx({"position": 1.25, "layer": 1}, abs=0.02)
    weight[:, 4:] = weight[:, 4:5]  # one direction holds all of a position
    assert coding_gains(weight, 4)["position"] > 1e6


def test_size_points_leave_out_codebooks_that_hold_the_weights(tiny: Subject) -> None:
    points = list(size_points(tiny, (16, 65_536)))
    assert {p.codec.k for p in points} == {16}
    assert {p.family for p in points} == {"VQ", "VQ/kind", "VQ/model"}


def test_pairs_are_measured_once_and_recorded(tmp_path, tiny: Subject, capsys) -> None:
    args = argparse.Namespace(parts=["pairs"], quick=True, dry_run=False, results=tmp_path)
    measure_points(args, [tiny, random_subject(SMALL, values=1000)])
    records = read(SUITE, tmp_path)
    assert (
        len(records) == len(latest(SUITE, tmp_path)) == len(capsys.readouterr().out.split("\n")) - 1
    )
    for record in records:
        details = record["details"]
        assert sum(details["bits"].values()) == pytest.approx(details["true_bits"])
        assert (record["limit"] is None) == (details["subject"] == "tiny")
        for pair in details["pairs"]:
            assert pair["true_bits"] == pytest.approx(details["true_bits"], rel=NEAR)
            assert pair["vq_over_pq"] == record["value"] / pair["relative_error"]
    assert any(record["details"]["pairs"] for record in records)
    assert len(vq_vs_pq(records).data) > 4
    assert len(vq_over_pq(records).data) >= 2


def test_pair_points_give_the_same_point_for_the_same_codec(tiny: Subject) -> None:
    found: dict[str, Point] = {}
    for point, rivals in pair_points(tiny, "attn1.to_q", {4: (8, 16)}):
        for one in (point, *rivals):
            assert found.setdefault(one.row, one) is one


def test_students_are_paired_at_equal_bits_for_whole_models() -> None:
    subject = random_subject(Geometry(name="", linears=dit_linears(384), blocks=8, parameters=0))
    kinds = tuple(subject.geometry.linears)
    for codec, beside in student_pairs(subject):
        assert 1 <= len(beside) <= 3
        wanted = project(dict.fromkeys(kinds, codec), subject.geometry).true_bits
        for one in beside:
            bits = project(dict.fromkeys(kinds, one), subject.geometry).true_bits
            assert bits == pytest.approx(wanted, rel=NEAR)
            assert one.across == codec.across


def test_students_on_record_are_left_out_before_they_are_shared_out(tiny: Subject) -> None:
    subjects = {"tiny": tiny}
    every = students(subjects, 7)
    assert len({one.name for one in every}) == len(every) > 6
    assert {one.config.steps for one in every} == {7}
    recorded = {one.name for one in every[::2]}
    shares = [students(subjects, 7, share=f"{i}/3", recorded=recorded) for i in range(3)]
    assert {one.name for share in shares for one in share} == {one.name for one in every[1::2]}
    assert sum(len(share) for share in shares) == len(every[1::2])


@pytest.mark.parametrize("how", ["codes fixed", "latents"])
def test_a_student_learns_from_its_own_teacher(monkeypatch, generator, model, how) -> None:
    def load(folder: str, *, device: str = "cpu") -> Any:
        assert folder == "tiny"
        return types.SimpleNamespace(transformer=copy.deepcopy(model).to(device))

    monkeypatch.setattr(ablation, "load_pipeline", load)
    scheduler: Any = make_scheduler("ddim")
    images = torch.randint(256, (64, 1, 8, 8), dtype=torch.uint8, generator=generator)
    data = CalibrationData(
        images=images, labels=torch.arange(64) % 10, alphas=scheduler.alphas_cumprod
    )
    short = {"steps": 20, "batch": 8, "holdout": 16, "every": 20, "warmup": 0, "compile": False}
    config = CALIBRATIONS[how]
    config = CalibrationConfig(learning_rate=0.01, latent=config.latent, **short)
    codec = CodebookCodec(d=4, k=8)
    plan = Plan.for_blocks(codec)
    row = AblationRow(name="row", plan=plan, config=config, base="", change=how)
    student, details = ablation.student_of(row, data, "tiny")
    bits = project(dict.fromkeys(dit_linears(32), codec), model_subject("", model).geometry)
    assert details["true_bits"] == pytest.approx(bits.true_bits)
    plain = copy.deepcopy(model)
    compress_(plain, Plan.for_blocks(codec))
    assert details["course"][-1]["total"] < details["course"][0]["total"]
    before, after = (m.transformer_blocks[0].attn1.to_q for m in (plain, student))
    assert not torch.equal(before.decode(), after.decode())
    assert torch.equal(before.codes(), after.codes()) == (how == "codes fixed")
