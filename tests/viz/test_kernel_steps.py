"""What a kernel does with a code, followed with real numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dpqlab.errors import ShapeError
from dpqlab.kernels import ops
from dpqlab.speed import coded_layers, layer_kinds
from dpqlab.viz.kernel_steps import kernel_steps, row_steps

KIND = layer_kinds(48, 1)[0]


@pytest.mark.parametrize("name", ["best-1bit", "dpq-2bit", "vq-1bit"])
@pytest.mark.parametrize("row", [0, 5])
def test_both_ways_lead_to_the_product(name: str, row: int) -> None:
    weight = coded_layers(name, KIND, device="cpu")[0]
    x = torch.randn(48, generator=torch.Generator().manual_seed(1))
    steps = row_steps(weight, x, row=row)
    count = steps.words.size
    decoded = ops.decode(weight)[row, :count]
    np.testing.assert_allclose(steps.scale * steps.words.ravel(), decoded.numpy(), rtol=1e-6)
    expected = float(decoded @ x[:count])
    assert float(steps.products.sum()) == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert steps.scale * float(steps.found.sum()) == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert steps.start == row * weight.positions * weight.code_bits
    assert len(steps.bits) == len(steps.codes) * weight.code_bits


def test_the_figure_says_both_sums() -> None:
    weight = coded_layers("best-1bit", KIND, device="cpu")[0]
    steps = row_steps(weight, torch.randn(48, generator=torch.Generator().manual_seed(1)))
    said = " ".join(a.text for a in kernel_steps(steps).layout.annotations)
    assert f"sum {steps.products.sum():+.4f}" in said
    assert f"= {steps.scale * steps.found.sum():+.4f}" in said


def test_what_is_not_there_is_refused() -> None:
    weight = coded_layers("best-1bit", KIND, device="cpu")[0]
    with pytest.raises(ShapeError, match="expected a row below 48"):
        row_steps(weight, torch.randn(48), row=48)
    with pytest.raises(ShapeError, match="positions"):
        row_steps(weight, torch.randn(48), positions=9)
    with pytest.raises(ShapeError, match="x of shape"):
        row_steps(weight, torch.randn(47))
