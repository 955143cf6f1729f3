from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dpqlab.core import CodebookCodec
from dpqlab.errors import ConfigError, ShapeError
from dpqlab.nn import CompressedLinear, Plan, compress_
from dpqlab.nn.activations import input_grams, input_moments, paired_statistics
from tests.tiny import tiny_dit

QUERY, GATE = "transformer_blocks.1.attn1.to_q", "transformer_blocks.0.norm1.linear"
EMBEDDER = "transformer_blocks.0.norm1.emb.timestep_embedder.linear_1"
NAMES = [QUERY, GATE, EMBEDDER]
Input = tuple[Tensor, Tensor, Tensor]


@pytest.fixture(autouse=True)
def tiny(one_thread: None) -> None:
    """One thread."""


@pytest.fixture(scope="module")
def teacher() -> Any:
    return tiny_dit().requires_grad_(False)


@pytest.fixture(scope="module")
def student() -> Any:
    model = tiny_dit()
    compress_(model, Plan.for_blocks(CodebookCodec(d=4, k=8, row_scale=True, iterations=2)))
    for module in model.modules():
        if isinstance(module, CompressedLinear) and module.bias is not None:
            module.bias.data += 0.1
    return model


def batches(sizes: tuple[int, ...] = (3, 5), device: str | torch.device = "cpu") -> list[Input]:
    generator = torch.Generator().manual_seed(0)
    return [
        (
            torch.randn(n, 1, 8, 8, generator=generator).to(device),
            torch.randint(1000, (n,), generator=generator).to(device),
            torch.randint(10, (n,), generator=generator).to(device),
        )
        for n in sizes
    ]


def run(model: Any, batch: Input) -> None:
    noisy, timesteps, labels = batch
    model(noisy, timestep=timesteps, class_labels=labels)


def seen(model: Any, name: str, given: list[Input]) -> tuple[Tensor, Tensor]:
    """All rows that go into a layer, and what comes out of it, in float64."""
    rows: list[tuple[Tensor, Tensor]] = []

    def keep(module: nn.Module, args: Any, output: Tensor) -> None:
        rows.append((args[0].flatten(0, -2).double(), output.flatten(0, -2).double()))

    handle = model.get_submodule(name).register_forward_hook(keep)
    with torch.no_grad():
        for batch in given:
            run(model, batch)
    handle.remove()
    x, y = zip(*rows, strict=True)
    return torch.cat(x), torch.cat(y)


def close(found: Tensor, expected: Tensor, share: float = 1e-5) -> None:
    assert found.dtype == torch.float64
    torch.testing.assert_close(
        found, expected, rtol=0, atol=share * float(expected.detach().abs().max())
    )


@pytest.mark.parametrize("name", NAMES)
def test_moments_and_grams_are_those_of_all_rows(teacher: Any, name: str) -> None:
    given = batches()
    x, _ = seen(teacher, name, given)
    with torch.no_grad(), input_moments(teacher, [name]) as moments:
        for batch in given:
            run(teacher, batch)
    with torch.no_grad(), input_grams(teacher, NAMES) as grams:
        for batch in given:
            run(teacher, batch)
    assert moments[name].count == grams[name].count == len(x)
    close(moments[name].mean, x.square().mean(0))
    close(grams[name].mean, x.T @ x / len(x))


def test_every_call_of_a_tied_module_counts(teacher: Any) -> None:
    other = EMBEDDER.replace("blocks.0", "blocks.1")
    with torch.no_grad(), input_moments(teacher, [EMBEDDER, other]) as moments:
        run(teacher, batches()[0])
    calls = moments[EMBEDDER].count // 3
    assert calls >= 2
    assert moments[other].count == moments[EMBEDDER].count


@pytest.mark.parametrize("name", NAMES)
def test_paired_moments_are_those_of_all_rows(teacher: Any, student: Any, name: str) -> None:
    given = batches()
    x, mine = seen(student, name, given)
    _, wanted = seen(teacher, name, given)
    layer = student.get_submodule(name)
    target = wanted - layer.bias.detach().double()
    found = paired_statistics(teacher, student, NAMES, run, given)[name]
    assert found.count == len(x)
    close(found.gram, x.T @ x / len(x))
    close(found.cross, target.T @ x / len(x))
    close(found.power, target.square().mean(0))
    weight = layer.decode() if isinstance(layer, CompressedLinear) else layer.weight
    error = float((wanted - mine).square().sum() / target.square().sum())
    assert found.output_error(weight) == pytest.approx(error, rel=1e-4, abs=1e-6)


def test_autocast_does_not_reach_the_sums(teacher: Any) -> None:
    given = batches()
    with torch.no_grad(), input_grams(teacher, [GATE]) as exact:
        run(teacher, given[0])
    with (
        torch.no_grad(),
        torch.autocast("cpu", torch.bfloat16),
        input_grams(teacher, [GATE]) as grams,
    ):
        run(teacher, given[0])
    gram = grams[GATE].mean
    close(gram, exact[GATE].mean, 0.05)
    assert bool((torch.linalg.eigvalsh(gram) > -1e-6 * gram.diagonal().max()).all())


def test_matrices_of_rows_work_too_and_hooks_go_away() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2, bias=False))
    x = torch.randn(7, 3)
    found = paired_statistics(model, model, ["0", "1"], lambda m, b: m(b), [x[:3], x[3:]])
    close(found["0"].gram, x.double().T @ x.double() / 7)
    assert found["1"].output_error(model[1].weight) == pytest.approx(0, abs=1e-6)
    assert not any(module._forward_hooks for module in model.modules())
    with pytest.raises(RuntimeError, match="stop"), input_moments(model, ["0"]):
        raise RuntimeError("stop")
    assert not any(module._forward_hooks for module in model.modules())


def test_what_cannot_be_watched_is_refused(teacher: Any) -> None:
    for name, text in (("nothing", "no module"), ("transformer_blocks.0", "BasicTransformerBlock")):
        with pytest.raises(ConfigError, match=text), input_moments(teacher, [name]):
            pass
    with input_moments(teacher, [QUERY]) as moments, pytest.raises(ConfigError, match="not run"):
        _ = moments[QUERY].mean


def test_models_that_run_differently_are_refused() -> None:
    model, other = nn.Sequential(nn.Linear(3, 3)), nn.Sequential(nn.Linear(3, 3))

    def times(teacher: int, student: int) -> Callable[[nn.Module, Tensor], None]:
        def pass_through(m: nn.Module, batch: Tensor) -> None:
            for _ in range(teacher if m is model else student):
                m(batch)

        return pass_through

    for counts in ((2, 1), (1, 2)):
        with pytest.raises(ShapeError, match="run alike"):
            paired_statistics(model, other, ["0"], times(*counts), [torch.randn(2, 3)])


def test_on_each_device(teacher: Any, device: torch.device) -> None:
    given = batches()
    x, _ = seen(teacher, QUERY, given)
    model = tiny_dit().to(device)
    with torch.no_grad(), input_grams(model, [QUERY]) as grams:
        for batch in batches(device=device):
            run(model, batch)
    assert grams[QUERY].mean.device.type == device.type
    close(grams[QUERY].mean.cpu(), x.T @ x / len(x), 1e-3)
