"""The rivals: their sizes are what they store, and VQ4DiT does what its paper says."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import rivals, sdnq
from benchmarks import vq4dit as vq4dit_module
from benchmarks.record import latest, read
from benchmarks.vq4dit import SoftLinear, Trajectories, Vq4ditConfig, vq4dit
from dpqlab.calibration.objectives import block_errors
from dpqlab.core import CodebookCodec
from dpqlab.diffusion import load_pipeline, models, sample_steps
from dpqlab.diffusion.pipeline import PixelDiTPipeline
from dpqlab.diffusion.sampling import SampleRequest
from dpqlab.diffusion.schedules import make_scheduler
from dpqlab.errors import ConfigError
from dpqlab.nn import CompressedLinear, Plan, compress_, ledger_of_model
from tests.tiny import TINY, tiny_dit

VQ = CodebookCodec(d=4, k=16, scope="layer", iterations=2)
CONFIG = Vq4ditConfig(steps=60, batch=16, sampling_steps=5, every=15, ratio_rate=0.05)


@pytest.fixture(autouse=True)
def small_machine(one_thread: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread and no GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture(scope="module")
def teacher() -> Any:
    """The full-precision model; tests must not change it."""
    return tiny_dit().requires_grad_(False)


@pytest.fixture(scope="module")
def made(teacher: Any) -> Any:
    """A VQ student, to be copied."""
    student = copy.deepcopy(teacher)
    compress_(student, Plan.for_blocks(VQ))
    return student


@pytest.fixture
def student(made: Any) -> Any:
    """A VQ student to do anything with."""
    return copy.deepcopy(made)


def layers_of(model: Any) -> dict[str, CompressedLinear]:
    return {n: m for n, m in model.named_modules() if isinstance(m, CompressedLinear)}


def soft_of(student: Any, teacher: Any, config: Vq4ditConfig = CONFIG) -> SoftLinear:
    name, layer = next(iter(layers_of(student).items()))
    return SoftLinear(layer, teacher.get_submodule(name).weight, config)


# --- VQ4DiT


def test_candidates_are_the_nearest_codewords(student, teacher):
    name, layer = next(iter(layers_of(student).items()))
    soft = soft_of(student, teacher)
    points = teacher.get_submodule(name).weight.view(-1, layer.positions, 4)
    words = layer.pool.float()
    for row, position in [(0, 0), (3, 2), (17, 5)]:
        squares = (points[row, position] - words).square().sum(1)
        assert soft.candidates[row, position].tolist() == squares.argsort()[:3].tolist()
    assert torch.equal(soft.codes().long(), layer.codes())


def test_a_weight_is_the_average_of_its_candidates(student, teacher, generator):
    soft = soft_of(student, teacher)
    with torch.no_grad():
        soft.logits.normal_(generator=generator)
    weight, ratios = soft.weight(), soft.logits.softmax(-1)
    for row, position in [(0, 0), (5, 3)]:
        words = soft.codebook[soft.candidates[row, position].long()]
        expected = sum(r * w for r, w in zip(ratios[row, position], words, strict=True))
        torch.testing.assert_close(weight[row, 4 * position : 4 * position + 4], expected)
    picked = soft.weight(soft.codes())
    soft.store_()
    torch.testing.assert_close(soft.layer.decode(), picked, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("start", "equal"), [("equal", True), ("distance", False)])
def test_ratios_start_equal_or_by_distance(student, teacher, start, equal):
    ratios = soft_of(student, teacher, Vq4ditConfig(start=start)).ratios()
    torch.testing.assert_close(ratios.sum(-1), torch.ones_like(ratios[..., 0]))
    assert torch.allclose(ratios, torch.tensor(1 / 3)) == equal
    assert (ratios[..., 0] >= ratios[..., -1]).all()


def test_the_ratio_loss_is_zero_once_all_is_decided(student, teacher):
    soft = soft_of(student, teacher, Vq4ditConfig(start="equal"))
    assert vq4dit_module.ratio_loss([soft]).item() == pytest.approx(2)  # 3 * (1 - |2/3 - 1|)
    with torch.no_grad():
        soft.logits[..., 1] = 40
    assert vq4dit_module.ratio_loss([soft]).item() == pytest.approx(0, abs=1e-6)
    assert torch.equal(soft.codes(), soft.candidates[..., 1])


def test_a_row_that_d_does_not_divide(teacher):
    student = copy.deepcopy(teacher)
    compress_(student, Plan.for_blocks(CodebookCodec(d=5, k=8, scope="layer", iterations=2)))
    soft = soft_of(student, teacher)
    assert soft.weight().shape == (soft.layer.out_features, soft.layer.in_features)
    assert torch.equal(soft.codes().long(), soft.layer.codes())


def test_a_ddim_step_is_that_of_the_sampler(generator):
    scheduler: Any = make_scheduler("ddim")
    scheduler.set_timesteps(10)
    alphas = [*scheduler.alphas_cumprod[scheduler.timesteps], scheduler.final_alpha_cumprod]
    for index in (0, 4, 9):
        x, noise = torch.randn(2, 3, 1, 4, 4, generator=generator)
        t = scheduler.timesteps[index]
        wanted = scheduler.step(noise, t, x, use_clipped_model_output=True).prev_sample
        a, b = alphas[index].expand(3), alphas[index + 1].expand(3)
        torch.testing.assert_close(vq4dit_module.ddim_step(x, noise, a, b), wanted)


def test_trajectories_are_those_of_guided_sampling(teacher):
    """An image that starts when all are drawn fresh goes where the sampler would take it."""
    paths = Trajectories(teacher, CONFIG, seed=0)
    starting = (paths.stage == 0).nonzero()[0].item()
    x, label = paths.x[starting].clone(), int(paths.labels[starting])
    request = SampleRequest(labels=(label,), steps=5, guidance=CONFIG.guidance)
    for step in sample_steps(teacher, make_scheduler("ddim"), request, latents=x[None]):
        batch, _ = paths.draw()
        assert (batch.timesteps[starting], batch.labels[starting]) == (step.timestep, label)
        if step.index < 4:
            torch.testing.assert_close(paths.x[starting], step.latents[0], rtol=1e-4, atol=1e-4)
    assert paths.stage[starting] == 0
    assert set(batch.labels[8:].tolist()) == {10}


def test_a_batch_is_spread_over_the_trajectory(teacher):
    paths = Trajectories(teacher, CONFIG, seed=0)
    assert sorted(set(paths.stage.tolist())) == [0, 1, 2, 3, 4]
    batch, blocks = paths.draw()
    assert len(batch.noisy) == CONFIG.batch
    assert len(blocks) == 2
    assert torch.equal(batch.noisy[:8], batch.noisy[8:])


def test_vq4dit_lowers_the_block_error(student, teacher):
    before = {name: layer.codes() for name, layer in layers_of(student).items()}
    biases = {name: layer.bias.clone() for name, layer in layers_of(student).items()}
    nearest = {
        name: SoftLinear(layer, teacher.get_submodule(name).weight, CONFIG).candidates
        for name, layer in layers_of(student).items()
    }
    records = list(vq4dit(student, teacher, CONFIG))
    assert [record.step for record in records] == [0, 15, 30, 45, 60]
    assert records[0].moved == 0
    assert records[-1].moved > 0
    assert records[-1].loss < 0.7 * records[0].loss
    assert records[-1].training == pytest.approx(records[-1].loss, rel=0.05)
    assert records[2].ratio < records[0].ratio
    for name, layer in layers_of(student).items():
        codes = layer.codes()
        assert ((codes >= 0) & (codes < len(layer.pool))).all()
        assert (codes[..., None] == nearest[name]).any(-1).all()
        assert torch.equal(layer.bias, biases[name])
    assert any(not torch.equal(layer.codes(), before[n]) for n, layer in layers_of(student).items())


def test_the_same_seed_gives_the_same_student(made, teacher):
    settings = Vq4ditConfig(steps=4, batch=4, sampling_steps=3, every=2)
    students = [copy.deepcopy(made) for _ in range(2)]
    courses = [[r.loss for r in vq4dit(s, teacher, settings)] for s in students]
    assert courses[0] == courses[1]
    for a, b in zip(*(layers_of(s).values() for s in students), strict=True):
        assert torch.equal(a.weight, b.weight)
        assert torch.equal(a.pool, b.pool)


def test_leaving_early_leaves_what_was_judged(student, teacher):
    settings = Vq4ditConfig(steps=8, batch=8, sampling_steps=3, every=2)
    record = list(itertools.islice(vq4dit(student, teacher, settings), 3))[-1]
    inputs, wanted = Trajectories(teacher, settings, seed=settings.seed + 1).draw()
    with torch.no_grad():
        mine = vq4dit_module.run(student, inputs, {})[1]
    assert block_errors(mine, wanted).mean().item() == pytest.approx(record.loss)


def test_what_vq4dit_cannot_do_is_said(teacher):
    with pytest.raises(ConfigError, match="no compressed layers"):
        next(vq4dit(teacher, teacher, CONFIG))
    scaled = copy.deepcopy(teacher)
    compress_(scaled, Plan.for_blocks(CodebookCodec(d=4, k=8, row_scale=True, iterations=1)))
    with pytest.raises(ConfigError, match="one codebook a layer"):
        next(vq4dit(scaled, teacher, CONFIG))
    for wrong in ({"steps": 0}, {"batch": 3}, {"soft_share": 2.0}, {"start": "no"}):
        with pytest.raises(ConfigError):
            Vq4ditConfig(**wrong)


def test_settings_from_the_command_line():
    changed = vq4dit_module.vq4dit_config(["steps=7", "ratio_rate=.5", "start=equal"])
    assert changed == Vq4ditConfig(steps=7, ratio_rate=0.5, start="equal")
    for wrong in ("step=7", "steps=many", "steps"):
        with pytest.raises(ConfigError, match="no setting of VQ4DiT"):
            vq4dit_module.vq4dit_config([wrong])


# --- SDNQ, where it is installed


@pytest.fixture(scope="module")
def wide() -> Any:
    """A DiT whose Linears are large enough for SDNQ: 128 x 128 and up."""
    pytest.importorskip("sdnq")
    return tiny_dit(attention_head_dim=64, num_layers=1)


LEVELS_U8 = 256 * 16  # fp16 values behind the 8-bit levels of a layer


def expected_bits(mode: str, rows: int, columns: int) -> int:
    """What a layer stores in a mode, derived by hand."""
    code = 2 if mode.startswith("2bit") else 1
    bits = code * rows * columns + 16 * rows
    if mode in ("2bit", "1bit"):
        group = {2: 128, 1: 64}[code]
        return bits + rows * columns // group * 2**code * 16
    bits += rows * 2**code * 8 + LEVELS_U8
    return bits + (16 * (rows + columns) if mode.endswith("svd") else 0)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["2bit", "2bit-row", "2bit-svd", "1bit", "1bit-row", "1bit-svd"])
def test_sdnq_counts_what_it_stores(wide, mode):
    shapes = [
        (module.out_features, module.in_features)
        for name, module in wide.named_modules()
        if isinstance(module, torch.nn.Linear) and name.startswith("transformer_blocks")
        and ".emb." not in name
    ]  # fmt: skip
    _, bits, details = sdnq.quantize_sdnq(copy.deepcopy(wide), mode)
    weights = sum(rows * columns for rows, columns in shapes)
    assert bits == sum(expected_bits(mode, *shape) for shape in shapes) / weights
    assert details["true_bits"] == bits
    assert details["kept_in_blocks"] == 0
    # 0.2.8 stores eight 1-bit codes in an int64
    assert details["bits_as_stored"] == bits + (7 if mode.startswith("1bit") else 0)
    assert 0.02 < details["relative_weight_error"] < 0.4
    json.dumps(details, allow_nan=False)


@pytest.mark.slow
def test_sdnq_leaves_a_dense_model_that_samples(wide):
    model, _, details = sdnq.quantize_sdnq(copy.deepcopy(wide), "2bit-svd32")
    inputs = torch.ones(2, 1, 8, 8), torch.tensor([5, 900]), torch.tensor([1, 10])
    with torch.no_grad():
        mine, theirs = (m(inputs[0], inputs[1], inputs[2]).sample for m in (model, wide))
    assert not torch.equal(mine, theirs)
    assert torch.nn.functional.cosine_similarity(mine.flatten(), theirs.flatten(), 0) > 0.9
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    kept = "transformer_blocks.0.norm1.emb.timestep_embedder.linear_1.weight"
    assert torch.equal(model.get_parameter(kept), wide.get_parameter(kept))
    assert details["settings"]["use_svd"]


def test_without_sdnq_its_rows_say_what_to_install(teacher, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sdnq", None)
    with pytest.raises(ConfigError, match="pip install"):
        sdnq.quantize_sdnq(teacher, "2bit")
    with pytest.raises(ConfigError, match="no SDNQ mode"):
        sdnq.quantize_sdnq(teacher, "3bit")


# --- the suite


@pytest.mark.slow
def test_a_record_that_holds_more_than_numbers_is_told_and_kept(capsys):
    """A calibration's records hold the error of every block: they once ended the run."""

    @dataclasses.dataclass(frozen=True)
    class Told:
        step: int
        blocks: tuple[float, ...]

    assert rivals._told("row", Told(3, (0.5, 0.25))) == {"step": 3, "blocks": (0.5, 0.25)}
    assert capsys.readouterr().out == "row  step 3\n"


