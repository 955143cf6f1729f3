"""The runtime against the model that it was made from: same function, whatever the mode."""

from __future__ import annotations

import copy
import gc
import weakref
from dataclasses import fields, replace
from functools import cache
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor, nn

from dpqlab.core import CodebookCodec, ScalarCodec
from dpqlab.diffusion import SampleRequest, load_pipeline, make_scheduler, sample_images
from dpqlab.diffusion.pipeline import PixelDiTPipeline
from dpqlab.diffusion.runtime import DiTRuntime, HeldBytes, RuntimeConfig, prepare_runtime
from dpqlab.diffusion.runtime.parts import Part
from dpqlab.diffusion.runtime.runs import TableRun
from dpqlab.diffusion.sampling import compute_dtype, guided_prediction, sample_steps
from dpqlab.diffusion.schedules import TRAINING_NOISE
from dpqlab.errors import ConfigError, ShapeError
from dpqlab.kernels import reference
from dpqlab.kernels.coded import CodedWeight
from dpqlab.nn import Plan, compress_
from dpqlab.nn.embedder import untie_embedders_
from dpqlab.nn.linear import CompressedLinear, PackedLinear
from tests.tiny import tiny_dit

# in diffusers, which hands a tensor to numpy
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

MODES = [
    RuntimeConfig(modulation=modulation, linear=linear)
    for modulation in ("ahead", "per step")
    for linear in ("decode", "kernel", "hold")
]
REQUEST = SampleRequest(labels=(3, 0, 9, 3), seed=5, steps=5, guidance=2.5)


def mode_name(config: RuntimeConfig) -> str:
    return f"{config.modulation}-{config.linear}"


@torch.no_grad()
def plain(model: Any, x: Tensor, times: Tensor, labels: Tensor) -> Tensor:
    return model(x, timestep=times, class_labels=labels).sample


def assert_equal_functions(model: Any, runtime: DiTRuntime, tolerance: float = 1e-5) -> None:
    """Compare at four timesteps and labels, the null class among them."""
    config = model.config
    side, classes = config.sample_size, config.num_embeds_ada_norm
    x = torch.randn(4, config.in_channels, side, side).to(compute_dtype(model))
    times = torch.tensor([999, 0, 37, 500])
    labels = torch.tensor([0, classes, classes - 1, 3])
    expected = plain(model, x, times, labels)
    ours = runtime(x, timestep=times, class_labels=labels).sample
    assert ours.shape == expected.shape
    assert ours.dtype == expected.dtype
    assert error(ours, expected) < tolerance
    # it is a function of all that it is given
    assert error(runtime(x, timestep=times.flip(0), class_labels=labels).sample, expected) > 1e-3
    assert error(runtime(x, timestep=times, class_labels=labels.flip(0)).sample, expected) > 1e-3


def error(ours: Tensor, expected: Tensor) -> float:
    return ((ours - expected).norm() / expected.norm()).item()


def psnr(ours: Tensor, expected: Tensor) -> float:
    squared = (ours.double() - expected.double()).square().mean()
    return float(10 * torch.log10(255**2 / squared))


def odd_dit() -> Any:
    """DiT-XL/2's traits in small, and what a converted checkpoint may have been patched with."""
    model = tiny_dit(
        in_channels=4, out_channels=8, patch_size=2, num_embeds_ada_norm=1000, num_layers=3
    )
    untie_embedders_(model)
    for index, block in enumerate(model.transformer_blocks[1:]):
        nn.init.normal_(block.norm1.emb.timestep_embedder.linear_2.weight, std=0.2)
        block.norm1.emb.time_proj.downscale_freq_shift = index
        block.norm3.eps = 0.1
    model.transformer_blocks[0].norm1.norm.eps = 0.2
    return model


def compressed(model: Any, codec: Any, **others: Any) -> Any:
    compress_(model, Plan.for_blocks({"*": codec} | others if others else codec))
    return model


