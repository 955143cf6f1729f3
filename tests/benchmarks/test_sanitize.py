"""The cases for compute-sanitizer: that they are damaged as they should be, and how it is read."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import torch

from benchmarks import record, sanitize
from dpqlab.core.packing import unpack
from dpqlab.kernels import reference

CLEAN = "case: one\ncase: two\n========= ERROR SUMMARY: 0 errors\n"
SEEN = (
    "case: one\n========= Invalid __global__ read of size 1 bytes\n"
    "========= ERROR SUMMARY: 1 error\n"
)


@pytest.mark.parametrize("scope", ["position", "layer"])
@pytest.mark.parametrize("extras", [False, True])
@pytest.mark.parametrize("k", [5, 37, 300])
def test_codes_of_ones_count_as_the_last_codeword(k: int, extras: bool, scope: str) -> None:
    weight = sanitize.damaged_weight((37, 24), 8, k, scope=scope, extras=extras, ones=True)
    codes = unpack(weight.codes, weight.code_bits, 37 * 3)
    assert int(codes.min()) == (1 << weight.code_bits) - 1 >= k
    last = weight.first + weight.size - 1
    index = last if weight.table is None else weight.table[last.long()]
    row = weight.pool.float()[index.long()].flatten()
    expected = row.expand(37, 24) * (1 if weight.scale is None else weight.scale.float()[:, None])
    assert torch.allclose(reference.decode(weight, torch.float32), expected)


def test_random_codes_go_beyond_the_codebook_too() -> None:
    weight = sanitize.damaged_weight((513, 72), 4, 5, scope="layer", extras=False, ones=False)
    assert int(unpack(weight.codes, weight.code_bits, 513 * 18).max()) > 5


def test_every_kernel_has_its_cases() -> None:
    names = [case.name for case in sanitize.cases()]
    kernels = {"CUDA decoder", "table kernel", "Triton decoder", "Triton product"}
    assert {name.partition(",")[0] for name in names} >= kernels
    assert len(set(names)) == len(names)
    assert not any("Triton" in case.name for case in sanitize.cases(races=True))
    assert {k for numbers in sanitize.SIZES.values() for k in numbers} == {5, 37, 300}


def test_the_planted_error_is_one_byte_outside() -> None:
    (weight,) = sanitize.planted().run.args  # type: ignore[attr-defined]
    assert 8 * weight.codes.numel() < 37 * 3 * weight.code_bits <= 8 * (weight.codes.numel() + 1)


@pytest.mark.parametrize(
    ("said", "errors"),
    [
        ("========= ERROR SUMMARY: 0 errors", 0),
        ("========= ERROR SUMMARY: 1 error", 1),
        ("========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)", 0),
        ("========= RACECHECK SUMMARY: 12 hazards displayed (12 errors, 0 warnings)", 12),
        ("========= ERROR SUMMARY: 34 errors (14 errors were not printed)", 34),
        ("========= ERROR SUMMARY: 0 errors\n========= ERROR SUMMARY: 2 errors", 2),
        ("Device not supported", None),
    ],
)
def test_summaries_are_read(said: str, errors: int | None) -> None:
    assert sanitize.errors_in(f"case: one\n{said}\n") == errors


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        sanitize.main([])
    assert "wants a GPU" in capsys.readouterr().err


def test_without_the_tool_it_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SystemExit):
        sanitize.main([])
    assert "compute-sanitizer is not on the PATH" in capsys.readouterr().err


def tool_that_says(monkeypatch: pytest.MonkeyPatch, answers: dict[str, tuple[int, str]]) -> None:
    """Stand in for compute-sanitizer: what it answers, by the last argument."""

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        assert command[0] == "compute-sanitizer"
        status, output = answers.get(command[-1], (0, "NVIDIA (R) Compute Sanitizer\nVersion 1\n"))
        return subprocess.CompletedProcess(command, status, output, "")

    monkeypatch.setattr(sanitize.subprocess, "run", run)
    monkeypatch.setattr(sanitize.shutil, "which", lambda name: name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(record, "device_name", lambda device: "a GPU")
    monkeypatch.setattr(record, "commit_name", lambda: "abc")


def test_one_record_a_tool(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    races = "case: one\n========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)\n"
    answers = {"--inside": (0, CLEAN), "--planted": (1, SEEN), "--races": (0, races)}
    tool_that_says(monkeypatch, answers)
    assert sanitize.main(["--results", str(tmp_path)]) == 0
    memory, shared = record.read("sanitize", tmp_path)
    assert [memory["row"], shared["row"]] == list(sanitize.ROWS.values())
    assert (memory["value"], memory["unit"], memory["goal"]) == (0, "errors", 0)
    assert memory["details"] == {
        "cases": ["one", "two"],
        "tool": "Version 1",
        "status": 0,
        "planted": 1,
        "said": ["========= ERROR SUMMARY: 0 errors"],
        "last": [],
    }


def test_a_read_outside_that_ends_the_process_is_on_record(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tool_that_says(monkeypatch, {"--inside": (1, SEEN), "--planted": (1, SEEN)})
    assert sanitize.main(["--tools", "memcheck", "--results", str(tmp_path)]) == 1
    (found,) = record.read("sanitize", tmp_path)
    assert (found["value"], found["details"]["status"]) == (1, 1)
    assert found["details"]["last"] == SEEN.splitlines()


@pytest.mark.parametrize(
    ("answers", "why"),
    [
        ({"--inside": (0, CLEAN), "--planted": (0, CLEAN)}, "saw no planted error"),
        ({"--inside": (1, CLEAN), "--planted": (1, SEEN)}, "memcheck ended with 1"),
        ({"--inside": (0, "case: one\n"), "--planted": (1, SEEN)}, "memcheck ended with 0"),
    ],
)
def test_a_run_that_proves_nothing_is_not_on_record(
    answers: dict[str, tuple[int, str]], why: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tool_that_says(monkeypatch, answers)
    with pytest.raises(RuntimeError, match=re.escape(why)):
        sanitize.main(["--tools", "memcheck", "--results", str(tmp_path)])
    assert not list(tmp_path.iterdir())
