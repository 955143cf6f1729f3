"""Records of speed: the right rival, the goals that were set; and their table."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import record
from benchmarks.speed_records import RIVAL, XL_MODULATION, bounds, speed_records, step_records
from benchmarks.speed_tables import speed_table
from dpqlab.speed import Ceilings, SpeedRow, Timing
from dpqlab.speed.cpu import XL_WIDTH
from dpqlab.speed.sampler import EAGER, StepRow

CEILINGS = Ceilings(copy=1e10, product=1e11)


def speed_row(way: str, seconds: float, work: str = "token layers, M=512") -> SpeedRow:
    timing = Timing(rounds=(seconds,) * 4)
    return SpeedRow(work=work, way=way, timing=timing, floor=0.25, bytes=100, flops=4e3)


def step_row(name: str, seconds: float, **held: int) -> StepRow:
    timing = Timing(rounds=(seconds,) * 4)
    return StepRow(images=1, name=name, timing=timing, bytes=held, error=0.0)


@pytest.mark.parametrize(
    ("work", "way", "expected"),
    [
        ("28 modulation layers, M=2", "dpq-2bit", (4.0, 2.5)),
        ("28 modulation layers, M=2", "best-1bit", (6.0, 4.0)),
        ("token layers, M=256", "best-1bit, decoding aside", (1.05, 0.75)),
        ("token layers, M=256", "best-1bit: decoding alone", (None, None)),
        ("token layers, M=256", "dense", (None, None)),
        ("token layers, M=256", "AQLM 2x8", (None, None)),
        ("guided step, 1 image, against diffusers", "dpq-2bit, modulation ahead", (None, None)),
        (XL_MODULATION, "vq-1bit", (2.0, 1.5)),
    ],
)
def test_goals_are_for_presets(
    work: str, way: str, expected: tuple[float | None, float | None]
) -> None:
    assert bounds(work, way) == expected


def test_the_cpu_goal_names_the_workload() -> None:
    assert f"modulation layer {XL_WIDTH}->{6 * XL_WIDTH}, M=1" == XL_MODULATION


def test_rows_are_compared_with_dense_and_ours_with_the_rival_of_the_same_bits() -> None:
    rows = [speed_row("dense", 1.0), speed_row("best-2bit", 0.5), speed_row("best-1bit", 0.4)]
    rows.append(speed_row(RIVAL, 2.0))
    made = {r["row"]: r for r in speed_records(rows, CEILINGS, suite="cpu_kernels", device="cpu")}
    ours = made["token layers, M=512: best-2bit"]
    assert (ours["value"], ours["limit"], ours["goal"], ours["floor"]) == (2.0, 4.0, 0.95, 0.75)
    assert ours["details"]["flops"] == 4e3
    against = made[f"token layers, M=512, against {RIVAL}: best-2bit"]
    assert (against["value"], against["rival"], against["goal"]) == (4.0, RIVAL, 2.0)
    assert f"token layers, M=512, against {RIVAL}: best-1bit" not in made


def test_steps_are_compared_with_diffusers_and_with_the_same_mode() -> None:
    mode = "modulation per step"
    rows = [
        step_row(EAGER, 3.0, dense=1000),
        step_row(f"dense, {mode}", 2.0, dense=1000),
        step_row(f"best-1bit, {mode}", 1.0, codes=80, scratch=15, modulation=50, graphs=7),
    ]
    made = {r["row"]: r for r in step_records(rows, device="cpu")}
    step = "guided step of fashion-dit on a CPU, 1 image, against"
    assert made[f"{step} diffusers: best-1bit, {mode}"]["value"] == 3.0
    ours = made[f"{step} our runtime: best-1bit, {mode}"]
    assert (ours["value"], ours["goal"], ours["floor"]) == (2.0, 1.0, 0.85)
    memory = made[f"weights resident, fashion-dit on a CPU: best-1bit, {mode}"]
    assert memory["value"] == pytest.approx(0.095), "neither modulations ahead nor graphs"
    assert (memory["goal"], memory["higher_is_better"]) == (0.1, False)


def test_the_table_has_a_line_a_goal_with_the_presets_beside_each_other(tmp_path: Path) -> None:
    rows = [
        speed_row("dense", 1.0),
        speed_row("dpq-2bit", 1.25),
        speed_row("dpq-2bit, decoding aside", 1.0),
        speed_row("best-2bit", 0.8),
        speed_row("best-1bit", 0.5),
    ]
    for made in speed_records(rows, CEILINGS, suite="kernels", device="cpu"):
        record.append(made, tmp_path)
    for mode in ("modulation ahead", "modulation per step"):
        steps = [
            step_row(EAGER, 3.0, dense=1000),
            step_row(f"dense, {mode}", 2.0, dense=1000),
            step_row(f"vq-1bit, {mode}", 2.5, codes=90),
        ]
        for made in step_records(steps, device="cpu"):
            record.append(made, tmp_path)
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in speed_table(tmp_path).splitlines()[2:-2]
    ]
    here = record.device_name()
    dense = "dense float32"
    own = "our runtime with dense weights"
    step = "guided step of fashion-dit on a CPU, 1 image"
    tokens, bars = "token layers, M=512", ["0.950×", "0.750×", "4.00×"]
    assert lines[0] == [tokens, "2", dense, here, "–", "1.00×", "1.25×", *bars]
    assert lines[1] == [tokens, "1", dense, here, "–", "–", "2.00×", *bars]
    assert [line[0] for line in lines[2:]] == [
        f"{step}, modulation ahead",
        "weights resident, fashion-dit on a CPU",
        f"{step}, modulation per step",
    ]
    assert lines[2][2:] == [own, here, "0.800×", "–", "–", "1.00×", "0.850×", "–"]
    assert lines[3][4:] == ["0.0900×", "–", "–", "0.100×", "–", "–"]