PQ = CodebookCodec(d=4, k=16, row_scale=True, iterations=2)
MODELS = {
    "dense": tiny_dit,
    "odd": odd_dit,
    "pq": lambda: compressed(tiny_dit(), PQ),
    # 32 and 128 inputs are no multiples of 5
    "vq": lambda: compressed(tiny_dit(), CodebookCodec(d=5, k=11, scope="layer", iterations=2)),
    "odd pq": lambda: compressed(odd_dit(), PQ),
    "scalar": lambda: compressed(tiny_dit(), ScalarCodec(bits=3, group_size=16)),
    "no bias": lambda: tiny_dit(attention_bias=False),
    "exact gelu": lambda: tiny_dit(activation_fn="gelu"),
    "bfloat16": lambda: tiny_dit().to(torch.bfloat16),
}


@cache
def once(kind: str) -> Any:
    return mixed() if kind == "mixed" else MODELS[kind]()


def new(kind: str) -> Any:
    """A model of ``MODELS``, or the mixed one, to do anything with."""
    return copy.deepcopy(once(kind))


def mixed() -> Any:
    """Layers of three kinds in one model, and in one q/k/v."""
    coded, scalar, dense = new("pq"), new("scalar"), tiny_dit()
    for name in ("0.attn1.to_k", "1.ff.net.2", "0.norm1.linear"):
        coded.transformer_blocks.set_submodule(name, dense.transformer_blocks.get_submodule(name))
    for name in ("0.attn1.to_v", "1.ff.net.0.proj", "1.norm1.linear"):
        coded.transformer_blocks.set_submodule(name, scalar.transformer_blocks.get_submodule(name))
    return coded


@pytest.mark.parametrize("mode", MODES, ids=mode_name)
@pytest.mark.parametrize("kind", [*MODELS, "mixed"])
def test_it_is_the_same_function(kind, mode):
    model = new(kind)
    tolerance = 0.02 if kind == "bfloat16" else 1e-5
    assert_equal_functions(model, prepare_runtime(model, mode), tolerance)


@pytest.mark.parametrize("modulation", ["ahead", "per step"])
@pytest.mark.parametrize("name", ["fashion-dit", "fashion-dit-dpq-1bit", "fashion-dit-best-1bit"])
def test_bundled_models(name, modulation):
    pipeline = load_pipeline(name)
    runtime = prepare_runtime(pipeline.transformer, RuntimeConfig(modulation=modulation))
    assert_equal_functions(pipeline.transformer, runtime)
    request = SampleRequest(labels=(0, 7), steps=4)
    ours = sample_images(runtime, pipeline.scheduler, request)
    assert psnr(ours, sample_images(pipeline.transformer, pipeline.scheduler, request)) > 60


@pytest.mark.parametrize("guidance", [1.0, 2.5])
@pytest.mark.parametrize("modulation", ["ahead", "per step"])
@pytest.mark.parametrize("kind", ["dense", "pq"])
def test_sampling_end_to_end(kind, modulation, guidance):
    model = new(kind)
    request = replace(REQUEST, guidance=guidance)
    runtime = prepare_runtime(model, RuntimeConfig(modulation=modulation))
    for name in ("ddim", "dpm"):
        expected = sample_images(model, make_scheduler(name), request)
        assert psnr(sample_images(runtime, make_scheduler(name), request), expected) > 60


def test_a_schedule_of_fractions(dit):
    """Euler's timesteps are floats."""
    euler = diffusers.EulerDiscreteScheduler(**TRAINING_NOISE, timestep_spacing="linspace")
    request = replace(REQUEST, steps=7)
    runtime = prepare_runtime(dit)
    assert psnr(sample_images(runtime, euler, request), sample_images(dit, euler, request)) > 60
    assert any(float(t) % 1 for t in euler.timesteps)
    assert runtime.modulation_bytes > 0


def test_guidance_goes_through_the_same_function(dit):
    x, labels, t = torch.randn(2, 1, 8, 8), torch.tensor([4, 5]), torch.tensor(300)
    runtime = prepare_runtime(dit)
    for guidance in (0.0, 1.0, 3.0):
        ours = guided_prediction(runtime, x, t, labels, guidance)
        with torch.no_grad():
            expected = guided_prediction(dit, x, t, labels, guidance)
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)
    assert not ours.requires_grad


def test_packed_layers_do_what_suits_the_device():
    assert RuntimeConfig().linear_on("cpu") == "kernel"
    assert RuntimeConfig().linear_on("cuda") == "decode"
    assert RuntimeConfig(linear="hold").linear_on("cpu") == "hold"


