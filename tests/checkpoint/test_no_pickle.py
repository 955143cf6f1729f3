"""Nothing is unpickled: no shipped line could, and no file however it is offered gets it done."""

from __future__ import annotations

import ast
import io
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dpqlab
from dpqlab.checkpoint import load_compressed, read_config
from dpqlab.checkpoint.layout import SINGLE_SHARD
from dpqlab.commands.inspect import inspect
from dpqlab.diffusion import load_pipeline
from dpqlab.errors import CheckpointError, DPQError
from tests.checkpoint.forge import dense_dit, seal

PACKAGE = Path(dpqlab.__file__).parent
APPS = PACKAGE.parent / "apps"
MODULES = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
IMPORTS = {"torch.load", "torch.hub", "torch.hub.load", "numpy.load"}
PICKLED = {".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle", ".joblib", ".npy"}


def unpickling(source: str) -> list[str]:
    """Return what in a module's source could unpickle: imports, and calls that do not forbid it."""
    return [f"line {line}: {what}" for line, what in _suspects(ast.parse(source))]


def _suspects(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            package = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
            for name in (package + alias.name for alias in node.names):
                if name.split(".")[0] in MODULES or name in IMPORTS:
                    yield node.lineno, f"imports {name}"
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            given = {word.arg: ast.unparse(word.value) for word in node.keywords}
            if called in ("torch.load", "torch.jit.load", "torch.hub.load"):
                yield node.lineno, called
            reads_arrays = called in ("np.load", "numpy.load") or called.endswith(".read_array")
            allowed = given.get("allow_pickle", "the default" if reads_arrays else "False")
            if called.endswith("read_pickle") or allowed != "False":
                yield node.lineno, f"{called}, allow_pickle {allowed}"


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "import os, pickle as p",
        "from pickle import loads",
        "from torch import load",
        "import joblib.numpy_pickle",
        "x = torch.load(path, weights_only=True)",
        "x = torch.jit.load(path)",
        "x = np.load(path)",
        "x = np.load(path, allow_pickle=flag)",
        "x = np.lib.format.read_array(stream)",
        "x = pd.read_pickle(path)",
        "def f():\n    if x:\n        import dill",
    ],
)
def test_what_could_unpickle_is_found(source: str) -> None:
    assert len(unpickling(source)) == 1


@pytest.mark.parametrize(
    "source",
    [
        "# import pickle",
        "x = np.load(p, allow_pickle=False)",
        "x = json.load(f)",
        "torch.save(x, p)",
    ],
)
def test_what_could_not_is_left_alone(source: str) -> None:
    assert unpickling(source) == []


CONVERTER = PACKAGE / "checkpoint" / "convert.py"


def test_no_shipped_line_could_unpickle() -> None:
    files = {*PACKAGE.rglob("*.py"), *APPS.rglob("*.py")} - {CONVERTER}
    assert len(files) > 100
    found = {file.name: unpickling(file.read_text(encoding="utf-8")) for file in files}
    assert {name: lines for name, lines in found.items() if lines} == {}


def test_the_converter_of_original_files_builds_tensors_alone() -> None:
    """`dpqlab convert` reads a .pt that the user names; what it refuses is in test_convert.py."""
    source = CONVERTER.read_text(encoding="utf-8")
    assert [found.partition(": ")[2] for found in unpickling(source)] == ["torch.load"]
    (call,) = [
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load"
    ]
    assert {w.arg: ast.unparse(w.value) for w in call.keywords}["weights_only"] == "True"
    users = [f.name for f in PACKAGE.rglob("*.py") if "checkpoint.convert" in f.read_text("utf-8")]
    assert users == ["convert.py"], "the command alone"


def test_no_asset_is_a_pickle() -> None:
    files = [file for file in (PACKAGE / "assets").rglob("*") if file.is_file()]
    assert files
    assert [file.name for file in files if file.suffix in PICKLED] == []
    assert [file.name for file in files if file.read_bytes()[:1] == b"\x80"] == []


