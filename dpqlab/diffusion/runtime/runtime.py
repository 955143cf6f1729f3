"""The runtime: what a request looks like, and which of the parts does what."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from dpqlab.diffusion.runtime.belt import Belt
from dpqlab.diffusion.runtime.conditions import StepInputs, check_labels, host_conditions
from dpqlab.diffusion.runtime.config import Held, HeldBytes, RuntimeConfig
from dpqlab.diffusion.runtime.graphs import Graphed
from dpqlab.diffusion.runtime.modulation import (
    BulkModulation,
    StepModulation,
    grouped,
    layout_of,
)
from dpqlab.diffusion.runtime.parts import Decoder, Part, decode_into, held_weight
from dpqlab.diffusion.runtime.table import ModulationTable
from dpqlab.diffusion.runtime.trunk import Trunk
from dpqlab.diffusion.sampling import compute_dtype
from dpqlab.diffusion.schedules import pass_on_prediction
from dpqlab.errors import ConfigError, ShapeError


@dataclass(frozen=True, kw_only=True)
class RuntimeOutput:
    """The prediction: ``sample`` of shape (N, out_channels, H, W)."""

    sample: Tensor


class DiTRuntime:
    """Computes a DiT's forward pass; made by :func:`prepare_runtime`.

    It shares what it can with the transformer that it was made from, follows no later change of it,
    and does not need it any more. Gradients are not tracked, labels never dropped. Timesteps and
    labels are looked at on the host: pass them on the CPU, and a call never waits for the device.
    One thread at a time may use it.

    Attributes
    ----------
    config
        The transformer's own config.
    settings
        How it computes.
    device, dtype
        Where, and in what; inputs are brought there.
    """

    def __init__(self, transformer: Any, settings: RuntimeConfig, decoder: Decoder) -> None:
        self.config: Any = transformer.config
        pass_on_prediction(transformer, self)
        self.settings = settings
        self.dtype = compute_dtype(transformer)
        self.device = _one_device(transformer)
        self._graphs = _wants_graphs(settings, self.device)
        belt = Belt(self.device, self.dtype, overlap=settings.overlap)
        groups = grouped(transformer.transformer_blocks, self._modulations(transformer, decoder))
        width = transformer.inner_dim
        layout = layout_of(groups, width)
        self._label_count = min(
            len(g.embedder.class_embedder.embedding_table.weight) for g in groups
        )
        linear = settings.linear_on(self.device.type)
        self._trunk = Trunk(transformer, layout, linear, belt, decoder)
        self._belt = belt
        self._table: ModulationTable | None = None
        self._step: StepModulation | None = None
        if settings.modulation == "ahead":
            bulk = BulkModulation(groups, layout, belt)
            self._table = ModulationTable(bulk, settings.table_bytes)
        else:
            self._step = StepModulation(groups, layout, belt)
        self._step_inputs = StepInputs(self.device)
        belt.make_buffers()
        function = self._trunk if self._step is None else self._whole
        self._forward: Any = Graphed(function, self.device) if self._graphs else function

    @torch.no_grad()
    def __call__(
        self, hidden_states: Tensor, timestep: Tensor | float, class_labels: Tensor
    ) -> RuntimeOutput:
        """Predict.

        Parameters
        ----------
        hidden_states
            Noisy images (N, C, H, W) of the model's size.
        timestep
            A number for all, or (N,).
        class_labels
            Integers (N,).

        Raises
        ------
        ShapeError
            If a shape is not the model's.
        ConfigError
            For a label that the model does not know.
        """
        x = self._images(hidden_states)
        times, labels = host_conditions(timestep, class_labels, len(x))
        check_labels(labels, self._label_count)
        if self._table is not None:
            return RuntimeOutput(sample=self._forward(x, self._table.rows(times, labels)))
        return RuntimeOutput(sample=self._forward(x, *self._step_inputs(times, labels)))

    @torch.no_grad()
    def expect(self, timesteps: Sequence[float], labels: Sequence[int]) -> None:
        """Say what comes: modulations made ahead are made for it, at the first call that needs it.

        Anything else can still be asked for; it is computed in the call.

        Parameters
        ----------
        timesteps
            The schedule, in its order.
        labels
            Every class that any step may be asked for, the null class too.

        Raises
        ------
        ConfigError
            For a label that the model does not know.
        """
        check_labels(labels, self._label_count)
        if self._table is not None:
            self._table.expect([float(t) for t in timesteps], [int(label) for label in labels])

    def parameters(self) -> Iterator[Tensor]:
        """Yield every tensor it keeps, first one of the dtype that it computes in."""
        return (tensor for _, tensor in self._held())

    @property
    def weight_bytes(self) -> HeldBytes:
        """Bytes of everything that it keeps in memory at present, by what it is."""
        return HeldBytes.of(self._held())

    @property
    def modulation_bytes(self) -> int:
        """Bytes of the table of modulations made ahead; 0 before the first call that needs it."""
        return self.weight_bytes.modulation

    def _held(self) -> Iterator[Held]:
        yield from self._trunk.held()
        yield from self._belt.held()
        modulation = self._table if self._step is None else self._step
        assert modulation is not None
        yield from modulation.held()
        if self._graphs:
            yield from self._forward.held()

    def _modulations(self, transformer: Any, decoder: Decoder) -> list[Part]:
        """Return the modulation layer of every block, and that of the output layer."""
        parts = [
            Part.of(block.norm1.linear, f"transformer_blocks.{i}.norm1.linear", decoder)
            for i, block in enumerate(transformer.transformer_blocks)
        ]
        parts.append(Part.of(transformer.proj_out_1, "proj_out_1", decoder))
        # a table made ahead needs each of them once a schedule: nothing is gained by holding them
        if self.settings.linear == "hold" and self.settings.modulation == "per step":
            return [_dense(part, self.dtype, self.device) for part in parts]
        return parts

    def _whole(self, x: Tensor, times: Tensor, labels: Tensor, index: Tensor) -> Tensor:
        """Run modulation layers and trunk; ``index`` (N,) is the pair that each image has."""
        assert self._step is not None
        return self._trunk(x, self._step(times, labels).index_select(0, index))

    def _images(self, x: Tensor) -> Tensor:
        side = self.config.sample_size
        expected = (self.config.in_channels, side, side)
        if x.ndim != 4 or tuple(x.shape[1:]) != expected or not len(x):
            raise ShapeError(
                f"images have shape {tuple(x.shape)}: expected (N, {', '.join(map(str, expected))})"
                " with N at least 1; a runtime serves the size that the model was made for"
            )
        return x.to(self.device, self.dtype)


def prepare_runtime(
    transformer: nn.Module,
    config: RuntimeConfig | None = None,
    *,
    decoder: Decoder = decode_into,
) -> DiTRuntime:
    """Make a DiT ready to sample fast; the transformer is left as it is.

    Parameters
    ----------
    transformer
        diffusers' ``DiTTransformer2DModel``, its Linears dense or compressed, on its device and in
        the dtype to compute in.
    config
        How to compute; default: modulations ahead, CUDA graphs where there is CUDA.
    decoder
        What decodes coded weights, instead of the backend that suits the device.

    Raises
    ------
    ConfigError
        If the model is of another kind than the fused forward pass computes, or CUDA graphs are
        asked for without CUDA.
    """
    needed = ("pos_embed", "transformer_blocks", "proj_out_1", "proj_out_2", "norm_out")
    if not all(hasattr(transformer, name) for name in needed):
        raise ConfigError(
            f"got a {type(transformer).__name__}: expected diffusers' DiTTransformer2DModel; "
            "sample with the model itself"
        )
    with torch.no_grad():
        return DiTRuntime(transformer, config or RuntimeConfig(), decoder)


def _dense(part: Part, dtype: torch.dtype, device: torch.device) -> Part:
    return replace(part, dense=held_weight([part], dtype, device), coded=None, packed=None)


def _one_device(transformer: nn.Module) -> torch.device:
    devices = {parameter.device for parameter in transformer.parameters()}
    if len(devices) != 1 or next(iter(devices)).type == "meta":
        raise ConfigError(
            f"the transformer is on {', '.join(sorted(map(str, devices)))}: expected one device "
            "that holds its values; move it there first"
        )
    return devices.pop()


def _wants_graphs(settings: RuntimeConfig, device: torch.device) -> bool:
    if settings.graphs and device.type != "cuda":
        raise ConfigError(f"graphs is True on {device}: expected a CUDA device, or graphs=None")
    return device.type == "cuda" if settings.graphs is None else settings.graphs
