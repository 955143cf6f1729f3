"""The cases for compute-sanitizer: that they are damaged as they should be, and how it is read."""

from __future__ import annotations

import pytest
import torch

from benchmarks import sanitize
from dpqlab.core.packing import unpack
from dpqlab.kernels import reference


@pytest.mark.parametrize("scope", ["position", "layer"])
@pytest.mark.parametrize("extras", [False, True])
@pytest.mark.parametrize("k", sanitize.WORDS)
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


@pytest.mark.parametrize(
    ("said", "errors"),
    [
        ("========= ERROR SUMMARY: 0 errors", 0),
        ("========= ERROR SUMMARY: 1 error", 1),
        ("========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)", 0),
        ("========= RACECHECK SUMMARY: 12 hazards displayed (12 errors, 0 warnings)", 12),
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
