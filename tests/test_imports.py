"""What importing loads: `import dpqlab` nothing, and each layer no more than it needs."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = {
    "accelerate", "diffusers", "gradio", "huggingface_hub", "ipywidgets", "numba", "PIL", "plotly",
    "rich", "scipy", "sklearn", "transformers", "triton",
}  # fmt: skip

# From the bottom up; each with the heavy packages that it may load when imported.
LAYERS = {
    "dpqlab.errors": set(),
    "dpqlab.kernels": set(),
    "dpqlab.nn": set(),
    "dpqlab.checkpoint": set(),
    "dpqlab.diffusion": set(),
    "dpqlab.calibration": set(),
    "dpqlab.tracing": set(),
    "dpqlab.evaluation": {"scipy"},
    "dpqlab.studies": set(),
    "dpqlab.viz": {"plotly", "PIL"},
    "dpqlab.widgets": set(),
}  # fmt: skip

# All of the core first, whose own list is the strictest: what it loads is new to no layer above.
LOADED = """
import importlib, json, pkgutil, sys
import numpy, torch
seen, report = set(sys.modules), {}

def note(name):
    global seen
    new = {module.partition(".")[0] for module in set(sys.modules) - seen}
    report[name] = sorted(new - set(sys.stdlib_module_names))
    seen = set(sys.modules)

import dpqlab.core
for module in pkgutil.walk_packages(dpqlab.core.__path__, "dpqlab.core."):
    importlib.import_module(module.name)
note("dpqlab.core")
for name in sys.argv[1:]:
    importlib.import_module(name)
    note(name)
print(json.dumps(report))
"""


def run(code: str, *arguments: str) -> str:
    """Standard output of `code` in a fresh Python."""
    command = [sys.executable, "-c", code, *arguments]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def test_importing_dpqlab_loads_no_package_at_all():
    loaded = json.loads(run("import json, sys, dpqlab; print(json.dumps(sorted(sys.modules)))"))
    assert "dpqlab" in loaded
    assert not {name.partition(".")[0] for name in loaded} & (HEAVY | {"torch", "numpy"})


def test_what_computes_here_is_asked_for_lazily():
    code = (
        "import sys, dpqlab; before = 'torch' in sys.modules; shown = dpqlab.backends();"
        "print(before, type(shown).__name__, [b.name for b in shown][-1])"
    )
    assert run(code).split() == ["False", "Overview", "torch"]


@pytest.fixture(scope="module")
def loaded() -> dict[str, list[str]]:
    return json.loads(run(LOADED, *LAYERS))


def test_core_loads_torch_and_numpy_only(loaded):
    # Whatever torch and numpy load lazily once they are used belongs to them.
    new = set(loaded["dpqlab.core"])
    assert not new & HEAVY
    assert new <= {"dpqlab", "torch", "numpy"}


@pytest.mark.parametrize("layer", LAYERS)
def test_layer_loads_only_what_it_needs(layer, loaded):
    assert set(loaded[layer]) & HEAVY <= LAYERS[layer]
