"""The commands that several processes run together leave what one leaves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from dpqlab.checkpoint import load_compressed, read_config
from dpqlab.checkpoint.journal import journal_folder
from dpqlab.cli import main
from tests.commands.journals import stop_after
from tests.teams import free_port, in_processes

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = ["--preset", "dpq-1bit", "--d", "4", "--k", "16", "--scope", "layer", "--budget", "1"]
COMPRESS = {
    "a pool a layer": ["--preset", "pq-1bit"],
    "pools shared": ["--preset", "vq-1bit", "--across", "kind"],
    "pools shared and squeezed": [*SMALL, "--measure", "usage"],
    "inputs measured": [*SMALL, "--measure", "weighted"],
}
SAMPLE = [
    "--images",
    "23",
    "--batch",
    "4",
    "--steps",
    "3",
    "--scheduler",
    "ddpm",
    "--device",
    "cpu",
]
CALIBRATE = ["--data-free", "2", "--steps", "6", "--batch", "6", "--every", "2", "--device", "cpu"]


def commands(tiny: Path, tiny_pq: Path, out: Path) -> list[list[str]]:
    """Everything that is run, into one folder."""
    found = [
        ["compress", str(tiny), str(out / name), *options] for name, options in COMPRESS.items()
    ]
    found.append(["sample-many", str(tiny_pq), str(out / "many.npz"), *SAMPLE])
    found.append(
        ["calibrate", str(tiny_pq), str(out / "calibrated"), "--teacher", str(tiny), *CALIBRATE]
    )
    return found


def member(given: Sequence[tuple[int, list[str]]]) -> None:
    """Run the commands as one of several processes, which meet at another port for each."""
    for port, command in given:
        os.environ["MASTER_PORT"] = str(port)
        assert main(command) == 0, command


@pytest.fixture(scope="module")
def both(tiny: Path, tiny_pq: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders with what one process left, and what two did."""
    torch.set_num_threads(1)
    one, several = (tmp_path_factory.mktemp(name) for name in ("one", "several"))
    for command in commands(tiny, tiny_pq, one):
        assert main(command) == 0, command
    unfinished = several / "unfinished.npz"
    leave_unfinished(tiny_pq, unfinished)
    given = commands(tiny, tiny_pq, several)
    given.append(["sample-many", str(tiny_pq), str(unfinished), *SAMPLE, "--resume"])
    in_processes(member, [(free_port(), command) for command in given])
    return one, several


def leave_unfinished(model: Path, out: Path) -> None:
    """Stop a run after its second shard, and damage the first."""
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, 2)
        assert main(["sample-many", str(model), str(out), *SAMPLE]) == 130
    shards = sorted(journal_folder(out).glob("shard-*"))
    assert len(shards) == 2
    shards[0].write_bytes(shards[0].read_bytes()[:-1])


def files_of(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.mark.parametrize("name", COMPRESS)
def test_the_same_bytes_are_compressed(both: tuple[Path, Path], name: str) -> None:
    one, several = (files_of(folder / name) for folder in both)
    assert one == several
    assert len(one) > 4


def test_the_same_images_are_drawn(both: tuple[Path, Path]) -> None:
    one, several = both
    assert (one / "many.npz").read_bytes() == (several / "many.npz").read_bytes()
    with np.load(one / "many.npz") as arrays:
        assert arrays["arr_0"].shape == (23, 28, 28, 3)
        assert arrays["arr_0"].dtype == np.uint8
        assert arrays["arr_1"].tolist() == [i % 10 for i in range(23)]
        assert len({image.tobytes() for image in arrays["arr_0"]}) == 23


def test_a_run_that_was_stopped_is_finished_by_others(both: tuple[Path, Path]) -> None:
    one, several = both
    assert (one / "many.npz").read_bytes() == (several / "unfinished.npz").read_bytes()


def test_nothing_is_left_behind(both: tuple[Path, Path]) -> None:
    for folder in both:
        left = {path.name for path in folder.iterdir()} - {"unfinished.npz"}
        assert {name for name in left if not name.endswith(".lock")} == {
            *COMPRESS,
            "many.npz",
            "calibrated",
        }


def test_they_calibrate_alike(both: tuple[Path, Path]) -> None:
    one, several = (folder / "calibrated" for folder in both)
    notes = [read_config(folder).quantization.provenance for folder in (one, several)]
    assert notes[0]["calibration_best_step"] == notes[1]["calibration_best_step"]
    first, second = (load_compressed(folder).state_dict() for folder in (one, several))
    for name, tensor in first.items():
        if tensor.is_floating_point() and not name.endswith("to_k.bias"):  # attention ignores it
            torch.testing.assert_close(tensor, second[name], rtol=2e-3, atol=2e-3)


@pytest.mark.slow
def test_accelerate_launches_a_team(tiny: Path, tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    command = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    command += ["--main_process_port", "0", "-m", "dpqlab"]
    given = ["sample-many", str(tiny), str(tmp_path / "x.npz"), *SAMPLE, "--json"]
    done = subprocess.run([sys.executable, *command, *given], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # one of them talks
    assert json.loads(done.stdout)["processes"] == 2
