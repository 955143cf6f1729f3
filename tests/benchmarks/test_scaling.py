from __future__ import annotations

import argparse

import pytest
import torch

from benchmarks import scaling
from benchmarks.plain_dit import PlainDDIM, PlainDiT
from benchmarks.record import validate
from dpqlab.diffusion.sampling import SampleRequest, sample_steps
from dpqlab.diffusion.schedules import make_scheduler
from dpqlab.speed.models import code_randomly_, random_dit


def plain() -> PlainDiT:
    torch.manual_seed(0)
    return PlainDiT(scaling.TINY).eval().requires_grad_(False)


def test_the_plain_model_has_the_linears_and_the_weights_of_the_real_one() -> None:
    real = random_dit(scaling.TINY, device="cpu", dtype=torch.float32)

    def linears(model: torch.nn.Module) -> dict[str, tuple[int, ...]]:
        found = {n: m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
        return {
            name: tuple(m.weight.shape)
            for name, m in found.items()
            if name.startswith("transformer_blocks") and ".emb." not in name
        }

    assert linears(plain()) == linears(real)


def test_the_plain_sampler_is_ddim() -> None:
    model = plain()
    # diffusers spaces what does not divide 1000 a little otherwise
    request = SampleRequest(labels=(1, 2), steps=8, guidance=1.5)
    ours, theirs = (
        [step.latents for step in sample_steps(model, scheduler, request)]
        for scheduler in (PlainDDIM(), make_scheduler("ddim"))
    )
    assert len(ours) == 8
    for mine, wanted in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, wanted, rtol=0, atol=1e-4)


def test_a_record_holds_what_was_measured() -> None:
    args = argparse.Namespace(processes=4, geometry="tiny")
    record = scaling.described("sampling", {"sampling": 8.0}, {"sampling": 2.5}, args)
    validate(record)
    assert record["value"] == pytest.approx(0.8)
    assert record["details"]["seconds"] == {"1": 8.0, "4": 2.5}
    assert record["suite"] == "scaling"


def test_the_student_of_the_plain_model_is_coded() -> None:
    model = plain()
    code_randomly_(model, scaling.PRESET)
    x = torch.randn(2, 3, 16, 16)
    out = model(x, torch.tensor([3, 5]), torch.tensor([0, 1])).sample
    assert out.shape == x.shape
    assert out.isfinite().all()


@pytest.mark.slow
def test_two_processes_are_measured_beside_one(capsys: pytest.CaptureFixture[str]) -> None:
    scaling.main(["--processes", "2", "--geometry", "tiny", "--rows", "sampling", "--dry-run"])
    assert '"scaling efficiency"' in capsys.readouterr().out
