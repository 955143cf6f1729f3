"""A model pruned and saved by records: the same folder as ``dpqlab prune`` writes."""

from __future__ import annotations

import pytest
import torch

from dpqlab.checkpoint import load_compressed, read_config
from dpqlab.cli import main
from dpqlab.diffusion.pipeline import PixelDiTPipeline
from dpqlab.diffusion.schedules import make_scheduler
from dpqlab.errors import ConfigError
from dpqlab.nn.surgery import ledger_of_model
from dpqlab.studies import pruned_checkpoint
from dpqlab.studies.pruned_checkpoint import PruneTask, prune_checkpoint
from tests.tiny import tiny_dit


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source") / "tiny"
    PixelDiTPipeline(tiny_dit(), make_scheduler()).save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def small(one_thread):
    """A model this small only loses by a second thread."""


@pytest.mark.slow
def test_the_folder_is_what_the_command_writes(source, tmp_path, capsys):
    task = PruneTask(source=str(source), preset="dpq-2bit", budget=1.0)
    records = list(prune_checkpoint(task, tmp_path / "mine"))
    arguments = ["--preset", "dpq-2bit", "--pool", "auto", "--budget", "1"]
    assert main(["prune", str(source), str(tmp_path / "theirs"), *arguments]) == 0
    capsys.readouterr()
    mine, theirs = (load_compressed(tmp_path / name) for name in ("mine", "theirs"))
    assert mine.state_dict().keys() == theirs.state_dict().keys()
    for name, value in mine.state_dict().items():
        assert torch.equal(value, theirs.state_dict()[name]), name
    done = [record.done for record in records]
    assert done == sorted(done)
    assert done[-1] == pytest.approx(1)
    assert [record.stage for record in records][-1] == "save"
    ledger = records[-1].ledger
    assert ledger is not None
    assert ledger.stored_bytes == ledger_of_model(mine).stored_bytes
    notes = [read_config(tmp_path / name).quantization.provenance for name in ("mine", "theirs")]
    assert notes[0] == notes[1]


def test_all_codewords_stay_without_a_budget(source, tmp_path):
    task = PruneTask(source=str(source), preset="dpq-2bit", budget=None)
    records = list(prune_checkpoint(task, tmp_path / "all"))
    assert "prune" not in {record.stage for record in records}
    assert (tmp_path / "all/README.md").read_text().count("nothing was pruned") == 1


def test_stopping_leaves_nothing(source, tmp_path):
    task = PruneTask(source=str(source), preset="dpq-2bit", budget=1.0)
    steps = prune_checkpoint(task, tmp_path / "out")
    for record in steps:
        if record.stage == "prune":
            break
    steps.close()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"preset": "pq-1bit"}, "no pools to prune"),
        ({"budget": -1.0}, "budget is -1"),
        ({"source": "nowhere"}, "no model 'nowhere'"),
        ({"source": "fashion-dit-vq-1bit"}, "compressed already"),
    ],
)
def test_what_cannot_work_is_refused_at_once(changes, match, source, tmp_path):
    values = {"source": str(source), "preset": "dpq-2bit", "budget": 0.5} | changes
    with pytest.raises(ConfigError, match=match):
        prune_checkpoint(PruneTask(**values), tmp_path / "out")


def test_an_existing_folder_stays(source, tmp_path):
    task = PruneTask(source=str(source), preset="dpq-2bit", budget=0.5)
    with pytest.raises(ConfigError, match="exists: choose another folder"):
        prune_checkpoint(task, tmp_path)


def test_a_budget_that_cannot_be_met_writes_nothing(source, tmp_path):
    task = PruneTask(source=str(source), preset="dpq-2bit", budget=1e-6)
    with pytest.raises(ConfigError, match=r"cannot be met: the pool of transformer_blocks\.0"):
        list(prune_checkpoint(task, tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    assert sum(pruned_checkpoint.WEIGHTS.values()) == pytest.approx(1)
