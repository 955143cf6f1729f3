"""The files around the package agree with each other and keep the rules of the repository."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import tables
from tools import lock, rules, setup

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = lock.read_pyproject()
EXTRAS = PYPROJECT["project"]["optional-dependencies"]
LOCK_TEXT = (ROOT / "requirements.lock").read_text(encoding="utf-8")
# Where the name to import differs from the name to install.
DISTRIBUTIONS = {"PIL": "pillow", "sklearn": "scikit-learn", "faiss": "faiss-cpu"}
# Dependencies of declared packages, used only beside them.
THROUGH = {
    "pillow": "diffusers", "triton": "torch", "llvmlite": "numba", "packaging": "pytest",
    "fastapi": "gradio", "uvicorn": "gradio",
}  # fmt: skip


def locked() -> dict[str, str]:
    """Version of each package in the lock, by normalized name."""
    return dict(re.findall(r"^([a-z0-9-]+)==([^\s;]+)", LOCK_TEXT, re.MULTILINE))


# --- dependencies -------------------------------------------------------------------------------


def test_core_dependencies_stay_three():
    names = {lock.name_of(r) for r in PYPROJECT["project"]["dependencies"]}
    assert names == {"torch", "numpy", "safetensors"}


def test_the_extra_all_names_every_other_extra():
    (everything,) = EXTRAS["all"]
    named = set(re.findall(r"\w+", everything.partition("[")[2]))
    assert named == set(EXTRAS) - {"all"}


def test_environment_yml_names_the_same_packages():
    text = (ROOT / "environment.yml").read_text(encoding="utf-8")
    items = re.findall(r"^ +- (.+?)\s*$", text, re.MULTILINE)
    packages = items[items.index("pip:") + 1 :]
    assert packages.pop() == "-e ."
    wanted = set(PYPROJECT["project"]["dependencies"])
    wanted |= {r for extra in EXTRAS.values() for r in extra if not r.startswith("dpqlab[")}
    assert sorted(packages) == sorted(wanted)
    assert f"python{PYPROJECT['project']['requires-python']}" in items


def test_lock_has_all_that_setup_asks_for():
    missing = {lock.name_of(r) for r in lock.direct_requirements(PYPROJECT)} - locked().keys()
    assert not missing, "run `make lock`"


def test_lock_is_closed_under_dependencies():
    """Set-up installs with --no-deps: what a locked package needs must be locked too."""
    packaging = pytest.importorskip("packaging.requirements")
    for name in locked():
        try:
            needs = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # for another platform
        for text in needs:
            need = packaging.Requirement(text)
            if need.marker is None or need.marker.evaluate({"extra": ""}):
                assert lock.name_of(need.name) in {"torch", *locked()}, f"{name} needs {text}"


def test_lock_satisfies_what_pyproject_declares():
    packaging = pytest.importorskip("packaging.requirements")
    for text in lock.direct_requirements(PYPROJECT):
        need = packaging.Requirement(text)
        assert need.specifier.contains(locked()[lock.name_of(text)]), text


def test_every_pin_in_the_lock_has_hashes():
    entries = re.split(r"\n(?=\S)", LOCK_TEXT.split("\n", 2)[2].strip())
    # a package may be pinned twice, for different versions of Python
    assert len(entries) == LOCK_TEXT.count("==") - LOCK_TEXT.count(" == ") >= len(locked())
    for entry in entries:
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), entry.splitlines()[0]


def test_lock_names_no_index_and_no_torch():
    assert "://" not in LOCK_TEXT
    assert "--index" not in LOCK_TEXT
    assert "torch" not in locked()


def test_torch_pin_lies_in_the_declared_range():
    packaging = pytest.importorskip("packaging.requirements")
    declared = next(r for r in PYPROJECT["project"]["dependencies"] if lock.name_of(r) == "torch")
    assert packaging.Requirement(declared).specifier.contains(PYPROJECT["tool"]["dpqlab"]["torch"])


def test_pre_commit_uses_the_locked_ruff():
    text = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    assert set(re.findall(r"ruff==([\d.]+)", text)) == {locked()["ruff"]}


def test_every_import_of_the_package_is_declared():
    declared = {lock.name_of(r) for r in PYPROJECT["project"]["dependencies"]}
    declared |= {lock.name_of(r) for extra in EXTRAS.values() for r in extra}
    for path in [*(ROOT / "dpqlab").rglob("*.py"), *(ROOT / "apps").rglob("*.py")]:
        for name in imported_packages(path):
            name = lock.name_of(DISTRIBUTIONS.get(name, name))
            assert THROUGH.get(name, name) in declared, f"{path.name} imports {name}"


def imported_packages(path: Path) -> set[str]:
    """Top-level names outside the standard library and our own packages that the file imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names - sys.stdlib_module_names - {"dpqlab", "dpqlab_app"}


# --- setting up ---------------------------------------------------------------------------------


