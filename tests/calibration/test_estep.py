from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from dpqlab.calibration.batch import Batch
from dpqlab.calibration.data import CalibrationData
from dpqlab.calibration.estep import EStepConfig, assign_codes
from dpqlab.core import CodebookCodec
from dpqlab.core.assignment import AssignmentConfig
from dpqlab.errors import ConfigError
from dpqlab.nn import CompressedLinear
from tests.tiny import tiny_dit

ALL = AssignmentConfig(candidates=0, sweeps=4)


@pytest.fixture(scope="module")
def batches(data: CalibrationData) -> list[Batch]:
    generator = torch.Generator().manual_seed(5)
    return [data.draw(64, null_class=10, label_drop=0.1, generator=generator) for _ in range(2)]


def compressed_layers(model: Any) -> dict[str, CompressedLinear]:
    return {n: m for n, m in model.named_modules() if isinstance(m, CompressedLinear)}


def output_errors(student: Any, teacher: Any, batches: list[Batch]) -> dict[str, float]:
    """What the records claim, measured on the layers' outputs themselves."""
    outputs: dict[tuple[bool, str], list[torch.Tensor]] = {}

    def keep(mine: bool, name: str) -> Callable[..., None]:
        def hook(module: Any, args: Any, output: torch.Tensor) -> None:
            outputs.setdefault((mine, name), []).append(output.double().flatten(0, -2))

        return hook

    names = list(compressed_layers(student))
    hooks = [
        model.get_submodule(name).register_forward_hook(keep(model is student, name))
        for model in (student, teacher)
        for name in names
    ]
    with torch.no_grad():
        for batch in batches:
            for model in (student, teacher):
                model(batch.noisy, timestep=batch.timesteps, class_labels=batch.labels)
    for hook in hooks:
        hook.remove()
    errors: dict[str, float] = {}
    for name in names:
        y, mine = torch.cat(outputs[False, name]), torch.cat(outputs[True, name])
        bias = student.get_submodule(name).bias.double()
        errors[name] = float((y - mine).square().sum() / (y - bias).square().sum())
    return errors


def noise_error(student: Any, teacher: Any, batches: list[Batch]) -> float:
    with torch.no_grad():
        mine, wanted = (
            torch.cat([m(b.noisy, timestep=b.timesteps, class_labels=b.labels)[0] for b in batches])
            for m in (student, teacher)
        )
    return float((mine - wanted).square().mean() / wanted.square().mean())


def test_errors_fall_and_are_the_true_ones(
    student: Any, teacher: Any, batches: list[Batch]
) -> None:
    start = output_errors(student, teacher, batches)
    codes = {name: layer.codes() for name, layer in compressed_layers(student).items()}
    whole = noise_error(student, teacher, batches)
    records = {r.layer: r for r in assign_codes(student, teacher, batches)}
    assert records.keys() == codes.keys()
    for name, layer in compressed_layers(student).items():
        record = records[name]
        assert record.error_after <= record.error_before
        assert record.changed == int((layer.codes() != codes[name]).sum())
        assert record.total == codes[name].numel()
        assert record.seconds > 0
    first = [name for name in records if name.startswith("transformer_blocks.0.norm1")]
    end = output_errors(student, teacher, batches)
    for name in first:  # nothing that runs before it has codes: its inputs stayed the same
        assert records[name].error_before == pytest.approx(start[name], rel=1e-3)
        assert records[name].error_after == pytest.approx(end[name], rel=1e-3)
    assert noise_error(student, teacher, batches) < whole


@pytest.mark.parametrize("refresh", ["layer", "block"])
def test_later_layers_answer_to_the_codes_of_earlier_ones(
    student: Any, teacher: Any, batches: list[Batch], refresh: Any
) -> None:
    config = EStepConfig(assignment=ALL, refresh=refresh)
    fresh = (".1.", ".attn1.to_out") if refresh == "layer" else (".1.norm1",)
    for record in assign_codes(student, teacher, batches, config):
        if any(part in record.layer for part in fresh):
            break
    # the loop has stopped there, so all layers before are as this one has seen them
    now = output_errors(student, teacher, batches)[record.layer]
    assert record.error_after == pytest.approx(now, rel=1e-3)


def test_layers_come_as_they_run_and_a_pass_serves_several(
    compressed: Callable[..., Any], teacher: Any, batches: list[Batch]
) -> None:
    orders: list[list[str]] = []
    passes: list[int] = []
    errors: list[float] = []
    refreshes: list[Any] = ["layer", "block", "model"]
    for refresh in refreshes:
        student = compressed()
        first = student.get_submodule("transformer_blocks.0.norm1.linear")
        runs: list[None] = []
        handle = first.register_forward_hook(lambda *_, runs=runs: runs.append(None))
        config = EStepConfig(assignment=ALL, refresh=refresh)
        orders.append([r.layer for r in assign_codes(student, teacher, batches, config)])
        handle.remove()
        passes.append(len(runs))
        errors.append(noise_error(student, teacher, batches))
    assert orders[0] == orders[1] == orders[2]
    blocks = [name.split(".")[1] for name in orders[0]]
    assert blocks == sorted(blocks)
    assert orders[0][0].endswith("norm1.linear")
    # adaLN; query, key and value; the output; two of the feed-forward: in each of two blocks
    assert passes == [1 + stages * len(batches) for stages in (2 * 5, 2, 1)]
    assert errors[0] < errors[1] < errors[2]


def test_the_same_start_gives_the_same_codes_and_a_fixed_point_stays(
    compressed: Callable[..., Any], teacher: Any, batches: list[Batch]
) -> None:
    one, two = compressed(), compressed()
    config = EStepConfig(assignment=AssignmentConfig(candidates=0, sweeps=50, beam=0))
    first, second = (list(assign_codes(s, teacher, batches, config)) for s in (one, two))
    assert [r.changed for r in first] == [r.changed for r in second]
    for name, layer in compressed_layers(one).items():
        assert layer.codes().equal(two.get_submodule(name).codes())
    again = sum(r.changed for r in assign_codes(one, teacher, batches, config))
    assert again < 0.1 * sum(r.changed for r in first)


def test_pools_shared_by_a_kind_of_layer(
    compressed: Callable[..., Any], teacher: Any, batches: list[Batch]
) -> None:
    student = compressed(CodebookCodec(d=4, k=16, scope="layer", across="kind", iterations=2))
    pools = {name: layer.pool.clone() for name, layer in compressed_layers(student).items()}
    records = list(assign_codes(student, teacher, batches))
    assert sum(r.changed for r in records) > 0
    for name, layer in compressed_layers(student).items():
        assert layer.pool.equal(pools[name])


def test_a_cache_of_codes_follows(student: Any, teacher: Any, batches: list[Batch]) -> None:
    for layer in compressed_layers(student).values():
        layer.cache_codes_()
    list(assign_codes(student, teacher, batches))
    for layer in compressed_layers(student).values():
        cached = layer.entry_indices()
        layer.drop_codes_()
        assert cached.equal(layer.entry_indices())


def test_what_cannot_be_done_is_refused(student: Any, teacher: Any, batches: list[Batch]) -> None:
    with pytest.raises(ConfigError, match="no batches"):
        list(assign_codes(student, teacher, []))
    with pytest.raises(ConfigError, match="no compressed layer"):
        list(assign_codes(tiny_dit(), teacher, batches))
    wrong: Any = "never"
    with pytest.raises(ConfigError, match="unknown refresh"):
        EStepConfig(refresh=wrong)
