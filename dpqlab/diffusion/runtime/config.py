"""How a runtime is to compute, and what it turned out to hold."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Literal, get_args

from torch import Tensor

from dpqlab.errors import ConfigError

ModulationMode = Literal["ahead", "per step"]
LinearMode = Literal["decode", "kernel", "hold"]
Held = tuple[str, Tensor]
"""A tensor that stays in memory, and the field of :class:`HeldBytes` that it counts for."""


@dataclass(frozen=True, kw_only=True)
class RuntimeConfig:
    """How to compute a DiT's forward pass.

    Parameters
    ----------
    modulation
        ``"ahead"``: conditioning depends on timestep and label alone, so its layers run once for
        the whole schedule and their results wait in a table. ``"per step"``: they run in every
        call.
    linear
        What compressed layers do. ``"decode"``: decode into a scratch buffer, then the library's
        product. ``"kernel"``: the kernel that :mod:`dpqlab.kernels.linears` picks for the number of
        rows. ``"hold"``: decode once, now, and keep the dense weights. None: kernels on a CPU,
        where they decode tiles that stay in the cache; decode elsewhere. Layers with dense weights
        are not affected.
    graphs
        Replay the forward pass as a CUDA graph; None: wherever there is CUDA.
    overlap
        On CUDA, decode the next layers on a second stream while the present one multiplies.
    table_bytes
        Most bytes that the table of ``modulation="ahead"`` may take. A longer schedule is computed
        in runs of steps that fit; one step is always held.

    Raises
    ------
    ConfigError
        If a value is not possible.
    """

    modulation: ModulationMode = "ahead"
    linear: LinearMode | None = None
    graphs: bool | None = None
    overlap: bool = True
    table_bytes: int = 256 * 2**20

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        for name, kinds in (("modulation", ModulationMode), ("linear", LinearMode)):
            value, expected = getattr(self, name), get_args(kinds)
            if value not in expected and not (name == "linear" and value is None):
                raise ConfigError(f"{name} is {value!r}: expected one of {', '.join(expected)}")
        if self.graphs not in (None, True, False) or self.overlap not in (True, False):
            raise ConfigError(
                f"graphs is {self.graphs!r} and overlap {self.overlap!r}: expected True or False "
                "(None lets the device decide about graphs)"
            )
        size = self.table_bytes
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise ConfigError(
                f"table_bytes is {size!r}: expected a whole number of bytes, 0 or more"
            )

    def linear_on(self, device_type: str) -> LinearMode:
        """Return what compressed layers do on a device."""
        return self.linear or ("kernel" if device_type == "cpu" else "decode")


@dataclass(frozen=True, kw_only=True)
class HeldBytes:
    """Bytes of everything that a runtime keeps in memory, shared tensors counted once.

    Attributes
    ----------
    codes, pools, tables, scopes, scales
        Of compressed layers; ``scopes`` is where each position finds its codewords.
    dense
        Weights that are not compressed (or held decoded), embedders and positions.
    biases
        Of all layers.
    scratch
        Buffers for decoded weights.
    modulation
        The table of modulations made ahead.
    graphs
        Inputs and outputs of CUDA graphs; PyTorch's pool for what lies between is not in it.
    """

    codes: int = 0
    pools: int = 0
    tables: int = 0
    scopes: int = 0
    scales: int = 0
    dense: int = 0
    biases: int = 0
    scratch: int = 0
    modulation: int = 0
    graphs: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return sum(getattr(self, field.name) for field in fields(self))

    @classmethod
    def of(cls, held: Iterable[Held]) -> HeldBytes:
        """Add up tensors by what they are; one that several share counts for the first."""
        sums = {field.name: 0 for field in fields(cls)}
        seen: set[int] = set()
        for part, tensor in held:
            if tensor.data_ptr() not in seen:
                seen.add(tensor.data_ptr())
                sums[part] += tensor.nbytes
        return cls(**sums)