def test_setup_refuses_a_folder_that_is_no_environment(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    command = [sys.executable, str(ROOT / "tools/setup.py"), "--venv", str(tmp_path)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 1
    assert "remove or rename" in finished.stderr
    assert (tmp_path / "thesis.txt").read_text() == "precious"


def test_setup_is_skipped_only_when_nothing_changed(tmp_path):
    wanted = {"fingerprint": setup.fingerprint(PYPROJECT), "torch": None}
    python = tmp_path / "python"
    stamp = tmp_path / setup.STAMP
    assert not setup.is_current(stamp, wanted, python)
    stamp.write_text(json.dumps({**wanted, "torch": "cpu"}))
    assert not setup.is_current(stamp, wanted, python)  # the environment was removed
    python.touch()
    assert setup.is_current(stamp, wanted, python)
    assert not setup.is_current(stamp, {**wanted, "torch": "default"}, python)
    stamp.write_text("{")
    assert not setup.is_current(stamp, wanted, python)


def test_fingerprint_follows_dependencies_but_not_tool_settings():
    before = setup.fingerprint(PYPROJECT)
    tools = {**PYPROJECT["tool"], "ruff": {}}
    assert setup.fingerprint({**PYPROJECT, "tool": tools}) == before
    project = {**PYPROJECT["project"], "dependencies": ["torch"]}
    assert setup.fingerprint({**PYPROJECT, "project": project}) != before


def test_setup_runs_on_pythons_too_old_for_dpqlab():
    """So that they print what to do, not a syntax error."""
    source = (ROOT / "tools/setup.py").read_text(encoding="utf-8")
    ast.parse(source, feature_version=(3, 8))
    top = ast.parse(source).body
    assert not any(isinstance(n, ast.Import) and n.names[0].name == "tomllib" for n in top)


@pytest.mark.parametrize(
    "target", ["setup", "demo", "test", "test-slow", "check", "bench", "release-check", "fmt"]
)
def test_make_knows_the_target(target):
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(rf"^{target}:.*## \w", text, re.MULTILINE)


def test_security_shows_what_was_measured():
    """That its table is current is checked with the README's, by `make check`."""
    assert ROOT / "SECURITY.md" in tables.DOCUMENTS
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    assert "<!-- table:reliability -->" in text
    assert "<!-- table:jobs -->" in text
    for heading in ("Reporting a vulnerability", "What is promised", "What is not promised"):
        assert f"## {heading}\n" in text


def test_ci_runs_checks_and_tests():
    path = ROOT / ".ci/run"
    text = path.read_text(encoding="utf-8")
    assert "make check" in text
    for target in ("test", "test-notebooks", "test-browser"):
        assert re.search(rf"^tests {target} ", text, re.MULTILINE)
    if os.name == "posix":
        assert os.access(path, os.X_OK)
        subprocess.run(["bash", "-n", str(path)], check=True)


def test_slow_gpu_and_browser_tests_are_deselected_by_default(pytestconfig):
    options = PYPROJECT["tool"]["pytest"]["ini_options"]
    for marker in ("slow", "gpu", "browser"):
        assert any(m.startswith(f"{marker}:") for m in options["markers"])
        assert f"not {marker}" in options["addopts"]


# --- rules --------------------------------------------------------------------------------------


def test_the_repository_keeps_its_rules():
    assert rules.violations(ROOT) == []


@pytest.fixture
def tree(tmp_path) -> Path:
    """A small tree without git that keeps every rule."""
    root = tmp_path / "checkout"
    write(root / "dpqlab/__init__.py", '__version__ = "1.2.0"\n')
    write(root / "CHANGELOG.md", "# Changelog\n\n## [1.2.0]\n")
    assert rules.violations(root) == []
    return root


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def notebook(**cell) -> str:
    code = {"cell_type": "code", "outputs": [], "execution_count": None, "source": [], **cell}
    return json.dumps({"cells": [code, {"cell_type": "markdown"}], "metadata": {}})


HOME = "/" + "home/somebody/models"


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("CHANGELOG.md", "## [1.1.0]\n", "no entry `## [1.2.0]`"),
        ("dpqlab/load.py", "x = torch.load(path)\n", "loads unsafely"),
        ("dpqlab/load.py", "torch.load(path, weights_only=True)\n", "loads unsafely"),
        ("dpqlab/a.py", "np.load(path, allow_pickle=True)\n", "loads unsafely"),
        ("README.md", f"see {HOME}\n", "machine path"),
        ("notes.md", "C:\\Users\\me\n", "machine path"),
        ("a.ipynb", notebook(execution_count=3), "strip it"),
        ("a.ipynb", notebook(outputs=[{"text": "1"}]), "strip it"),
        ("a.ipynb", notebook(source=["#" * 200_000]), "strip its outputs"),
    ],
)
def test_a_broken_rule_is_named(tree, name, text, complaint):
    write(tree / name, text)
    (found,) = rules.violations(tree)
    assert complaint in found


def test_large_files_and_assets_are_named(tree, monkeypatch):
    monkeypatch.setattr(rules, "LARGEST_FILE", 1000)
    monkeypatch.setattr(rules, "LARGEST_ASSETS", 1500)
    write(tree / "dpqlab/assets/a.safetensors", "w" * 900)
    assert rules.violations(tree) == []
    write(tree / "dpqlab/assets/b.safetensors", "w" * 900)
    assert "dpqlab/assets has" in rules.violations(tree)[0]
    write(tree / "dpqlab/assets/b.safetensors", "w" * 1001)
    assert "b.safetensors has" in rules.violations(tree)[0]


def test_what_keeps_the_rules_is_left_alone(tree):
    write(tree / "dpqlab/checkpoint/convert.py", "torch.load(path, weights_only=True)\n")
    write(tree / "README.md", "https://example.org/home/x and ~/models and a/tmp/b\n")
    write(tree / "a.ipynb", notebook())
    (tree / "weights.bin").write_bytes(b"\xff\xfe")
    assert rules.violations(tree) == []