class Exploding:
    """Fails the test when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (pytest.fail, ("a file was unpickled",))


def pickled(_: Path) -> bytes:
    return pickle.dumps({"proj_out_1.weight": Exploding()})


def saved_by_torch(_: Path) -> bytes:
    buffer = io.BytesIO()
    torch.save({"proj_out_1.weight": Exploding()}, buffer)
    return buffer.getvalue()


def saved_by_numpy(_: Path) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, x=np.array([Exploding()], dtype=object))
    return buffer.getvalue()


def weights_by_torch(folder: Path) -> bytes:
    """A harmless state dict, such as ``torch.load(weights_only=True)`` takes."""
    from safetensors.torch import load_file

    buffer = io.BytesIO()
    torch.save(load_file(folder / SINGLE_SHARD), buffer)
    return buffer.getvalue()


FORMS = (pickled, saved_by_torch, saved_by_numpy, weights_by_torch)
DOORS: dict[str, Callable[[Path], Any]] = {
    "load_compressed": load_compressed,
    "load_pipeline": load_pipeline,
    "read_config": read_config,
    "inspect": lambda folder: inspect(str(folder)),
}


@pytest.fixture
def watched(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A good folder, which was loaded; from here on whatever unpickles anything fails the test."""
    inspect(str(folder))

    def unpickle(*_: object, **__: object) -> None:
        pytest.fail("something was unpickled")  # which no `except Exception` catches

    for where, name in ((pickle, "load"), (pickle, "loads"), (pickle, "Unpickler")):
        monkeypatch.setattr(where, name, unpickle)
    monkeypatch.setattr(torch, "load", unpickle)
    return folder


def test_the_watch_notices(watched: Path) -> None:
    (watched / "x.pt").write_bytes(saved_by_torch(watched))
    with pytest.raises(pytest.fail.Exception, match="was unpickled"):
        torch.load(watched / "x.pt", weights_only=True)
    with pytest.raises(pytest.fail.Exception, match="was unpickled"):
        np.load(io.BytesIO(saved_by_numpy(watched)), allow_pickle=True)["x"]


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["model.pt", "diffusion_pytorch_model.bin", "model.pkl"])
def test_a_pickle_beside_the_weights_is_refused(
    watched: Path, form: Callable[[Path], bytes], name: str, door: str
) -> None:
    (watched / "transformer" / name).write_bytes(form(watched))
    with pytest.raises(CheckpointError, match=f"unknown entry 'transformer/{name}'"):
        DOORS[door](watched)


@pytest.mark.parametrize("door", ["load_compressed", "load_pipeline", "inspect"])
@pytest.mark.parametrize("form", FORMS)
def test_a_pickle_in_place_of_the_weights_is_refused(
    watched: Path, form: Callable[[Path], bytes], door: str
) -> None:
    (watched / SINGLE_SHARD).write_bytes(form(watched))
    seal(watched)
    with pytest.raises(CheckpointError, match=r"diffusion_pytorch_model\.safetensors claims"):
        DOORS[door](watched)


@pytest.mark.parametrize("form", FORMS)
def test_a_full_precision_model_in_a_pickle_is_refused(
    watched: Path, tmp_path: Path, form: Callable[[Path], bytes]
) -> None:
    full = Path(shutil.copytree(watched, tmp_path / "full"))
    shutil.rmtree(full / "transformer")
    (full / "manifest.json").unlink()
    model: Any = dense_dit(num_layers=1)
    model.save_pretrained(full / "transformer")
    load_pipeline(full)
    content = form(full)
    (full / SINGLE_SHARD).unlink()
    (full / "transformer" / "diffusion_pytorch_model.bin").write_bytes(content)
    with pytest.raises(CheckpointError, match="in safetensors"):
        load_pipeline(full)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("door", DOORS)
def test_a_pickle_for_a_folder_is_refused(
    watched: Path, tmp_path: Path, form: Callable[[Path], bytes], door: str
) -> None:
    (tmp_path / "model.pt").write_bytes(form(watched))
    with pytest.raises(DPQError):
        DOORS[door](tmp_path / "model.pt")
