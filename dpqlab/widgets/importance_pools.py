"""The pools of a model's layers, kind by kind, measured when first asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

from dpqlab.diffusion.models import load_pipeline
from dpqlab.nn.plan import Plan, kind_of
from dpqlab.nn.targets import targets_of
from dpqlab.studies.bare_linears import linears_of
from dpqlab.studies.codeword_inputs import Activations, activations_of, bundled_inputs
from dpqlab.studies.codewords import CodewordStudy, sharing_of, study_of
from dpqlab.studies.layer_weights import LayerWeights
from dpqlab.widgets.threads import one_thread


class ImportancePools:
    """The pools that a plan makes of a model's layers, one for each kind of layer.

    Parameters
    ----------
    source
        The full-precision model: a bundled name or a folder.
    plan
        Whose codec makes the codebooks.
    recompute
        Draw images to measure what flows into the layers, also where that is on record.

    Attributes
    ----------
    linears
        The matrices of the model's blocks.
    layers
        A layer of every kind, by kind, in model order.
    recorded
        What flows into the layers; None if it is to be measured.
    studies
        The pools that were made, by kind.
    """

    def __init__(self, source: str, plan: Plan, *, recompute: bool) -> None:
        self.source, self.plan = source, plan
        self.linears = linears_of(LayerWeights.open(source))
        self.recorded = None if recompute else bundled_inputs(source)
        names = [target.name for target in targets_of(self.linears, plan)]
        first = {kind_of(name): name for name in reversed(names)}
        self.layers = dict(reversed(first.items()))
        self.studies: dict[str, CodewordStudy] = {}

    @cached_property
    def model(self) -> Any:
        """The model that draws, loaded when first asked for: importing diffusers takes seconds."""
        return load_pipeline(self.source).transformer.requires_grad_(False)

    @property
    def kinds(self) -> list[str]:
        """The kinds of layers, in model order."""
        return list(self.layers)

    def study(self, kind: str, activations: Activations | None = None) -> CodewordStudy:
        """Return the pool of a kind, made when first asked for: some seconds.

        Parameters
        ----------
        kind
            Of layers.
        activations
            What flows into them; None: what is recorded, or drawn for it.
        """
        if kind not in self.studies:
            with one_thread():
                known = activations or self._inputs_of([kind])
                study = study_of(self.linears, self.plan, self.layers[kind], activations=known)
                _ = study.worth  # what the figures need: measured here
            self.studies[kind] = study
        return self.studies[kind]

    def of(self, kinds: Sequence[str]) -> Iterator[CodewordStudy]:
        """Make the pools of some kinds; images are drawn once for all that are missing."""
        missing = [kind for kind in kinds if kind not in self.studies]
        known = self._inputs_of(missing) if missing else None
        for kind in kinds:
            yield self.study(kind, known)

    def code(self, kind: str) -> str:
        """Return Python that makes the pool of a kind as ``study``, its imports first."""
        imports = [
            "from dpqlab.diffusion import load_pipeline",
            "from dpqlab.nn import preset",
            "from dpqlab.studies.codewords import study_of",
        ]
        lines = [
            f"model = load_pipeline({self.source!r}).transformer",
            f"layer = {self.layers[kind]!r}",
        ]
        given = ""
        if self.recorded is not None:
            imports.append("from dpqlab.studies.codeword_inputs import bundled_inputs")
            lines.append("inputs = bundled_inputs().activations(lambda: model)")
            given = ", activations=inputs"
        lines.append(f"study = study_of(model, preset({self.plan.name!r}), layer{given})")
        return "\n".join([*imports, "", *lines])

    def _inputs_of(self, kinds: Sequence[str]) -> Activations:
        """Return what flows into all layers of some kinds: recorded, or drawn at once for all."""
        if self.recorded is not None:
            return self.recorded.activations(lambda: self.model)
        sharing = [sharing_of(self.linears, self.plan, self.layers[kind]) for kind in kinds]
        names = [target.name for targets in sharing for target in targets]
        return activations_of(self.model, names)