class CountingDecoder:
    """Decodes by the reference, and notes which weights."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, int]] = []

    def __call__(self, weight: CodedWeight, out: Tensor) -> None:
        assert out.is_contiguous()
        self.shapes.append(weight.shape)
        reference.decode(weight, out.dtype, out)


def test_modulation_layers_are_decoded_once_a_schedule():
    model, decoder = new("pq"), CountingDecoder()
    runtime = prepare_runtime(model, RuntimeConfig(linear="decode"), decoder=decoder)
    assert not decoder.shapes
    for _ in sample_steps(runtime, make_scheduler(), REQUEST):
        pass
    tokens = [(32, 32)] * 4 + [(128, 32), (32, 128)]
    assert decoder.shapes == [(192, 32)] * 2 + tokens * 2 * REQUEST.steps
    # the next request has a schedule of its own, another call none
    for _ in sample_steps(runtime, make_scheduler(), replace(REQUEST, labels=(1,), steps=1)):
        pass
    assert decoder.shapes.count((192, 32)) == 4
    runtime(torch.randn(1, 1, 8, 8), timestep=999, class_labels=torch.tensor([1]))
    assert decoder.shapes.count((192, 32)) == 4
    runtime(torch.randn(1, 1, 8, 8), timestep=998, class_labels=torch.tensor([1]))
    assert decoder.shapes.count((192, 32)) == 6


def test_weights_that_are_held_are_decoded_once():
    model, decoder = new("pq"), CountingDecoder()
    runtime = prepare_runtime(
        model, RuntimeConfig(linear="hold", modulation="per step"), decoder=decoder
    )
    assert len(decoder.shapes) == 14
    sample_images(runtime, make_scheduler(), REQUEST)
    assert len(decoder.shapes) == 14
    assert runtime.weight_bytes.codes == runtime.weight_bytes.scratch == 0


@pytest.mark.parametrize(("steps_held", "tables"), [(0, 5), (1, 5), (2, 3), (4, 2), (5, 1)])
def test_a_long_schedule_is_computed_in_runs(dit, steps_held, tables):
    labels, row = 4, (2 * 6 + 2) * 32 * 4  # three classes and none; bytes
    limit = max(steps_held * labels * row, 1)
    runtime = prepare_runtime(dit, RuntimeConfig(table_bytes=limit))
    made = count_products(runtime)
    steps = sample_steps(runtime, make_scheduler(), REQUEST)
    for ours, expected in zip(steps, sample_steps(dit, make_scheduler(), REQUEST), strict=True):
        torch.testing.assert_close(ours.latents, expected.latents, rtol=1e-4, atol=1e-4)
        assert 0 < runtime.modulation_bytes <= max(limit, labels * row)
    assert len(made) == tables
    assert sum(made) == 5 * labels


def count_products(runtime: DiTRuntime) -> list[int]:
    """Collect the rows of every computation of modulations."""
    table: Any = runtime._table
    compute, rows = table.compute, []

    class Counting:
        layout, belt, held = compute.layout, compute.belt, compute.held

        def __call__(self, times: Tensor, labels: Tensor) -> Tensor:
            rows.append(len(times))
            return compute(times, labels)

    table.compute = Counting()
    return rows


def test_what_was_not_expected_is_computed_on_demand(dit):
    runtime = prepare_runtime(dit)
    runtime.expect([900, 500, 100], [1, 2])
    rows = count_products(runtime)
    x = torch.randn(2, 1, 8, 8)

    def check(times: Tensor, labels: list[int]) -> None:
        expected = plain(dit, x, times.expand(2), torch.tensor(labels))
        ours = runtime(x, timestep=times, class_labels=torch.tensor(labels)).sample
        assert error(ours, expected) < 1e-5

    check(torch.tensor(500), [2, 1])
    check(torch.tensor([900]), [1, 1])
    assert rows == [6]
    check(torch.tensor(499), [2, 1])  # a timestep
    check(torch.tensor(500), [2, 3])  # a label
    check(torch.tensor([500, 900]), [1, 1])  # each known, but not together
    check(torch.tensor(321), [5, 5])  # one pair twice
    assert rows == [6, 2, 2, 2, 1]
    check(torch.tensor(100), [2, 2])
    assert len(rows) == 5


def test_two_samplers_may_take_turns(dit):
    runtime = prepare_runtime(dit)
    requests = [REQUEST, replace(REQUEST, labels=(1, 2), steps=4, seed=6)]
    steps = [sample_steps(runtime, make_scheduler(), request) for request in requests]
    last: list[Any] = [None, None]
    for _ in range(5):
        last = [next(s, before) for s, before in zip(steps, last, strict=True)]
    for request, step in zip(requests, last, strict=True):
        *_, expected = sample_steps(dit, make_scheduler(), request)
        torch.testing.assert_close(step.latents, expected.latents, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mode", MODES, ids=mode_name)
def test_batches_of_other_sizes_in_a_row(mode):
    model = new("pq")
    runtime = prepare_runtime(model, mode)
    kept: list[tuple[Tensor, Tensor]] = []
    for size in (3, 1, 3, 12, 2):
        x, t = torch.randn(size, 1, 8, 8), torch.tensor(250)
        labels = torch.arange(size) % 11
        ours = runtime(x, timestep=t, class_labels=labels).sample
        kept.append((ours, plain(model, x, t.expand(size), labels)))
    for ours, expected in kept:  # afterwards: no result lies where a later call writes
        assert error(ours, expected) < 1e-5


@pytest.mark.parametrize(
    ("x", "times", "labels", "what"),
    [
        ((2, 1, 8, 9), (2,), (2,), "images"),
        ((2, 1, 12, 12), (2,), (2,), "images"),
        ((2, 3, 8, 8), (2,), (2,), "images"),
        ((1, 8, 8), (1,), (1,), "images"),
        ((0, 1, 8, 8), (1,), (0,), "images"),
        ((2, 1, 8, 8), (3,), (2,), "timesteps"),
        ((2, 1, 8, 8), (2,), (1,), "class_labels"),
        ((2, 1, 8, 8), (2,), (2, 1), "class_labels"),
    ],
)
def test_wrong_shapes(dit, x, times, labels, what):
    runtime = prepare_runtime(dit)
    with pytest.raises(ShapeError, match=f"{what}.*expected"):
        runtime(
            torch.zeros(x),
            timestep=torch.zeros(times, dtype=torch.int64),
            class_labels=torch.zeros(labels, dtype=torch.int64),
        )


@pytest.mark.parametrize("label", [-1, 11])
def test_unknown_labels(dit, label):
    runtime = prepare_runtime(dit)
    with pytest.raises(ConfigError, match="expected 0 to 10"):
        runtime(torch.zeros(1, 1, 8, 8), timestep=5, class_labels=torch.tensor([label]))
    with pytest.raises(ConfigError, match="expected 0 to 10"):
        runtime.expect([5], [0, label])


def test_bytes_of_a_compressed_model_add_up():
    model = compressed(tiny_dit(), replace(PQ, across="kind"))
    runtime = prepare_runtime(model)
    layers = [m for m in model.modules() if isinstance(m, CompressedLinear)]
    dense = [m for m in model.modules() if type(m) in (nn.Linear, nn.Embedding, nn.Conv2d)]
    pools = {id(layer.pool): layer.pool for layer in layers}
    held = runtime.weight_bytes
    assert held == HeldBytes(
        codes=sum(layer.weight.numel() for layer in layers),
        pools=sum(pool.nbytes for pool in pools.values()),
        scopes=sum(8 * layer.positions for layer in layers),
        scales=sum(2 * layer.out_features for layer in layers),
        # both Linears of the embedder keep their biases with them
        dense=sum(m.weight.nbytes for m in dense) + 2 * 32 * 4 + model.pos_embed.pos_embed.nbytes,
        biases=4 * sum(layer.out_features for layer in layers) + 4 * (32 + 64 + 16),
        scratch=4 * 192 * 32,  # one buffer of the largest layer
    )
    assert held.total == sum(getattr(held, field.name) for field in fields(held))
    tensors = {tensor.data_ptr(): tensor.nbytes for tensor in runtime.parameters()}
    assert held.total == sum(tensors.values())
    sample_images(runtime, make_scheduler(), REQUEST)
    after = runtime.weight_bytes
    assert runtime.modulation_bytes == after.modulation == 5 * 4 * (2 * 6 + 2) * 32 * 4
    assert replace(after, modulation=0) == held


def test_bytes_of_the_table_kernels_layout_add_up():
    """It runs on CUDA only, but is laid out anywhere."""
    model = compressed(tiny_dit(), PQ)
    linears = [block.norm1.linear for block in model.transformer_blocks]
    run = TableRun([Part.of(linear, "norm1.linear") for linear in linears], rows=8)
    tensors = [v for v in vars(run.prepared).values() if isinstance(v, Tensor)]
    assert HeldBytes.of(run.held()).total == sum(tensor.nbytes for tensor in tensors) > 0


def test_images_may_be_views(dit):
    x, labels = torch.randn(8, 8, 2, 1).permute(2, 3, 1, 0), torch.tensor([1, 2])
    ours = prepare_runtime(dit)(x, timestep=3, class_labels=labels).sample
    assert error(ours, plain(dit, x, torch.tensor([3, 3]), labels)) < 1e-5


def test_dense_weights_are_shared_and_counted_once(dit):
    runtime = prepare_runtime(dit)
    theirs = {p.data_ptr() for p in dit.parameters()}
    own = sum(t.nbytes for t in runtime.parameters() if t.data_ptr() not in theirs)
    # q, k and v side by side; the positions are no parameter
    assert own == 2 * 3 * (32 * 32 + 32) * 4 + dit.pos_embed.pos_embed.nbytes
    assert runtime.weight_bytes.codes == runtime.weight_bytes.scratch == 0


def test_the_transformer_stays_as_it_is_and_may_go():
    model = new("pq")
    modules = {name: id(module) for name, module in model.named_modules()}
    before = copy.deepcopy(model.state_dict())
    runtime = prepare_runtime(model)
    x, labels = torch.randn(2, 1, 8, 8), torch.tensor([1, 10])
    ours = runtime(x, timestep=7, class_labels=labels).sample
    assert {name: id(module) for name, module in model.named_modules()} == modules
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(m._held is not None for m in model.modules() if isinstance(m, PackedLinear))
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
    assert torch.equal(runtime(x, timestep=7, class_labels=labels).sample, ours)


def test_labels_are_never_dropped():
    model = tiny_dit().train()
    for block in model.transformer_blocks:
        block.norm1.emb.class_embedder.dropout_prob = 0.9
    runtime = prepare_runtime(model)
    assert_equal_functions(model.eval(), runtime)


def test_a_pipeline_takes_it(dit):
    pipeline = PixelDiTPipeline(prepare_runtime(dit), make_scheduler())  # pyright: ignore
    plain_pipeline = PixelDiTPipeline(dit, make_scheduler())
    for other in (pipeline, plain_pipeline):
        other.set_progress_bar_config(disable=True)
    drawn, expected = (
        p([1, 2], num_inference_steps=3, output_type="pt").images
        for p in (pipeline, plain_pipeline)
    )
    torch.testing.assert_close(drawn, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"modulation": "later"}, "modulation.*ahead"),
        ({"linear": "magic"}, "linear.*decode"),
        ({"graphs": "yes"}, "graphs"),
        ({"overlap": None}, "overlap"),
        ({"table_bytes": -1}, "table_bytes"),
        ({"table_bytes": 1.5}, "table_bytes"),
        ({"table_bytes": True}, "table_bytes"),
    ],
)
def test_impossible_settings(options, what):
    with pytest.raises(ConfigError, match=what):
        RuntimeConfig(**options)


def with_norm_weights() -> Any:
    return tiny_dit(norm_elementwise_affine=True)


def with_an_adapter() -> Any:
    class Adapted(nn.Linear):
        pass

    model = tiny_dit()
    model.transformer_blocks[1].attn1.to_q = Adapted(32, 32)
    return model


def on_meta() -> Any:
    return tiny_dit().to("meta")


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (with_norm_weights, "transformer_blocks.0 has a norm with weights"),
        (with_an_adapter, "transformer_blocks.1.to_q is a Adapted"),
        (lambda: tiny_dit(activation_fn="geglu"), "activation GEGLU"),
        (on_meta, "on meta"),
        (lambda: nn.Linear(2, 2), "got a Linear"),
    ],
)
def test_models_it_does_not_know(make, what):
    with pytest.raises(ConfigError, match=what):
        prepare_runtime(make())


def test_graphs_need_cuda(dit):
    with pytest.raises(ConfigError, match="graphs is True on cpu"):
        prepare_runtime(dit, RuntimeConfig(graphs=True))