def test_scalar_codebooks_are_near_the_presets_in_bits():
    full = load_pipeline("fashion-dit").transformer
    full.transformer_blocks = full.transformer_blocks[:1]
    for name in ("scalar-2bit", "scalar-1bit"):
        model = copy.deepcopy(full)
        compress_(model, rivals.plan_of(f"{name}-calibrated"))
        bits = ledger_of_model(model).true_bits_per_weight
        assert bits == pytest.approx({"2": 2.07, "1": 1.116}[name[7]], abs=0.005)


def test_the_suite_from_end_to_end(tmp_path, monkeypatch):
    """A tiny teacher by the name of the bundled one, judged by the bundled network."""
    pipeline = PixelDiTPipeline(
        tiny_dit(**TINY | {"sample_size": 28, "patch_size": 7}), make_scheduler()
    )
    pipeline.save_pretrained(tmp_path / "assets/fashion-dit")
    monkeypatch.setattr(models, "ASSETS", tmp_path / "assets")
    results = tmp_path / "results"
    few = [
        "--images",
        "8",
        "--steps",
        "2",
        "--batch",
        "4",
        "--vq4dit",
        "steps=2",
        "batch=4",
        "every=1",
    ]
    rivals.main(["--rows", "scalar-2bit", "vq4dit", *few, "--results", str(results)])
    records = latest("rivals", results)
    assert set(records) == {("scalar-2bit", "fcd_0k"), ("vq4dit", "fcd_0k")}
    known = read("fashion", Path(rivals.RESULTS))[-1]["details"].keys()
    for record in records.values():
        assert known <= record["details"].keys()
        assert record["details"]["images"] == 8
    assert [r["step"] for r in records["vq4dit", "fcd_0k"]["details"]["course"]] == [0, 1, 2]
