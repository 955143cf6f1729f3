"""Compressing from files: the same bytes as in memory, whatever is killed and taken up again."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from dpqlab.checkpoint import save_compressed, verify
from dpqlab.checkpoint.dense import DenseFolder, open_dense
from dpqlab.checkpoint.journal import Journal, journal_folder, open_journal
from dpqlab.checkpoint.streaming import Stream, StreamSettings, stream_steps
from dpqlab.core import CodebookCodec, PoolConfig, ScalarCodec
from dpqlab.diffusion.models import ASSETS, load_pipeline
from dpqlab.errors import CheckpointError, ConfigError
from dpqlab.nn.accounting import ledger_of_model
from dpqlab.nn.embedder import untie_embedders_
from dpqlab.nn.plan import Coding, Plan
from dpqlab.nn.presets import preset
from dpqlab.nn.surgery import LayerRecord, compress_
from dpqlab.nn.targets import targets_of
from tests.tiny import tiny_dit

KIND = CodebookCodec(d=4, k=16, scope="layer", across="kind", row_scale=True, iterations=2)
PQ = CodebookCodec(d=4, k=8, row_scale=True, iterations=2)
POSITION = CodebookCodec(d=4, k=8, across="kind", iterations=2)
RTN = ScalarCodec(bits=2, group_size=16)
RAGGED = PoolConfig(budget=1.2, form="ragged", refits=1)
INDEXED = PoolConfig(budget=0.5, form="indexed", refits=1)

PLANS = {
    "kind": Plan.for_blocks(KIND),
    "pq": Plan.for_blocks(PQ, rest_dtype="float32", bias_dtype="float32"),
    "scalar": Plan.for_blocks(RTN, rest_dtype="float16"),
    "ragged": Plan.for_blocks(Coding(codec=POSITION, pool=RAGGED)),
    "indexed": Plan.for_blocks({"attn1.*": Coding(codec=KIND, pool=INDEXED), "*": PQ}),
    "some kept": Plan.for_blocks({"ff.*": None, "norm1.linear": RTN, "*": KIND}),
}
SCHEDULER = {"_class_name": "DDIMScheduler"}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a transformer, as diffusers writes it, in shards; every block has an embedder.

    Two of its tensors are exactly equal in bfloat16, others are not.
    """
    model = tiny_dit(num_layers=3)
    untie_embedders_(model)
    folder = tmp_path_factory.mktemp("dense") / "transformer"
    model.save_pretrained(folder, max_shard_size="60KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    return folder


def saved(model: Any, folder: Path) -> dict[str, bytes]:
    """The bytes of all files of a model's compressed folder."""
    provenance = {"bits": ledger_of_model(model).true_bits_per_weight}
    save_compressed(
        model, folder, scheduler_config=SCHEDULER, provenance=provenance, card="", overwrite=True
    )
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def in_memory(
    source: Path, plan: Plan, folder: Path, **settings: Any
) -> tuple[dict[str, bytes], tuple[LayerRecord, ...]]:
    from diffusers import DiTTransformer2DModel

    from dpqlab.nn.embedder import tie_embedders_

    model = DiTTransformer2DModel.from_pretrained(source, torch_dtype=torch.float32)
    tie_embedders_(model)
    done = compress_(model, plan, **settings)
    return saved(model, folder), done.layers


InMemory = Callable[[str], tuple[dict[str, bytes], tuple[LayerRecord, ...]]]


@pytest.fixture(scope="module")
def known(source: Path, tmp_path_factory: pytest.TempPathFactory) -> InMemory:
    """What a plan of ``PLANS`` gives in memory, made once."""

    @cache
    def made(name: str) -> tuple[dict[str, bytes], tuple[LayerRecord, ...]]:
        return in_memory(source, PLANS[name], tmp_path_factory.mktemp("memory"))

    return made


def streamed(source: Path, plan: Plan, folder: Path, **settings: Any) -> dict[str, bytes]:
    with open_journal(folder, {"plan": plan.name}, resume=True) as journal:
        model, stream = begun(source, plan, journal, **settings)
        assert len(list(stream.steps)) == stream.total
        found = saved(model, folder)
        journal.remove()
    assert not journal_folder(folder).exists()
    return found


def begun(source: Path, plan: Plan, journal: Journal, **settings: Any) -> tuple[Any, Stream]:
    dense = open_dense(source)
    model = dense.skeleton()
    return model, stream_steps(model, dense, plan, journal, StreamSettings(**settings))


@pytest.mark.parametrize("name", PLANS)
def test_the_same_bytes_as_in_memory(name: str, source: Path, tmp_path: Path) -> None:
    plan = PLANS[name]
    expected, _ = in_memory(source, plan, tmp_path / "memory", seed=3)
    found = streamed(source, plan, tmp_path / "streamed", seed=3)
    assert found.keys() == expected.keys()
    assert [path for path in found if found[path] != expected[path]] == []
    other = streamed(source, plan, tmp_path / "other", seed=4)
    assert (other != expected) == (plan is not PLANS["scalar"]), "the seed counts"


def test_moments_weigh_as_in_memory(source: Path, tmp_path: Path) -> None:
    config = PoolConfig(budget=1.2, form="ragged", measure="removal", refits=1)
    plan = Plan.for_blocks(Coding(codec=POSITION, pool=config), weighted=True)
    names = {t.name: t.linear.in_features for t in targets_of(open_dense(source).skeleton(), plan)}
    g = torch.Generator().manual_seed(0)
    moments = {name: torch.rand(size, generator=g) + 0.1 for name, size in names.items()}
    expected, _ = in_memory(source, plan, tmp_path / "memory", moments=moments)
    assert streamed(source, plan, tmp_path / "streamed", moments=moments) == expected
    assert streamed(source, Plan.for_blocks(POSITION), tmp_path / "plain") != expected


@pytest.mark.parametrize("name", ["kind", "ragged", "scalar"])
@pytest.mark.parametrize("drawn", [1, 4, 19, 24, 30])
def test_a_stopped_run_goes_on_to_the_same_bytes(
    name: str, drawn: int, source: Path, known: InMemory, tmp_path: Path
) -> None:
    plan, out = PLANS[name], tmp_path / "out"
    expected, layers = known(name)
    drawn = min(drawn, len(layers))
    with open_journal(out, {"plan": plan.name}) as journal:
        _, stream = begun(source, plan, journal)
        first = [next(stream.steps) for _ in range(drawn)]
    assert stream.resumed == 0
    with open_journal(out, {"plan": plan.name}, resume=True) as journal:
        model, stream = begun(source, plan, journal)
        # a pool that is squeezed is made for all its layers, or for none: here those of 3 blocks
        assert stream.resumed == (drawn // 3 * 3 if name == "ragged" else drawn)
        records = list(stream.steps)
        assert saved(model, out) == expected
    assert [(r.index, r.total) for r in records] == [(i, len(layers)) for i in range(len(layers))]
    # each layer once, whichever of the runs made it, and nothing about them is lost
    assert {_facts(r) for r in records} == {_facts(r) for r in layers}
    kept = {r.name: r.seconds for r in first[: stream.resumed]}
    assert {r.name: r.seconds for r in records if r.name in kept} == kept


def _facts(record: LayerRecord) -> tuple[Any, ...]:
    return (
        record.name,
        record.shape,
        record.relative_error,
        record.weighted_error,
        record.codewords_made,
        record.codewords_kept,
        record.ledger,
    )


def _half(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def _flipped(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def _foreign(file: Path) -> None:
    save_file(load_file(file), file, metadata={"format": "pt", "key": "0", "note": "{}"})


def _gone(file: Path) -> None:
    file.unlink()


def _empty(file: Path) -> None:
    file.write_bytes(b"")


@pytest.mark.parametrize("damage", [_half, _flipped, _foreign, _gone, _empty])
@pytest.mark.parametrize("layer", ["0.attn1.to_q", "2.attn1.to_q"])
def test_what_cannot_be_believed_is_made_again(
    damage: Any, layer: str, source: Path, known: InMemory, tmp_path: Path
) -> None:
    plan, out = PLANS["kind"], tmp_path / "out"
    expected, layers = known("kind")
    with open_journal(out, {}) as journal:
        list(begun(source, plan, journal)[1].steps)
    damage(journal.folder / f"transformer_blocks.{layer}.safetensors")
    with open_journal(out, {}, resume=True) as journal:
        model, stream = begun(source, plan, journal)
        # without the first layer of a kind its pool is gone, and all of the kind are made again
        assert stream.resumed == len(layers) - (3 if layer.startswith("0") else 1)
        list(stream.steps)
        assert saved(model, out) == expected


def test_every_tensor_is_checked_before_any_work(source: Path, tmp_path: Path) -> None:
    broken = _edited(source, tmp_path, "transformer_blocks.2.ff.net.2.weight", float("nan"))
    with (
        open_journal(tmp_path / "out", {}) as journal,
        pytest.raises(ConfigError, match=r"transformer_blocks\.2\.ff\.net\.2\.weight holds"),
    ):
        begun(broken, PLANS["pq"], journal)
    assert not journal.folder.exists(), "nothing was done, so there is nothing to go on with"
    infinite = _edited(source, tmp_path, "proj_out_1.weight", float("inf"))
    with (
        open_journal(tmp_path / "other", {}) as journal,
        pytest.raises(ConfigError, match=r"proj_out_1\.weight holds .* inf"),
    ):
        begun(infinite, PLANS["pq"], journal)


def test_embedders_that_differ_stay_apart(source: Path, tmp_path: Path) -> None:
    name = "transformer_blocks.1.norm1.emb.timestep_embedder.linear_1.bias"
    apart = _edited(source, tmp_path, name, 1.0)
    models: list[Any] = [open_dense(folder).skeleton() for folder in (source, apart)]
    counts = [len({id(b.norm1.emb) for b in model.transformer_blocks}) for model in models]
    assert counts == [1, 3]


def _edited(source: Path, tmp_path: Path, name: str, value: float) -> Path:
    """A copy of the source with one value of one tensor changed."""
    folder = tmp_path / f"edited-{name}"
    folder.mkdir()
    for file in source.iterdir():
        target = folder / file.name
        if file.suffix != ".safetensors":
            target.write_bytes(file.read_bytes())
            continue
        tensors = load_file(file)
        if name in tensors:
            tensors[name].view(-1)[0] = value
        save_file(tensors, target, metadata={"format": "pt"})
    return folder


class TestSource:
    def test_reads_what_was_saved_in_any_layout(self, source: Path, tmp_path: Path) -> None:
        single = tmp_path / "pipeline" / "transformer"
        model = tiny_dit(num_layers=3)
        untie_embedders_(model)
        model.save_pretrained(single)
        for folder in (source, single, single.parent):
            dense = open_dense(folder)
            assert dense.tensors.keys() == model.state_dict().keys()
            assert all(torch.equal(dense.read(k), v) for k, v in model.state_dict().items())

    def test_half_precision_is_read_as_float32(self, tmp_path: Path) -> None:
        model = tiny_dit().to(torch.bfloat16)
        untie_embedders_(model)
        model.save_pretrained(tmp_path / "bf16")
        found = open_dense(tmp_path / "bf16").read("proj_out_1.weight")
        assert found.dtype == torch.float32
        assert torch.equal(found, model.proj_out_1.weight.float())

    def test_a_missing_tensor_is_named(self, source: Path) -> None:
        dense = open_dense(source)
        tensors = {name: t for name, t in dense.tensors.items() if name != "proj_out_1.bias"}
        with pytest.raises(CheckpointError, match=r"lack 'proj_out_1\.bias' \(1 missing in all\)"):
            DenseFolder(folder=dense.folder, tensors=tensors).skeleton()

    def test_another_shape_is_refused(self, source: Path, tmp_path: Path) -> None:
        folder = _edited(source, tmp_path, "proj_out_1.bias", 0.0)
        config = json.loads((folder / "config.json").read_text("utf-8"))
        (folder / "config.json").write_text(json.dumps(config | {"patch_size": 2}), "utf-8")
        with pytest.raises(CheckpointError, match=r"has shape .* config\.json asks for"):
            open_dense(folder).skeleton()

    @pytest.mark.parametrize("names", [["../secret.safetensors"], [3], []])
    def test_an_index_leads_nowhere_else(
        self, names: list[Any], source: Path, tmp_path: Path
    ) -> None:
        folder = _edited(source, tmp_path, "proj_out_1.bias", 0.0)
        index = next(folder.glob("*.index.json"))
        where = {f"t{i}": name for i, name in enumerate(names)}
        index.write_text(json.dumps({"weight_map": where}), "utf-8")
        with pytest.raises(CheckpointError, match="expected files beside it"):
            open_dense(folder)

    def test_what_is_no_model_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match=r"neither .* in safetensors"):
            open_dense(tmp_path)
        (tmp_path / "diffusion_pytorch_model.safetensors").write_bytes(b"\0" * 100)
        with pytest.raises(CheckpointError, match="cannot be read"):
            open_dense(tmp_path)


@pytest.mark.gpu
@pytest.mark.parametrize("name", PLANS)
def test_layers_are_compressed_on_a_gpu_one_at_a_time(
    name: str, source: Path, tmp_path: Path
) -> None:
    plan = PLANS[name]
    _, expected = in_memory(source, plan, tmp_path / "memory")
    with open_journal(tmp_path / "out", {}) as journal:
        first = [next(begun(source, plan, journal, device="cuda")[1].steps)]
    with open_journal(tmp_path / "out", {}, resume=True) as journal:
        model, stream = begun(source, plan, journal, device="cuda")
        records = {record.name: record for record in stream.steps}
        saved(model, tmp_path / "out")
        assert stream.resumed == (0 if name == "ragged" else 1)
    verify(tmp_path / "out")
    if stream.resumed:
        assert records[first[0].name].relative_error == first[0].relative_error
    # sums are taken in another order there, so that a code here and there may differ
    for record in expected:
        found = records[record.name].relative_error
        assert found == pytest.approx(record.relative_error, rel=0.05, abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["best-1bit", "dpq-1bit", "vq-2bit"])
def test_the_bundled_model_gives_the_same_bytes(name: str, tmp_path: Path) -> None:
    plan = preset(name)
    model: Any = load_pipeline("fashion-dit").transformer
    compress_(model, plan)
    expected = saved(model, tmp_path / "memory")
    assert streamed(ASSETS / "fashion-dit", plan, tmp_path / "streamed") == expected


@pytest.mark.slow
@pytest.mark.parametrize("name", ["best-1bit", "dpq-1bit"])
def test_memory_does_not_grow_with_the_number_of_blocks(name: str, tmp_path: Path) -> None:
    # a codebook that blocks share is made from a draw of their weights, which 16 of them fill
    peaks = [_peak(name, blocks, tmp_path / f"of-{blocks}") for blocks in (16, 32)]
    block = 4 * 18 * 512**2  # bytes of the Linears of one
    # what is stored of 16 more blocks is mapped, not held; codes wait where a pool is squeezed
    assert peaks[1] - peaks[0] < 16 * block * 0.4, peaks
    assert 16 * block > 300e6, "enough to see it if weights were held"


def _peak(name: str, blocks: int, folder: Path) -> int:
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from dpqlab.cli import main\n"
        "from dpqlab.nn.resident import most_resident_bytes\n"
        "source, out, name = sys.argv[1:]\n"
        "assert main(['compress', source, out, '--preset', name]) == 0\n"
        "print(most_resident_bytes())\n"
    )
    from benchmarks.random_dit import write_random_dit

    source = write_random_dit(folder / "source", layers=blocks, attention_head_dim=32)
    command = [sys.executable, "-c", script, str(source), str(folder / "out"), name]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(done.stdout.splitlines()[-1])
