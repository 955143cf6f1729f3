"""What flows into layers, measured on lent weights and kept in a journal."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dpqlab.checkpoint.dense import open_dense
from dpqlab.checkpoint.journal import open_journal
from dpqlab.cli import main
from dpqlab.commands import inputs
from dpqlab.commands.inputs import PREFIX, inputs_of, journaled_inputs
from dpqlab.commands.loading import load
from dpqlab.commands.terminal import Terminal

NAMES = [f"transformer_blocks.{i}.{kind}" for i in range(2) for kind in ("attn1.to_q", "ff.net.2")]


@pytest.mark.parametrize("grams", [False, True])
def test_a_journal_gives_what_the_model_in_memory_gives(
    grams: bool, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal(as_json=True)
    expected = inputs_of(load(tiny).transformer, NAMES, terminal, seed=3, grams=grams)
    dense = open_dense(tiny)
    with open_journal(tmp_path / "out", {}) as journal:
        some = journaled_inputs(dense, NAMES[:3], journal, terminal, seed=3, grams=grams)
        assert list(some) == NAMES[:3]
        found = journaled_inputs(dense, NAMES, journal, terminal, seed=3, grams=grams)
        assert all(torch.equal(found[name], expected[name]) for name in NAMES)
        monkeypatch.setattr(inputs, "input_steps", None)
        again = journaled_inputs(dense, NAMES, journal, terminal, seed=3, grams=grams)
        assert all(torch.equal(again[name], expected[name]) for name in NAMES)
        next(journal.folder.glob(f"{PREFIX}*")).unlink()
        with pytest.raises(TypeError):  # it would be measured again
            journaled_inputs(dense, NAMES, journal, terminal, seed=3, grams=grams)


def test_the_folder_of_a_transformer_alone_is_measured_too(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    codec = ["--d", "2", "--k", "4", "--scope", "layer", "--across", "kind", "--budget", "1/8"]
    for source, out in ((tiny, "pipeline"), (tiny / "transformer", "alone")):
        target = str(tmp_path / out)
        assert main(["compress", str(source), target, *codec, "--measure", "removal"]) == 0
    capsys.readouterr()
    one, other = (
        next((tmp_path / out / "transformer").glob("*.safetensors")).read_bytes()
        for out in ("pipeline", "alone")
    )
    assert one == other
